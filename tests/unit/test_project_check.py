"""What a worker says of the project when it starts."""

import logging
from typing import cast

import pytest

from mqtt_service.adapters.supabase.project import DemandedColumn, Project, ProjectGateway
from mqtt_service.errors import PermanentError, SupabaseUnavailableError
from mqtt_service.project_check import check_project


class FakeProject:
    """A project's answer, after these errors."""

    def __init__(self, project: Project, *errors: Exception) -> None:
        self.project = project
        self.errors = list(errors)

    async def inspect(self) -> Project:
        if self.errors:
            raise self.errors.pop(0)
        return self.project


def gateway(project: Project, *errors: Exception) -> ProjectGateway:
    return cast("ProjectGateway", FakeProject(project, *errors))


async def test_a_column_that_demands_a_value_is_named_with_what_to_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    column = DemandedColumn("devices", "serial", "text", "alter table …;")
    away = SupabaseUnavailableError("away")
    await check_project(gateway(Project([column]), away), "celsius")
    assert "public.devices.serial (text) must have a value" in caplog.text
    assert caplog.text.rstrip().endswith("run: alter table …;")


async def test_words_that_an_enum_lacks_are_named(caplog: pytest.LogCaptureFixture) -> None:
    await check_project(gateway(Project(missing_categories=["Assignment", "ErrorEvent"])), "celsius")
    assert "event_category has no Assignment, ErrorEvent" in caplog.text


@pytest.mark.parametrize(
    ("there", "written", "said"),
    [
        ("fahrenheit", "celsius", True), ("celsius", "fahrenheit", True), ("celsius", "celsius", False),
        (None, "celsius", False),
    ],
)  # fmt: skip
async def test_readings_in_the_other_unit_are_named_with_the_setting(
    caplog: pytest.LogCaptureFixture, there: str | None, written: str, said: bool
) -> None:
    project = Project(temperatures_look_like=there)  # type: ignore[arg-type]
    await check_project(gateway(project), written)  # type: ignore[arg-type]
    assert (f"set TEMPERATURE_UNIT={there}" in caplog.text) == said


async def test_a_database_that_refuses_the_question_costs_a_line_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    await check_project(gateway(Project(), PermanentError("no such function")), "celsius")
    assert "were not looked at: no such function" in caplog.text
