"""What the worker asks about the project when it starts."""

from collections.abc import Iterator

import pytest

from tests.integration.database.existing_project import DEVICE, Project
from tests.integration.database.queue_calls import Row, copied


@pytest.fixture
def project(server_url: str, adopted_template: str) -> Iterator[Project]:
    with copied(server_url, adopted_template) as connection:
        yield Project(connection)


def inspect(project: Project) -> Row:
    answer: Row = project.call("fn_inspect_project")
    return answer


def test_a_project_that_demands_nothing_unknown_has_nothing_to_say(project: Project) -> None:
    assert inspect(project) == {
        "demanded_columns": [], "missing_categories": [], "temperatures_look_like": None,
    }  # fmt: skip


def test_categories_that_the_project_lacks_are_named(project: Project) -> None:
    project.run("alter type event_category rename value 'ProvisioningStep' to 'Step'")
    project.run("alter type event_category rename value 'ErrorEvent' to 'error_event'")
    assert inspect(project)["missing_categories"] == ["ProvisioningStep"]
    project.run("alter table device_history drop column event_category")
    assert inspect(project)["missing_categories"] == []


@pytest.mark.parametrize(
    ("data_type", "default"),
    [
        ("text", "''"), ("integer", "0"), ("boolean", "false"), ("timestamptz", "now()"), ("jsonb", "'{}'"),
        ("event_severity", "'info'"), ("volts", "0"), ("uuid", None),
    ],
)  # fmt: skip
def test_a_column_that_demands_a_value_is_named_with_a_default_that_the_table_takes(
    project: Project, data_type: str, default: str | None
) -> None:
    project.run(f"alter table device_telemetry add column theirs {data_type} not null")
    [column] = inspect(project)["demanded_columns"]
    assert (column["table"], column["column"]) == ("device_telemetry", "theirs")
    change = "drop not null" if default is None else f"set default {default}"
    assert column["remedy"] == f"alter table public.device_telemetry alter column theirs {change};"
    project.run(column["remedy"])
    assert inspect(project)["demanded_columns"] == []
    project.connection.execute(
        "insert into public.device_telemetry (device_id, captured_at) values (%s, now())", (DEVICE,)
    )


@pytest.mark.parametrize(
    ("temperature", "rows", "unit"),
    [(72, 20, "fahrenheit"), (25, 20, "celsius"), (45, 20, None), (72, 19, None)],
)
def test_the_unit_of_the_readings_is_told_by_their_median(
    project: Project, temperature: int, rows: int, unit: str | None
) -> None:
    project.connection.execute(
        "insert into public.device_telemetry (device_id, captured_at, temperature)"
        " select %s, now(), %s from generate_series(1, %s)",
        (DEVICE, temperature, rows),
    )
    assert inspect(project)["temperatures_look_like"] == unit
