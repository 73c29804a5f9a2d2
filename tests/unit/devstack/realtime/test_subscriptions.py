"""What a join asks for."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mqtt_service.devstack.realtime.filters import FilterError
from mqtt_service.devstack.realtime.pgoutput import Action, Change, Column, Relation
from mqtt_service.devstack.realtime.subscriptions import BindingError, binding_id, parse_binding

NOTES = Relation(1, "public", "notes", (Column("id", 23, in_key=True), Column("body", 25, in_key=False)))
COMMITTED = datetime(2026, 3, 1, 10, 0, 0, 123999, tzinfo=UTC)


def change(action: Action, new: Any = None, old: Any = None) -> Change:
    return Change(action, NOTES, COMMITTED, new, old)


def test_equal_parameters_have_equal_ids_whatever_their_order() -> None:
    assert binding_id({"a": 1, "b": 2}) == binding_id({"b": 2, "a": 1})
    assert binding_id({"a": 1}) != binding_id({"a": 2})


def test_the_schema_is_public_and_the_event_any_unless_named() -> None:
    binding = parse_binding({"table": "notes"})
    assert (binding.schema, binding.table, binding.event) == ("public", "notes", "*")
    assert parse_binding({"schema": "other"}).table == "*"
    assert parse_binding({"table": "notes", "event": "insert"}).event == "INSERT"


@pytest.mark.parametrize(
    "params", [{}, {"event": "*"}, {"schema": "*", "select": ["a"]}, {"table": "notes", "select": "a"}]
)
def test_what_names_no_table_or_wrong_columns_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises((BindingError, FilterError)):
        parse_binding(params)


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({"schema": "public"}, True),
        ({"schema": "*", "table": "*"}, True),
        ({"table": "notes", "event": "UPDATE"}, True),
        ({"table": "notes", "event": "DELETE"}, False),
        ({"table": "other"}, False),
        ({"schema": "other", "table": "notes"}, False),
        ({"table": "notes", "filter": "body=eq.b"}, True),
        ({"table": "notes", "filter": "body=eq.a"}, False),
    ],
)
def test_a_binding_wants_its_own_table_event_and_rows(params: dict[str, Any], wanted: bool) -> None:
    update = change(Action.UPDATE, {"id": "1", "body": "b"}, {"id": "1", "body": "a"})
    assert parse_binding(params).wants(update, {"id": "int4", "body": "text"}) is wanted


def test_a_filter_on_a_delete_looks_at_the_old_row() -> None:
    delete = change(Action.DELETE, old={"id": "1"})
    types = {"id": "int4", "body": "text"}
    assert parse_binding({"table": "notes", "filter": "id=eq.1"}).wants(delete, types)
    assert not parse_binding({"table": "notes", "filter": "body=eq.b"}).wants(delete, types)
