"""From a request and the schema to the operation: where reads, writes and calls of functions meet."""

import json
from collections.abc import Callable

from mqtt_service.devstack.rest.call_sql import Arguments, call_statement, choose_function
from mqtt_service.devstack.rest.clauses import Sql, limited
from mqtt_service.devstack.rest.database import Operation, Result
from mqtt_service.devstack.rest.errors import ApiError, bad_body, no_table, not_single
from mqtt_service.devstack.rest.plan import MAX_ROWS, make_plan
from mqtt_service.devstack.rest.read_sql import count_sql, read_statement, table_sql
from mqtt_service.devstack.rest.request import RestRequest
from mqtt_service.devstack.rest.schema import Schema, Table
from mqtt_service.devstack.rest.write_sql import parse_payload, write_statement


def read_operation(schema: Schema, table: str, request: RestRequest) -> Operation:
    """Return the operation for GET or HEAD on a table. Raises ApiError."""
    plan = make_plan(request.query, schema, _find_table(schema, table).name)
    everything = count_sql(plan, table_sql(plan))
    return Operation(
        statement=read_statement(plan, request.shape, total=_total(request, everything)),
        read_only=True,
        check=_check(request, shows_rows=True),
        estimate=everything if request.preferences.count in {"planned", "estimated"} else None,
        estimate_above=MAX_ROWS if request.preferences.count == "estimated" else -1,
    )


def write_operation(schema: Schema, table: str, request: RestRequest) -> Operation:
    """Return the operation for POST, PATCH or DELETE on a table. Raises ApiError."""
    target = _find_table(schema, table)
    plan = make_plan(request.query, schema, table, max_rows=None)
    payload = None if request.method == "DELETE" else parse_payload(request.body, request.query.columns)
    statement = write_statement(
        request.method, target, plan, request.query, request.preferences, request.shape, payload
    )
    shows_rows = request.preferences.returning == "representation"
    most = None if request.method == "POST" else request.preferences.max_affected
    return Operation(
        statement=statement, read_only=False, check=_check(request, shows_rows=shows_rows, most=most)
    )


def call_operation(schema: Schema, name: str, request: RestRequest) -> Operation:
    """Return the operation for a call; by GET, or of a stable function, it may not write. Raises ApiError."""
    by_post = request.method == "POST"
    arguments = _document_arguments(request) if by_post else _text_arguments(request)
    function = choose_function(schema, name, arguments)
    if request.preferences.max_affected is not None and not function.returns_set:
        message = (
            "Function must return SETOF or TABLE when max-affected preference is used with handling=strict"
        )
        raise ApiError(400, "PGRST128", message)
    plan = make_plan(request.query, schema, function.table)
    counted = request.preferences.count in {"exact", "estimated"}
    return Operation(
        statement=call_statement(function, arguments, plan, request.shape, counted=counted),
        read_only=not (by_post and function.volatile),
        check=_check(request, shows_rows=True, most=request.preferences.max_affected),
    )


def _find_table(schema: Schema, name: str) -> Table:
    if name not in schema.tables:
        raise no_table(name, schema.tables)
    return schema.tables[name]


def _total(request: RestRequest, everything: Sql) -> Sql | None:
    if request.preferences.count == "exact":
        return everything
    if request.preferences.count == "estimated":
        return limited(everything, MAX_ROWS + 1)
    return None


def _check(request: RestRequest, *, shows_rows: bool, most: int | None = None) -> Callable[[Result], None]:
    """Return what refuses a result that is not as the client said it must be."""

    def check(result: Result) -> None:
        if most is not None and result.rows > most:
            raise ApiError(
                400,
                "PGRST124",
                "Query result exceeds max-affected preference constraint",
                details=f"The query affects {result.rows} rows",
            )
        if request.shape.single and shows_rows and result.rows != 1:
            raise not_single(result.rows)

    return check


def _document_arguments(request: RestRequest) -> Arguments:
    text = request.body.decode(errors="replace") or "{}"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise bad_body("Empty or invalid json") from error
    names = request.query.columns or (value if isinstance(value, dict) else ())
    return Arguments(frozenset(names), document=text)


def _text_arguments(request: RestRequest) -> Arguments:
    return Arguments(frozenset(name for name, _ in request.query.arguments), texts=request.query.arguments)
