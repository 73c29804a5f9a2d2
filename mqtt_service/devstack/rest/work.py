"""From a request and the schema to the work to be done: the one place where reads, writes and calls meet."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from mqtt_service.devstack.rest.call import Arguments, call_statement, choose_function
from mqtt_service.devstack.rest.errors import ApiError, bad_body, no_table, not_single
from mqtt_service.devstack.rest.plan import MAX_ROWS, make_plan
from mqtt_service.devstack.rest.read import count_sql, read_statement, table_sql
from mqtt_service.devstack.rest.request import Preferences, Query, Shape, Window
from mqtt_service.devstack.rest.schema import Schema, Table
from mqtt_service.devstack.rest.sql import Sql, limited
from mqtt_service.devstack.rest.transaction import Result, Work
from mqtt_service.devstack.rest.write import parse_payload, write_statement


@dataclass(frozen=True)
class Wish:
    """What a request wants, whatever the schema is."""

    method: str
    query: Query
    preferences: Preferences
    shape: Shape
    body: bytes

    @property
    def window(self) -> Window:
        """Which rows of the result are wanted."""
        return self.query.windows.get((), Window())


def plan_read(schema: Schema, table: str, wish: Wish) -> Work:
    """Return the work of GET or HEAD on a table. Raises ApiError."""
    plan = make_plan(wish.query, schema, _find_table(schema, table).name)
    everything = count_sql(plan, table_sql(plan))
    return Work(
        statement=read_statement(plan, wish.shape, total=_total(wish, everything)),
        read_only=True,
        check=_check(wish, shows_rows=True),
        estimate=everything if wish.preferences.count in {"planned", "estimated"} else None,
        estimate_above=MAX_ROWS if wish.preferences.count == "estimated" else -1,
    )


def plan_write(schema: Schema, table: str, wish: Wish) -> Work:
    """Return the work of POST, PATCH or DELETE on a table. Raises ApiError."""
    target = _find_table(schema, table)
    plan = make_plan(wish.query, schema, table, max_rows=None)
    payload = None if wish.method == "DELETE" else parse_payload(wish.body, wish.query.columns)
    statement = write_statement(wish.method, target, plan, wish.query, wish.preferences, wish.shape, payload)
    shows_rows = wish.preferences.returning == "representation"
    most = None if wish.method == "POST" else wish.preferences.max_affected
    return Work(statement=statement, read_only=False, check=_check(wish, shows_rows=shows_rows, most=most))


def plan_call(schema: Schema, name: str, wish: Wish) -> Work:
    """Return the work of a call; by GET, and for stable functions, it may not write. Raises ApiError."""
    by_post = wish.method == "POST"
    arguments = _document_arguments(wish) if by_post else _text_arguments(wish)
    function = choose_function(schema, name, arguments)
    if wish.preferences.max_affected is not None and not function.returns_set:
        message = (
            "Function must return SETOF or TABLE when max-affected preference is used with handling=strict"
        )
        raise ApiError(400, "PGRST128", message)
    plan = make_plan(wish.query, schema, function.table)
    counted = wish.preferences.count in {"exact", "estimated"}
    return Work(
        statement=call_statement(function, arguments, plan, wish.shape, counted=counted),
        read_only=not (by_post and function.volatile),
        check=_check(wish, shows_rows=True, most=wish.preferences.max_affected),
    )


def _find_table(schema: Schema, name: str) -> Table:
    if name not in schema.tables:
        raise no_table(name, schema.tables)
    return schema.tables[name]


def _total(wish: Wish, everything: Sql) -> Sql | None:
    if wish.preferences.count == "exact":
        return everything
    if wish.preferences.count == "estimated":
        return limited(everything, MAX_ROWS + 1)
    return None


def _check(wish: Wish, *, shows_rows: bool, most: int | None = None) -> Callable[[Result], None]:
    """Return what refuses a result that is not as the client said it must be."""

    def check(result: Result) -> None:
        if most is not None and result.rows > most:
            raise ApiError(
                400,
                "PGRST124",
                "Query result exceeds max-affected preference constraint",
                details=f"The query affects {result.rows} rows",
            )
        if wish.shape.single and shows_rows and result.rows != 1:
            raise not_single(result.rows)

    return check


def _document_arguments(wish: Wish) -> Arguments:
    text = wish.body.decode(errors="replace") or "{}"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise bad_body("Empty or invalid json") from error
    names = wish.query.columns or (value if isinstance(value, dict) else ())
    return Arguments(frozenset(names), document=text)


def _text_arguments(wish: Wish) -> Arguments:
    return Arguments(frozenset(name for name, _ in wish.query.arguments), texts=wish.query.arguments)
