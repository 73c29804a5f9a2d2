"""What a worker says of the project when it starts."""

import logging
from typing import cast

import pytest

from mqtt_service.adapters.supabase.examination import ExaminationGateway
from mqtt_service.adapters.supabase.project import DemandedColumn, Project, ProjectGateway
from mqtt_service.errors import MigrationMissingError, PermanentError, SupabaseUnavailableError
from mqtt_service.migrations import Migration
from mqtt_service.project_check import check_project, check_schema


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


FILES = [Migration(f"{number}_mqtt_service_x.sql", "") for number in range(10, 20)]


class FakeDatabase:
    """A database of this version, after these errors."""

    def __init__(self, version: str, *errors: Exception) -> None:
        self.version = version
        self.errors = list(errors)

    async def schema_version(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return self.version


async def said_of_schema(version: str, *errors: Exception) -> None:
    await check_schema(cast("ExaminationGateway", FakeDatabase(version, *errors)), FILES)


@pytest.mark.parametrize(
    ("version", "level", "said"),
    [
        ("17", "ERROR", "(17) is older than this worker, so some of its work will fail; apply 18_mqtt_ser"),
        ("10", "ERROR", "(10) is older than this worker, so some of its work will fail; apply the migr"),
        ("20", "WARNING", "(20) is newer than this worker"),
    ],
)  # fmt: skip
async def test_a_schema_of_another_version_is_said_with_what_to_do(
    caplog: pytest.LogCaptureFixture, version: str, level: str, said: str
) -> None:
    await said_of_schema(version, SupabaseUnavailableError("away"))
    [record] = caplog.records
    assert record.levelname == level
    assert said in record.message


async def test_a_schema_from_before_it_had_a_version_is_older(caplog: pytest.LogCaptureFixture) -> None:
    await said_of_schema("", MigrationMissingError("no such function"))
    assert "(of an earlier release) is older" in caplog.text
    assert "mqtt-service migrations prints all as one script" in caplog.text


async def test_nothing_is_said_of_the_right_schema(caplog: pytest.LogCaptureFixture) -> None:
    await said_of_schema("19")
    assert not caplog.records


async def test_a_schema_that_may_not_be_asked_for_costs_a_line(caplog: pytest.LogCaptureFixture) -> None:
    await said_of_schema("", PermanentError("forbidden"))
    assert "is not known: forbidden" in caplog.text
