"""What a channel asks to hear of: the entries of `config.postgres_changes` in its join. Pure."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mqtt_service.devstack.realtime.filters import Filter, admits_all, parse_filters
from mqtt_service.devstack.realtime.pgoutput import Action, Change
from mqtt_service.errors import RemoteProtocolError

ANY = "*"
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
class Identity:
    """Whose rights a subscription has: a database role, and all claims of the token as JSON text."""

    role: str
    claims: str

    @classmethod
    def of(cls, claims: Mapping[str, Any]) -> "Identity":
        """Return the identity in the claims of a token."""
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
