"""The `data` of a `postgres_changes` event: what a subscriber is told of a change, as its role may see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mqtt_service.devstack.realtime.json_values import to_json
from mqtt_service.devstack.realtime.pgoutput import Action, Change, Row

Key = tuple[str | None, ...]
"""The primary key of a row, as Postgres writes it, in the order of its columns."""


@dataclass(frozen=True)
class TableColumn:
    """A column as the catalogue has it for one role; `sql_type` is what a value is cast to in SQL."""

    name: str
    type_name: str
    sql_type: str
    in_primary_key: bool
    selectable: bool


@dataclass(frozen=True)
class TableFacts:
    """What a role may see of a table."""

    columns: tuple[TableColumn, ...]
    row_security: bool

    @property
    def primary_key(self) -> tuple[TableColumn, ...]:
        """The columns of the primary key; empty if there is none."""
        return tuple(column for column in self.columns if column.in_primary_key)

    @property
    def types(self) -> Mapping[str, str]:
        """The type name of each column."""
        return {column.name: column.type_name for column in self.columns}

    def refusal(self, action: Action) -> str | None:
        """Return the error that is sent instead of the row, if the role may not see it at all."""
        if action is Action.DELETE:
            return None
        if not self.primary_key:
            return "Error 400: Bad Request, no primary key"
        if not all(column.selectable for column in self.primary_key):
            return "Error 401: Unauthorized"
        return None


def key_of(row: Row, facts: TableFacts) -> Key:
    """Return the primary key's values in `row`, in the order of the columns."""
    return tuple(row.get(column.name) for column in facts.primary_key)


def change_data(change: Change, facts: TableFacts, select: frozenset[str] | None) -> dict[str, Any]:
    """Return the `data` of an event as a role may see it: columns it may not select are left out.

    The old record holds the primary key; all of the old row only if Postgres wrote it (replica identity
    full) and the table has no row-level security.
    """
    shown = [
        column
        for column in facts.columns
        if column.selectable and (select is None or column.name in select or column.in_primary_key)
    ]
    data = _head(change) | {
        "columns": [{"name": column.name, "type": column.type_name} for column in shown],
        "errors": None,
    }
    if change.new is not None:
        data["record"] = _record({**(change.old or {}), **change.new}, shown)
    if change.action is not Action.INSERT:
        whole = not facts.row_security
        old = change.old if change.old is not None else _key_row(change, facts)
        data["old_record"] = _record(old, [c for c in shown if whole or c.in_primary_key])
    return data


def refusal_data(change: Change, reason: str) -> dict[str, Any]:
    """Return the `data` that says why the row itself is not in it."""
    return _head(change) | {"columns": [], "record": {}, "errors": [reason]}


def _head(change: Change) -> dict[str, Any]:
    committed = change.committed_at.isoformat(timespec="milliseconds").removesuffix("+00:00")
    return {
        "schema": change.relation.schema,
        "table": change.relation.table,
        "commit_timestamp": f"{committed}Z",
        "type": str(change.action),
    }


def _key_row(change: Change, facts: TableFacts) -> Row:
    """Return the key that an update left alone, which Postgres therefore did not write."""
    row = change.new or {}
    return {column.name: row.get(column.name) for column in facts.primary_key}


def _record(row: Row, columns: list[TableColumn]) -> dict[str, Any]:
    return {each.name: to_json(row[each.name], each.type_name) for each in columns if each.name in row}
