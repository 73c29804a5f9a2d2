"""SQL that writes: insert, upsert, update and delete, and the form of the JSON bodies they take."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql

from mqtt_service.devstack.rest.clauses import (
    NOTHING,
    Sql,
    exposed,
    filter_sql,
    literal,
    qualified,
    where_sql,
)
from mqtt_service.devstack.rest.errors import bad_body, no_column, no_where
from mqtt_service.devstack.rest.plan import Plan
from mqtt_service.devstack.rest.read_sql import answer_statement, body_sql
from mqtt_service.devstack.rest.request import Column, Field, Preferences, Query, Shape
from mqtt_service.devstack.rest.schema import Table, TableColumn

_BODY = sql.Identifier("pgrst_body")


@dataclass(frozen=True)
class Payload:
    """A JSON body as it came, whether it is one object or an array of them, and the keys they share."""

    text: str
    is_object: bool
    keys: tuple[str, ...]


def parse_payload(raw: bytes, columns: Sequence[str] | None) -> Payload:
    """Return the body of a write; `columns` (the query parameter) stands in for the keys.

    Raises ApiError (PGRST102) where it is no JSON, or where its objects differ in their keys.
    """
    try:
        text = raw.decode()
        value = json.loads(text)
    except ValueError as error:
        raise bad_body("Empty or invalid json") from error
    if isinstance(value, dict):
        return Payload(text, is_object=True, keys=tuple(columns or value))
    if not isinstance(value, list):
        return Payload("[]", is_object=False, keys=())
    if columns is not None:
        return Payload(text, is_object=False, keys=tuple(columns))
    return Payload(text, is_object=False, keys=_shared_keys(value))


def write_statement(
    method: str,
    table: Table,
    plan: Plan,
    query: Query,
    preferences: Preferences,
    shape: Shape,
    payload: Payload | None,
) -> sql.Composed:
    """Return the statement for POST, PATCH or DELETE on `table`; `plan` reads the rows that come back.

    Raises ApiError: PGRST204 for an unknown column, 21000 for a change without a filter.
    """
    returned, body = _returned(table, plan, preferences, shape)
    returning = _returning(table, returned)
    if method == "POST":
        source = _insert(table, _required(payload), query, preferences)
    elif method == "PATCH":
        source = _update(table, _required(payload), plan, preferences)
    else:
        source = _delete(table, plan)
    return answer_statement(source + returning, returned, body)


def _returned(table: Table, plan: Plan, preferences: Preferences, shape: Shape) -> tuple[Plan | None, Sql]:
    """Return what to read of the rows written, and the body to make of it."""
    if preferences.returning == "representation":
        return replace(plan, filters=()), body_sql(shape)
    if preferences.returning == "headers-only" and table.primary_key:
        key = tuple(Column(Field(name)) for name in table.primary_key)
        return replace(plan, filters=(), columns=key, embeds=(), orders=()), body_sql(Shape())
    return None, sql.SQL("''")


def _insert(table: Table, payload: Payload, query: Query, preferences: Preferences) -> Sql:
    columns = _columns(table, payload)
    names = [sql.Identifier(column.name) for column in columns]
    target = sql.SQL(" ({})").format(sql.SQL(", ").join(names)) if names else NOTHING
    chosen = sql.SQL(", ").join(qualified(_BODY, column.name) for column in columns)
    merges = preferences.resolution == "merge-duplicates"
    counted = sql.SQL(" where {}").format(_count_inserted("+", "0")) if merges else NOTHING
    return sql.SQL("insert into {}{} select {} from {}{}{}").format(
        exposed(table.name),
        target,
        chosen,
        _records(payload, columns, with_defaults=preferences.missing == "default"),
        counted,
        _on_conflict(table, columns, query, preferences),
    )


def _on_conflict(table: Table, columns: Sequence[TableColumn], query: Query, preferences: Preferences) -> Sql:
    keys = query.on_conflict or table.primary_key
    if preferences.resolution is None or not keys:
        return NOTHING
    on = sql.SQL(" on conflict ({}) do ").format(sql.SQL(", ").join(map(sql.Identifier, keys)))
    if preferences.resolution == "ignore-duplicates" or not columns:
        return on + sql.SQL("nothing")
    changes = [
        sql.SQL("{} = excluded.{}").format(sql.Identifier(column.name), sql.Identifier(column.name))
        for column in columns
    ]
    return on + sql.SQL("update set {} where {}").format(
        sql.SQL(", ").join(changes), _count_inserted("-", "-1")
    )


def _count_inserted(sign: str, never: str) -> Sql:
    """Return a condition that is always true and keeps count of the rows that an upsert adds."""
    return sql.SQL(
        "set_config('pgrst.inserted', "
        "(coalesce(nullif(current_setting('pgrst.inserted', true), '')::int, 0) {} 1)::text, true) <> {}"
    ).format(sql.SQL(sign), sql.Literal(never))


def _update(table: Table, payload: Payload, plan: Plan, preferences: Preferences) -> Sql:
    columns = _columns(table, payload)
    target = exposed(table.name)
    if not columns:
        return sql.SQL("select * from {} where false").format(target)
    if not plan.filters:
        raise no_where("UPDATE")
    changes = [
        sql.SQL("{} = {}").format(sql.Identifier(column.name), qualified(_BODY, column.name))
        for column in columns
    ]
    return sql.SQL("update {} set {} from {}{}").format(
        target,
        sql.SQL(", ").join(changes),
        _records(payload, columns, with_defaults=preferences.missing == "default"),
        _where(target, plan),
    )


def _delete(table: Table, plan: Plan) -> Sql:
    if not plan.filters:
        raise no_where("DELETE")
    target = exposed(table.name)
    return sql.SQL("delete from {}{}").format(target, _where(target, plan))


def _where(target: Sql, plan: Plan) -> Sql:
    return where_sql([filter_sql(target, one, lambda _: None) for one in plan.filters])


def _returning(table: Table, plan: Plan | None) -> Sql:
    if plan is None:
        return sql.SQL(" returning 1")
    names = plan.needed_columns
    columns = [qualified(exposed(table.name), name) for name in names]
    return sql.SQL(" returning {}").format(sql.SQL(", ").join(columns) if columns else sql.SQL("1"))


def _records(payload: Payload, columns: Sequence[TableColumn], *, with_defaults: bool) -> Sql:
    """Return a from clause that turns the body into rows, named pgrst_body, of the columns' types."""
    document: Sql = literal(payload.text)
    if with_defaults:
        document = _with_defaults(document, columns, is_object=payload.is_object)
    if not columns:
        values = sql.SQL("(values (1))" if payload.is_object else "json_array_elements({}::json)")
        return sql.Composed([values.format(document), sql.SQL(" as pgrst_body")])
    typed = [sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type)) for column in columns]
    function = sql.SQL("json_to_record" if payload.is_object else "json_to_recordset")
    return sql.SQL("{}({}::json) as pgrst_body({})").format(function, document, sql.SQL(", ").join(typed))


def _with_defaults(document: Sql, columns: Sequence[TableColumn], *, is_object: bool) -> Sql:
    """Return the body with each missing key set to its column's default, worked out row by row."""
    defaults = [
        sql.SQL("{}, {}").format(sql.Literal(column.name), sql.SQL(column.default))
        for column in columns
        if column.default is not None
    ]
    default = sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(defaults))
    if is_object:
        return sql.SQL("({} || {}::jsonb)").format(default, document)
    elements = sql.SQL("jsonb_array_elements({}::jsonb) as element").format(document)
    return sql.SQL("(select jsonb_agg({} || element) from {})").format(default, elements)


def _columns(table: Table, payload: Payload) -> list[TableColumn]:
    for key in payload.keys:
        if key not in table.columns:
            raise no_column(table.name, key)
    return [table.columns[key] for key in payload.keys]


def _shared_keys(values: list[Any]) -> tuple[str, ...]:
    if not values:
        return ()
    if not all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        raise bad_body("All object keys must match")
    return tuple(values[0])


def _required(payload: Payload | None) -> Payload:
    if payload is None:
        raise bad_body("Empty or invalid json")
    return payload
