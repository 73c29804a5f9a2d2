"""Rows of a project that had the tables before ours, whose columns can be null where ours cannot."""

from dataclasses import fields
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.fleet_rows import CommandRow, EventRow, ImageRow
from mqtt_service.adapters.supabase.tables import START_OF_TIME
from mqtt_service.fleet.times import local

IDS = {"command_id", "device_id", "image_id", "history_id"}


@pytest.mark.parametrize("kind", [CommandRow, EventRow, ImageRow])
def test_a_row_of_nulls_is_read_and_is_older_than_all_others(
    kind: type[CommandRow | EventRow | ImageRow],
) -> None:
    """tests/fixtures/adopted_schema.sql has such a command."""
    row = {field.name: str(UUID(int=1)) if field.name in IDS else None for field in fields(kind)}
    read: CommandRow | EventRow | ImageRow = TypeAdapter(kind).validate_python(row)
    when = read.issued_at if isinstance(read, CommandRow) else read.created_at
    assert when == START_OF_TIME
    assert local(when, UTC) == "never"


def test_times_are_read_as_ever() -> None:
    row = {field.name: str(UUID(int=1)) if field.name in IDS else None for field in fields(CommandRow)}
    times = {"issued_at": "2026-03-01T12:00:00+02:00", "expires_at": "infinity"}
    command = TypeAdapter(CommandRow).validate_python({**row, **times})
    assert command.issued_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert command.expires_at == datetime.max.replace(tzinfo=UTC)
    assert command.scheduled_for is None
