"""What a channel asks to hear of, and what it is told: pure.

`parse_binding` reads one entry of a join's `config.postgres_changes`; `change_data` writes the `data` of a
`postgres_changes` event.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mqtt_service.devstack.realtime.filters import Filter, admits_all, parse_filters
from mqtt_service.devstack.realtime.pgoutput import Action, Change, Row
from mqtt_service.devstack.realtime.values import to_json
from mqtt_service.errors import RemoteProtocolError

ANY = "*"
Key = tuple[str | None, ...]
"""The primary key of a row, as Postgres writes it, in the order of its columns."""

_ID_BITS = 27  # the range of Erlang's phash2, with which the real service makes ids


class BindingError(RemoteProtocolError):
    """An entry of `postgres_changes` that names nothing to listen to; the message is for the subscriber."""


@dataclass(frozen=True)
class Binding:
    """One subscription of a channel; `event`, `schema` and `table` may be `*`.

    `select` names the columns to send (primary keys come along), or is None for all.
    """

    id: int
    event: str
    schema: str
    table: str
    filters: tuple[Filter, ...] = ()
    select: frozenset[str] | None = None

    def covers(self, schema: str, table: str) -> bool:
        """Return whether changes of this table are asked for."""
        return self.schema in {ANY, schema} and self.table in {ANY, table}

    def wants(self, change: Change, types: Mapping[str, str]) -> bool:
        """Return whether this change is asked for; `types` gives the type name of each column."""
        if not self.covers(change.relation.schema, change.relation.table):
            return False
        if self.event not in {ANY, change.action}:
            return False
        row = change.old if change.action is Action.DELETE else change.new
        return admits_all(self.filters, row or {}, types)


@dataclass(frozen=True)
class Grant:
    """Whom a subscription speaks for: a database role, and all claims of the token as JSON text."""

    role: str
    claims: str

    @classmethod
    def of(cls, claims: Mapping[str, Any]) -> "Grant":
        """Return the grant of a token that claims these."""
        return cls(str(claims.get("role", "anon")), json.dumps(claims, sort_keys=True))


class Subscriber(Protocol):
    """A channel that asked for changes. Its methods neither block nor raise."""

    @property
    def bindings(self) -> Sequence[Binding]:
        """What it asks for."""

    @property
    def claims(self) -> Mapping[str, Any]:
        """What its token claims."""

    def confirm(self) -> None:
        """Take note that changes flow from now on (again, after an interruption)."""

    def refuse(self, reason: str) -> None:
        """Take note that no change will come, and why."""

    def deliver(self, ids: list[int], data: Mapping[str, Any]) -> None:
        """Take one change for the bindings with these ids."""


def binding_id(params: Mapping[str, Any]) -> int:
    """Return the id that equal parameters always have; it is never 0, which a client takes for none."""
    canonical = json.dumps(params, sort_keys=True, separators=(",", ":"))
    return zlib.crc32(canonical.encode()) % (1 << _ID_BITS) or 1


def parse_binding(params: Mapping[str, Any]) -> Binding:
    """Read one entry. Raises BindingError or FilterError."""
    schema, table = params.get("schema"), params.get("table")
    if not isinstance(schema, str) and not isinstance(table, str):
        raise BindingError(
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: "
            f"{json.dumps(params)}"
        )
    event = str(params.get("event", ANY)).upper()
    return Binding(
        id=binding_id(params),
        event=event if event in set(Action) else ANY,
        schema=schema if isinstance(schema, str) else "public",
        table=table if isinstance(table, str) else ANY,
        filters=parse_filters(str(params.get("filter") or "")),
        select=_parse_select(params.get("select"), wildcard=ANY in {schema, table} or table is None),
    )


def _parse_select(value: object, *, wildcard: bool) -> frozenset[str] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise BindingError(
            "Error parsing `select` params: expected a list of column name strings, "
            'e.g. select: ["col1", "col2"]'
        )
    if wildcard:
        raise BindingError(
            "Column selection is not supported for wildcard subscriptions. "
            "Provide an explicit schema and table name."
        )
    return frozenset(str(column) for column in value)


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
    """What decides who hears what about a table, for one role."""

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
        """Return the error that stands in for the row, if the role may not be told of it at all."""
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
