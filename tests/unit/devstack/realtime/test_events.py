"""The `data` of events: what a role may see of a change."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mqtt_service.devstack.realtime.events import TableColumn, TableFacts, change_data
from mqtt_service.devstack.realtime.pgoutput import Action, Change, Column, Relation

NOTES = Relation(1, "public", "notes", (Column("id", 23, in_key=True), Column("body", 25, in_key=False)))
COMMITTED = datetime(2026, 3, 1, 10, 0, 0, 123999, tzinfo=UTC)
ID = TableColumn("id", "int4", "integer", in_primary_key=True, selectable=True)
BODY = TableColumn("body", "text", "text", in_primary_key=False, selectable=True)
HIDDEN = TableColumn("body", "text", "text", in_primary_key=False, selectable=False)


def change(action: Action, new: Any = None, old: Any = None) -> Change:
    return Change(action, NOTES, COMMITTED, new, old)


def test_an_updates_data_is_complete() -> None:
    update = change(Action.UPDATE, {"id": "1", "body": "b"})
    assert change_data(update, TableFacts((ID, BODY), row_security=True), None) == {
        "schema": "public",
        "table": "notes",
        "commit_timestamp": "2026-03-01T10:00:00.123Z",
        "type": "UPDATE",
        "columns": [{"name": "id", "type": "int4"}, {"name": "body", "type": "text"}],
        "record": {"id": 1, "body": "b"},
        "old_record": {"id": 1},
        "errors": None,
    }


def test_row_security_reduces_the_old_row_to_its_key() -> None:
    update = change(Action.UPDATE, {"id": "1", "body": "b"}, {"id": "1", "body": "a"})
    open_to_all = change_data(update, TableFacts((ID, BODY), row_security=False), None)
    assert open_to_all["old_record"] == {"id": 1, "body": "a"}
    secured = change_data(update, TableFacts((ID, BODY), row_security=True), None)
    assert secured["old_record"] == {"id": 1}


def test_columns_that_the_role_may_not_select_are_nowhere() -> None:
    update = change(Action.UPDATE, {"id": "1", "body": "b"}, {"id": "1", "body": "a"})
    data = change_data(update, TableFacts((ID, HIDDEN), row_security=False), None)
    assert (data["record"], data["old_record"]) == ({"id": 1}, {"id": 1})
    assert data["columns"] == [{"name": "id", "type": "int4"}]


def test_a_large_value_left_alone_is_taken_from_the_old_row_if_that_is_there() -> None:
    facts = TableFacts((ID, BODY), row_security=False)
    whole = change(Action.UPDATE, {"id": "1"}, {"id": "1", "body": "long"})
    assert change_data(whole, facts, None)["record"] == {"id": 1, "body": "long"}
    assert change_data(change(Action.UPDATE, {"id": "1"}), facts, None)["record"] == {"id": 1}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ((BODY,), "Error 400: Bad Request, no primary key"),
        ((TableColumn("id", "int4", "integer", True, False), BODY), "Error 401: Unauthorized"),
        ((ID, HIDDEN), None),
    ],
)
def test_without_a_readable_key_a_row_is_not_shown(
    columns: tuple[TableColumn, ...], reason: str | None
) -> None:
    facts = TableFacts(columns, row_security=True)
    assert facts.refusal(Action.INSERT) == reason
    assert facts.refusal(Action.DELETE) is None
