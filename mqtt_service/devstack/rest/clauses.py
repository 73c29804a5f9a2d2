"""SQL of the small parts of a request: fields, filters, orders, windows. Composed, never pasted together.

Values become literals of no stated type, so that Postgres takes the type of what they are compared with.
"""

from collections.abc import Callable, Sequence

from psycopg import sql

from mqtt_service.devstack.rest.request import Column, Condition, Field, Filter, Group, Order, Window
from mqtt_service.devstack.rest.schema import EXPOSED

Sql = sql.Composable

NOTHING = sql.SQL("")

_OPERATORS = {
    "eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=",
    "like": "like", "ilike": "ilike", "match": "~", "imatch": "~*",
    "cs": "@>", "cd": "<@", "ov": "&&", "sl": "<<", "sr": ">>", "nxr": "&<", "nxl": "&>", "adj": "-|-",
    "isdistinct": "is distinct from",
}  # fmt: skip


def exposed(name: str) -> sql.Identifier:
    """Return a table or function of the exposed schema."""
    return sql.Identifier(EXPOSED, name)


def literal(value: str) -> Sql:
    """Return a text as a literal; Postgres knows no NUL, so that is left out."""
    return sql.Literal(value.replace("\0", ""))


def qualified(source: Sql, name: str) -> Sql:
    """Return a column of `source`, or all of them for `*`."""
    return sql.SQL("{}.{}").format(source, sql.SQL("*") if name == "*" else sql.Identifier(name))


def field_sql(source: Sql, field: Field) -> Sql:
    """Return a column, or a place in its document."""
    column = qualified(source, field.name)
    if not field.steps:
        return column
    steps = [
        sql.SQL("->>" if step.as_text else "->")
        + (sql.Literal(step.key) if isinstance(step.key, int) else literal(step.key))
        for step in field.steps
    ]
    return sql.SQL("to_jsonb({})").format(column) + sql.Composed(steps)


def column_sql(source: Sql, column: Column) -> Sql:
    """Return one item of a select list, under the name that the result gives it."""
    if column.field.name == "*":
        return qualified(source, "*")
    value = field_sql(source, column.field)
    if column.cast is not None:
        # A type's name cannot be quoted ("timestamp with time zone"); the grammar lets only words through.
        value = sql.SQL("cast({} as {})").format(value, sql.SQL(column.cast))
    return sql.SQL("{} as {}").format(value, sql.Identifier(column.alias or column.field.output_name))


def filter_sql(source: Sql, one: Filter, embed_alias: Callable[[str], str | None]) -> Sql:
    """Return a condition; `embed_alias` tells the SQL name of an embedded resource, for `is null` on it."""
    if isinstance(one, Group):
        members = [filter_sql(source, member, embed_alias) for member in one.members]
        return _negate(
            sql.SQL("({})").format(sql.SQL(f" {one.operator} ").join(members)), negated=one.negated
        )
    alias = embed_alias(one.field.name)
    if alias is not None:
        missing = (one.value == "null") != one.negated
        return sql.SQL("{} is {}distinct from null").format(
            sql.Identifier(alias), sql.SQL("not " if missing else "")
        )
    return _negate(_compare(field_sql(source, one.field), one), negated=one.negated)


def where_sql(conditions: Sequence[Sql]) -> Sql:
    """Return the where clause, or nothing."""
    return sql.SQL(" where ") + sql.SQL(" and ").join(conditions) if conditions else NOTHING


def order_sql(source: Sql, orders: Sequence[Order], embed_alias: Callable[[str], str | None]) -> Sql:
    """Return the order by clause, or nothing."""
    terms = []
    for order in orders:
        alias = embed_alias(order.relation) if order.relation else None
        value = field_sql(sql.Identifier(alias) if alias else source, order.field)
        nulls = {None: "", "nullsfirst": " nulls first", "nullslast": " nulls last"}[order.nulls]
        terms.append(value + sql.SQL(f" {order.direction or ''}{nulls}"))
    return sql.SQL(" order by ") + sql.SQL(", ").join(terms) if terms else NOTHING


def window_sql(window: Window) -> Sql:
    """Return the limit and offset clauses, or nothing."""
    limit = NOTHING if window.limit is None else sql.SQL(" limit {}").format(sql.Literal(window.limit))
    offset = sql.SQL(" offset {}").format(sql.Literal(window.offset)) if window.offset else NOTHING
    return limit + offset


def _compare(field: Sql, one: Condition) -> Sql:
    if isinstance(one.value, tuple):
        return sql.SQL("{} = any ({})").format(field, literal(_array(one.value)))
    if one.operator == "is":
        return sql.SQL("{} is {}").format(field, sql.SQL(one.value.replace("_", " ")))
    value = one.value.replace("*", "%") if one.operator in {"like", "ilike"} else one.value
    operand = literal(value)
    if one.quantifier is not None:
        operand = sql.SQL("{} ({})").format(sql.SQL(one.quantifier), operand)
    return sql.SQL("{} {} {}").format(field, sql.SQL(_OPERATORS[one.operator]), operand)


def _negate(condition: Sql, *, negated: bool) -> Sql:
    return sql.SQL("not ({})").format(condition) if negated else condition


def _array(values: Sequence[str]) -> str:
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return "{" + ",".join(quoted) + "}"


def limited(query: Sql, most: int) -> Sql:
    """Return the query with at most so many rows."""
    return query + sql.SQL(" limit {}").format(sql.Literal(most))
