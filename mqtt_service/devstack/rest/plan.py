"""Match a query with the schema: which relationship each embedded resource means, and what belongs to it.

Pure: a Query and a Schema in, a tree of Plan out, or an ApiError for what does not exist.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mqtt_service.devstack.rest.errors import ApiError, no_relationship, unsatisfiable
from mqtt_service.devstack.rest.request import Column, Condition, Embed, Filter, Order, Path, Query, Window
from mqtt_service.devstack.rest.schema import Relationship, Schema

MAX_ROWS = 1000  # what hosted projects return at most


@dataclass(frozen=True)
class Plan:
    """What to read of one table, and of those embedded in it."""

    table: str | None
    columns: tuple[Column, ...]
    filters: tuple[Filter, ...]
    orders: tuple[Order, ...]
    window: Window
    embeds: "tuple[EmbedPlan, ...]"

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """The columns of the table that the result takes, joins and order included; `*` for all."""
        names = [column.field.name for column in self.columns]
        names += [order.field.name for order in self.orders if order.relation is None]
        names += [name for embed in self.embeds for name in embed.local_columns]
        return ("*",) if "*" in names else tuple(dict.fromkeys(names))

    def find_embed(self, name: str) -> "EmbedPlan | None":
        """Return the embedded resource that the request calls `name`."""
        return next((embed for embed in self.embeds if embed.key == name), None)


@dataclass(frozen=True)
class EmbedPlan:
    """One embedded resource; `alias` is the name of its rows in SQL, `key` its name in the result."""

    key: str
    alias: str
    inner: bool
    relationship: Relationship
    plan: Plan

    @property
    def local_columns(self) -> tuple[str, ...]:
        """The columns of the outer table that join it."""
        junction = self.relationship.junction
        if junction is None:
            return tuple(origin for origin, _ in self.relationship.pairs)
        return tuple(column for _, column in junction.to_origin)


def make_plan(query: Query, schema: Schema, table: str | None, *, max_rows: int | None = MAX_ROWS) -> Plan:
    """Return the plan of a read of `table` (None: rows that are of no table).

    Raises ApiError: PGRST108 for a path to what is not embedded, PGRST200 and PGRST201 for relationships
    that do not or not clearly exist, PGRST103 for a negative limit.
    """
    plan = _Planner(query, schema, max_rows).plan(table, query.select, ())
    known = set(_paths(plan, ()))
    asked = [path for path, _ in query.filters] + list(query.orders) + list(query.windows)
    for path in asked:
        if path not in known:
            raise ApiError(
                400,
                "PGRST108",
                f"'{path[-1]}' is not an embedded resource in this request",
                hint=f"Verify that '{path[-1]}' is included in the 'select' query parameter.",
            )
    return plan


def find_relationship(schema: Schema, origin: str, name: str, hint: str | None) -> Relationship:
    """Return the one relationship that `name!hint` means on `origin`. Raises ApiError."""
    known = schema.relationships.get(origin, ())
    found = [relationship for relationship in known if relationship.answers_to(name, hint)]
    if not found:
        raise no_relationship(origin, name, hint)
    if len(found) > 1:
        raise _ambiguous(origin, name, found)
    return found[0]


class _Planner:
    def __init__(self, query: Query, schema: Schema, max_rows: int | None) -> None:
        self._query = query
        self._schema = schema
        self._max_rows = max_rows
        self._embeds = 0

    def plan(self, table: str | None, items: tuple[Column | Embed, ...], path: Path) -> Plan:
        orders = self._query.orders.get(path, ())
        embeds = tuple(self._embed(table, item, path) for item in items if isinstance(item, Embed))
        plan = Plan(
            table=table,
            columns=tuple(item for item in items if isinstance(item, Column)),
            filters=tuple(one for where, one in self._query.filters if where == path),
            orders=orders,
            window=self._window(path),
            embeds=embeds,
        )
        _check_relations(plan)
        return plan

    def _embed(self, table: str | None, item: Embed, path: Path) -> EmbedPlan:
        relationship = find_relationship(self._schema, table or "", item.name, item.hint)
        self._embeds += 1
        return EmbedPlan(
            key=item.key,
            alias=f"{item.key}_{self._embeds}",
            inner=item.inner,
            relationship=relationship,
            plan=self.plan(relationship.target, item.items, (*path, item.key)),
        )

    def _window(self, path: Path) -> Window:
        window = self._query.windows.get(path, Window())
        if window.limit is not None and window.limit < 0:
            raise unsatisfiable("Limit should be greater than or equal to zero.")
        return window if self._max_rows is None else window.capped(self._max_rows)


def _paths(plan: Plan, path: Path) -> Iterator[Path]:
    yield path
    for embed in plan.embeds:
        yield from _paths(embed.plan, (*path, embed.key))


def _check_relations(plan: Plan) -> None:
    """Refuse filters and orders that no embedded resource can have."""
    for one in plan.filters:
        if not isinstance(one, Condition) or plan.find_embed(one.field.name) is None:
            continue
        if one.operator != "is" or one.value not in {"null", "not_null"}:
            raise ApiError(
                400,
                "PGRST120",
                f"Bad operator on the '{one.field.name}' embedded resource",
                details="Only is null or not is null filters are allowed on embedded resources",
            )
    for order in plan.orders:
        if order.relation is None:
            continue
        embed = plan.find_embed(order.relation)
        if embed is None:
            raise ApiError(400, "PGRST108", f"'{order.relation}' is not an embedded resource in this request")
        if not embed.relationship.to_one:
            raise ApiError(
                400,
                "PGRST118",
                f"A related order on '{order.relation}' is not possible",
                details=f"'{plan.table}' and '{order.relation}' do not form a many-to-one "
                "or one-to-one relationship",
            )


def _ambiguous(origin: str, name: str, found: list[Relationship]) -> ApiError:
    hints = ", ".join(f"'{relationship.target}!{_hint(relationship)}'" for relationship in found)
    return ApiError(
        300,
        "PGRST201",
        f"Could not embed because more than one relationship was found for '{origin}' and '{name}'",
        details=[
            {
                "cardinality": _cardinality(relationship),
                "embedding": f"{relationship.origin} with {relationship.target}",
                "relationship": _hint(relationship),
            }
            for relationship in found
        ],
        hint=f"Try changing '{name}' to one of the following: {hints}. "
        "Find the desired relationship in the 'details' key.",
    )


def _hint(relationship: Relationship) -> str:
    return relationship.junction.table if relationship.junction else relationship.constraint


def _cardinality(relationship: Relationship) -> str:
    if relationship.junction:
        return "many-to-many"
    if not relationship.to_one:
        return "one-to-many"
    return "many-to-one" if relationship.is_forward else "one-to-one"
