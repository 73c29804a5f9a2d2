"""What a database holds, as sets that a test can compare before and after a migration."""

from typing import Any

import psycopg

Facts = set[tuple[Any, ...]]

_STRUCTURE = """
select 'table', c.relname::text, c.relkind::text || c.relrowsecurity || c.relforcerowsecurity
from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'S')
union all
select 'column', a.attrelid::regclass || '.' || a.attname,
  format_type(a.atttypid, a.atttypmod) || a.attnotnull
  || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
from pg_attribute a join pg_class c on c.oid = a.attrelid and c.relkind = 'r'
left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
where c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped
union all
select 'constraint', conrelid::regclass || '.' || conname,
  case when contype = 'c' then '' else pg_get_constraintdef(oid) end
from pg_constraint where connamespace = 'public'::regnamespace
union all
select 'index', indexname, indexdef from pg_indexes where schemaname = 'public'
union all
select 'policy', tablename || '.' || policyname,
  concat_ws(' ', permissive, roles::text, cmd, qual, with_check)
from pg_policies where schemaname = 'public'
union all
select 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) || tgenabled::text
from pg_trigger where not tgisinternal
union all
select 'function', oid::regprocedure::text, pg_get_functiondef(oid)
from pg_proc where pronamespace in (select oid from pg_namespace where nspname in ('public', 'mqtt_private'))
  and prokind = 'f'
union all
select 'published', schemaname || '.' || tablename, pubname::text from pg_publication_tables
"""
_GRANTS = """
select 'grant', c.relname::text, a.grantee::regrole::text || a.privilege_type
from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'S')
union all
select 'column grant', attrelid::regclass || '.' || attname, a.grantee::regrole::text || a.privilege_type
from pg_attribute, aclexplode(attacl) a where attrelid in (
  select oid from pg_class where relnamespace = 'public'::regnamespace)
union all
select 'function grant', p.oid::regprocedure::text, a.grantee::regrole::text || a.privilege_type
from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
where p.pronamespace in (select oid from pg_namespace where nspname in ('public', 'mqtt_private'))
"""

_VIEWS = (
    "select oid::regclass::text from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace"
)


def structure(connection: psycopg.Connection) -> Facts:
    """Tables, columns, constraints (of checks the name alone), indexes, policies, triggers, functions."""
    return set(connection.execute(_STRUCTURE).fetchall())


def grants(connection: psycopg.Connection) -> Facts:
    """Who may do what with tables, columns and functions."""
    return set(connection.execute(_GRANTS).fetchall())


def rows(connection: psycopg.Connection, columns: dict[str, list[str]]) -> dict[str, list[Any]]:
    """The content of these columns of these tables, in a fixed order."""
    return {
        table: connection.execute(
            f"select {', '.join(names)} from public.{table} t order by to_jsonb(t) ->> '{names[0]}'"
        ).fetchall()
        for table, names in columns.items()
    }


def columns_of(connection: psycopg.Connection) -> dict[str, list[str]]:
    """The columns of every table in public."""
    found: dict[str, list[str]] = {}
    for table, column in connection.execute(
        "select table_name::text, column_name::text from information_schema.columns"
        " where table_schema = 'public' order by table_name, ordinal_position"
    ):
        found.setdefault(table, []).append(column)
    return found


def drop_views(connection: psycopg.Connection) -> None:
    """As docs/commands.md says before a column of a table changes its type."""
    for (view,) in connection.execute(_VIEWS).fetchall():
        connection.execute(f"drop view if exists {view} cascade")
