"""The questions that Realtime asks the database: what is published, what a role may see.

Every function takes a connection of the superuser in autocommit, and leaves it as it was.
"""

import logging
from collections.abc import Sequence

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from mqtt_service.devstack.realtime.events import Key, TableColumn, TableFacts
from mqtt_service.devstack.realtime.filters import FilterError
from mqtt_service.devstack.realtime.subscriptions import Binding, Identity

PUBLICATION = "supabase_realtime"

Connection = psycopg.AsyncConnection[TupleRow]

log = logging.getLogger(__name__)

_COLUMNS = """
select c.relrowsecurity, a.attname, t.typname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       coalesce(a.attnum = any (k.conkey), false),
       pg_catalog.has_column_privilege(%(role)s::name, c.oid, a.attnum, 'select')
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid
left join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
where c.oid = %(table)s
order by a.attnum
"""

_PUBLISHED = """
select p.schemaname, p.tablename,
       pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', p.schemaname, p.tablename))::oid
from pg_catalog.pg_publication_tables p
where p.pubname = %s
"""

_IMPERSONATE = """
select pg_catalog.set_config('role', %s, true), pg_catalog.set_config('request.jwt.claims', %s, true)
"""


class SubscriptionRefusedError(FilterError):
    """The database does not take the subscription; the message is what the subscriber is told."""


async def publication_exists(connection: Connection) -> bool:
    """Return whether there is a publication to read at all."""
    cursor = await connection.execute(
        "select 1 from pg_catalog.pg_publication where pubname = %s", (PUBLICATION,)
    )
    return await cursor.fetchone() is not None


async def table_facts(connection: Connection, table_oid: int, role: str) -> TableFacts | None:
    """Return what the role may see of a table, or None if the table is gone."""
    cursor = await connection.execute(_COLUMNS, {"role": role, "table": table_oid})
    rows = await cursor.fetchall()
    if not rows:
        return None
    return TableFacts(tuple(TableColumn(*row[1:]) for row in rows), row_security=rows[0][0])


async def check_binding(connection: Connection, binding: Binding, identity: Identity) -> None:
    """Raise SubscriptionRefusedError unless the role exists, a table is published and the columns fit."""
    shown = f"[event: {binding.event}, schema: {binding.schema}, table: {binding.table}]"
    if not await _role_exists(connection, identity.role):
        raise SubscriptionRefusedError(
            "Unable to subscribe to changes with given parameters. An exception happened so please check "
            f'your connect parameters: {shown}. Exception: role "{identity.role}" does not exist'
        )
    cursor = await connection.execute(_PUBLISHED, (PUBLICATION,))
    published = [row[2] for row in await cursor.fetchall() if binding.covers(row[0], row[1])]
    if not published:
        raise SubscriptionRefusedError(
            "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the "
            f"given connect parameters: {shown}"
        )
    for oid in published:
        facts = await table_facts(connection, oid, identity.role)
        try:
            _check_columns(binding, facts)
        except FilterError as error:
            raise SubscriptionRefusedError(
                "Unable to subscribe to changes with given parameters. An exception happened so please check "
                f"your connect parameters: {shown}. Exception: {error}"
            ) from error


async def visible_keys(
    connection: Connection, identity: Identity, name: sql.Identifier, facts: TableFacts, keys: Sequence[Key]
) -> set[Key]:
    """Return those primary keys whose rows the role may select at this moment.

    A policy or a identity that raises an error hides the rows, and the error is logged.
    """
    try:
        async with connection.transaction():
            await connection.execute(_IMPERSONATE, (identity.role, identity.claims))
            cursor = await connection.execute(
                _visibility_query(name, facts),
                [[key[i] for key in keys] for i in range(len(facts.primary_key))],
            )
            return {tuple(keys[row[0] - 1]) for row in await cursor.fetchall()}
    except psycopg.Error as error:
        if connection.closed:
            raise
        log.warning("%s may not read %s: %s", identity.role, name.as_string(), error)
        return set()


def _visibility_query(name: sql.Identifier, facts: TableFacts) -> sql.Composed:
    """Look each key up on its own, so that the primary key's index serves."""
    columns = [column.name for column in facts.primary_key]
    inputs = sql.SQL(", ").join(sql.SQL("%s::text[]") for _ in columns)
    aliases = sql.SQL(", ").join(sql.Identifier(f"key_{i}") for i in range(len(columns)))
    matches = sql.SQL(" and ").join(
        sql.SQL("t.{column} = k.{alias}::{type}").format(
            column=sql.Identifier(column.name),
            alias=sql.Identifier(f"key_{i}"),
            type=sql.SQL(column.sql_type),  # format_type() quotes what it names
        )
        for i, column in enumerate(facts.primary_key)
    )
    return sql.SQL(
        "select k.place from unnest({inputs}) with ordinality as k ({aliases}, place) "
        "where exists (select from {table} t where {matches})"
    ).format(inputs=inputs, aliases=aliases, table=name, matches=matches)


async def _role_exists(connection: Connection, role: str) -> bool:
    cursor = await connection.execute("select 1 from pg_catalog.pg_roles where rolname = %s", (role,))
    return await cursor.fetchone() is not None


def _check_columns(binding: Binding, facts: TableFacts | None) -> None:
    columns = facts.columns if facts else ()
    selectable = {column.name: column.type_name for column in columns if column.selectable}
    for each in binding.filters:
        if each.column not in selectable:
            raise FilterError(f"invalid column for filter {each.column}")
        each.check(selectable[each.column])
    for name in binding.select or ():
        if name not in selectable:
            raise FilterError(f"invalid column for select {name}")
