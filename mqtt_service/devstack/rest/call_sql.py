"""SQL that calls a function: which overload the arguments fit, and how its result becomes the answer."""

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from mqtt_service.devstack.rest.clauses import Sql, exposed, literal, qualified
from mqtt_service.devstack.rest.errors import ambiguous_function, no_function
from mqtt_service.devstack.rest.plan import Plan
from mqtt_service.devstack.rest.read_sql import SOURCE, answer_statement, body_sql, count_sql, json_sql
from mqtt_service.devstack.rest.request import Shape
from mqtt_service.devstack.rest.schema import Function, Parameter, Schema

_BODY = sql.Identifier("pgrst_body")


@dataclass(frozen=True)
class Arguments:
    """What a caller gives: a JSON document by POST, or texts by GET."""

    names: frozenset[str]
    document: str | None = None
    texts: tuple[tuple[str, str], ...] = ()


def choose_function(schema: Schema, name: str, arguments: Arguments) -> Function:
    """Return the overload that takes exactly these arguments. Raises ApiError (PGRST202, PGRST203)."""
    overloads = schema.functions.get(name, ())
    fitting = [function for function in overloads if _fits(function, arguments.names)]
    if not fitting and arguments.document is not None:
        fitting = [function for function in overloads if _takes_document(function)]
    if not fitting:
        is_post = arguments.document is not None
        raise no_function(name, list(arguments.names), schema.functions, is_post=is_post)
    if len(fitting) > 1:
        raise ambiguous_function([function.signature for function in fitting])
    return fitting[0]


def call_statement(
    function: Function, arguments: Arguments, plan: Plan, shape: Shape, *, counted: bool
) -> sql.Composed:
    """Return the statement that calls `function` and reads `plan` from its rows.

    The rows are cut after the function has run.
    """
    column = qualified(sql.Identifier("_postgrest_t"), "pgrst_scalar")
    values = sql.SQL("json_agg({})").format(column)
    if function.returns_void:
        # The result is asked for and dropped: Postgres does not call a stable function nobody looks at.
        body: Sql = sql.SQL("left(({})::text, 0)").format(values)
    elif not function.returns_rows:
        first = shape.single or not function.returns_set
        body = json_sql(values, first=first, strip_nulls=shape.strip_nulls)
    else:
        body = body_sql(Shape(shape.single or not function.returns_set, shape.strip_nulls))
    total = count_sql(plan, SOURCE) if counted else None
    return answer_statement(_source(function, arguments), plan, body, total=total)


def _source(function: Function, arguments: Arguments) -> Sql:
    given = [parameter for parameter in function.parameters if parameter.name in arguments.names]
    origin: Sql = sql.SQL("")
    if arguments.document is not None and not _fits(function, arguments.names):
        [parameter] = function.parameters
        passed: Sql = sql.SQL("{}::{}").format(literal(arguments.document), sql.SQL(parameter.type))
    elif arguments.document is not None and given:
        passed = _pass(given, {parameter.name: qualified(_BODY, parameter.name) for parameter in given})
        origin = sql.SQL("{}, lateral ").format(_record(arguments.document, given))
    else:
        passed = _pass(given, _text_values(given, arguments.texts))
    call = sql.SQL("{}({})").format(exposed(function.name), passed)
    if function.returns_rows:
        return sql.SQL("select pgrst_call.* from {}{} as pgrst_call").format(origin, call)
    return sql.SQL("select pgrst_call.pgrst_scalar from {}(select {} as pgrst_scalar) as pgrst_call").format(
        origin, call
    )


def _record(document: str, parameters: list[Parameter]) -> Sql:
    typed = [sql.SQL("{} {}").format(sql.Identifier(one.name), sql.SQL(one.type)) for one in parameters]
    return sql.SQL("json_to_record({}::json) as pgrst_body({})").format(
        literal(document), sql.SQL(", ").join(typed)
    )


def _pass(parameters: list[Parameter], values: dict[str, Sql]) -> Sql:
    named = [
        sql.SQL("{}{} := {}").format(
            sql.SQL("variadic " if one.variadic else ""), sql.Identifier(one.name), values[one.name]
        )
        for one in parameters
    ]
    return sql.SQL(", ").join(named)


def _text_values(parameters: list[Parameter], texts: tuple[tuple[str, str], ...]) -> dict[str, Sql]:
    values: dict[str, Sql] = {}
    for one in parameters:
        given = [text for name, text in texts if name == one.name]
        value: Any = sql.Literal(given) if one.variadic else literal(given[-1])
        values[one.name] = sql.SQL("{}::{}").format(value, sql.SQL(one.type))
    return values


def _fits(function: Function, names: frozenset[str]) -> bool:
    known = {parameter.name for parameter in function.parameters}
    required = {parameter.name for parameter in function.parameters if parameter.required}
    return required <= names <= known


def _takes_document(function: Function) -> bool:
    """Return whether the function's one argument has no name and takes a whole JSON document."""
    if len(function.parameters) != 1:
        return False
    [parameter] = function.parameters
    return not parameter.name and parameter.type in {"json", "jsonb"}
