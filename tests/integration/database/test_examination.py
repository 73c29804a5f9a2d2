"""What the database says of itself to doctor, and the version of its schema."""

import psycopg
import pytest

from mqtt_service.doctor.database import functions_of, triggers_of
from mqtt_service.migrations import read_migrations
from tests.integration.database.queue_calls import Queue, Row, reseeded

FILES = read_migrations()
FUNCTIONS, TRIGGERS = list(functions_of(FILES)), list(triggers_of(FILES))


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(reseeded(shared))


def examine(queue: Queue) -> Row:
    answer: Row = queue.call("fn_examine_project", p_functions=FUNCTIONS, p_triggers=TRIGGERS)
    return answer


def test_the_schemas_version_is_that_of_the_newest_file(queue: Queue) -> None:
    """A new migration replaces mqtt_private.fn_schema_version: see CONTRIBUTING.md."""
    assert queue.call("fn_mqtt_service_schema") == FILES[-1].version
    assert "function mqtt_private.fn_schema_version()" in FILES[-1].text


def test_a_migrated_database_lacks_nothing(queue: Queue) -> None:
    seen = examine(queue)
    assert len(FUNCTIONS) > 20
    assert len(TRIGGERS) > 5
    for what in ("functions", "triggers"):
        assert seen[f"missing_{what}"] == []
    assert (seen["forbidden_functions"], seen["forbidden_tables"]) == ([], [])
    assert (seen["disabled_triggers"], seen["foreign_triggers"], seen["unpublished"]) == ([], [], [])
    assert set(seen["queue"].values()) == {0, None}


def test_triggers_of_the_project_are_named(queue: Queue) -> None:
    queue.connection.execute(
        "create function public.theirs() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger theirs before update on public.devices for each row execute function public.theirs()"
    )
    try:
        assert examine(queue)["foreign_triggers"] == ["devices.theirs"]
    finally:
        queue.connection.execute("drop function public.theirs cascade")


def test_what_waits_for_too_long_is_counted(queue: Queue) -> None:
    device = "(select device_id from public.devices where is_active limit 1)"
    queue.connection.execute(
        "insert into public.device_commands (device_id, command_type)"
        f" select {device}, 'ping' from generate_series(1, 4)"
    )
    queue.connection.execute("set session_replication_role = replica")
    for place, change in enumerate(
        (
            "due_at = now() - interval '3 minutes'",
            "status = 'sent', due_at = null, delivered_at = now() - interval '2 hours'",
            "status = 'failed', due_at = null",
        )
    ):
        queue.connection.execute(
            f"update public.device_commands set {change} where command_id ="
            f" (select command_id from public.device_commands order by command_id offset {place} limit 1)"
        )
    queue.connection.execute(
        "update public.devices set welcome_due = true, is_active = true,"
        f" mapped_at = now() - interval '1 hour' where device_id = {device}"
    )
    queue.connection.execute("set session_replication_role = origin")
    found = examine(queue)["queue"]
    assert found.pop("oldest_overdue") == pytest.approx(180, abs=30)
    assert found == {"overdue": 1, "unanswered": 1, "given_up": 1, "welcomes_due": 1}


def test_an_update_that_changes_nothing_leaves_no_trace(queue: Queue) -> None:
    before = queue.rows("select * from public.devices order by device_id")
    queue.connection.execute("update public.devices set device_id = device_id")
    assert queue.rows("select * from public.devices order by device_id") == before
    queue.connection.execute("update public.devices set device_name = 'another'")
    after = queue.rows("select * from public.devices order by device_id")
    assert all(new["updated_at"] > old["updated_at"] for old, new in zip(before, after, strict=True))
