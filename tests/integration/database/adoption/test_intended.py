"""What is read from the files is what a fresh database has: so nothing is written down twice."""

import psycopg

from mqtt_service.adoption.columns import plain_default, type_names
from mqtt_service.adoption.intended import Column, read_intended
from mqtt_service.adoption.services import BUCKET, MEDIA_TYPE, PUBLICATION, PUBLISHED
from tests.integration.database.adoption.conftest import FILES

INTENDED = read_intended(FILES)

_COLUMNS = """
select n.nspname || '.' || c.relname, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
  pg_get_expr(d.adbin, d.adrelid)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where n.nspname in ('public', 'mqtt_private') and c.relkind = 'r'
"""
_FUNCTIONS = """
select n.nspname || '.' || p.proname,
  array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, i) order by i),
  p.pronargdefaults::int
from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('public', 'mqtt_private')
"""


def test_the_columns_that_are_read_from_the_files_are_those_of_a_fresh_database(
    database: psycopg.Connection,
) -> None:
    names = type_names(database, INTENDED)
    read = {
        (
            table,
            column.name,
            names[column.type],
            column.required,
            plain_default(column.final_default or column.default),
        )
        for table, columns in INTENDED.tables.items()
        for column in columns.values()
    }
    there = {(*row[:4], plain_default(row[4])) for row in database.execute(_COLUMNS).fetchall()}
    assert read == there


def test_what_the_files_add_to_a_table_that_was_there_is_what_they_add_to_a_fresh_one(
    database: psycopg.Connection,
) -> None:
    """Each definition is tried: the column that it makes has the type and the default that were read."""
    names = type_names(database, INTENDED)
    for table, columns in INTENDED.tables.items():
        for column in columns.values():
            if column.definition is not None:
                assert added(database, table, column) == (names[column.type], plain_default(column.default))


def added(database: psycopg.Connection, table: str, column: Column) -> tuple[str, str]:
    schema, _, name = table.partition(".")
    with database.transaction(force_rollback=True):
        database.execute(f"alter table {table} drop column {column.name} cascade".encode())
        database.execute(f"alter table {table} add column {column.name} {column.definition}".encode())
        row = database.execute(
            _COLUMNS + " and n.nspname = %s and c.relname = %s and a.attname = %s",
            (schema, name, column.name),
        ).fetchone()
    assert row is not None
    return row[2], plain_default(row[4])


def test_the_functions_that_are_read_from_the_files_are_those_of_a_fresh_database(
    database: psycopg.Connection,
) -> None:
    names = type_names(database, INTENDED)
    read = {
        (each.name, tuple(names[kind] for kind in each.types), sum(p.has_default for p in each.parameters))
        for each in INTENDED.functions
    }
    there = {(row[0], tuple(row[1]), row[2]) for row in database.execute(_FUNCTIONS).fetchall()}
    assert read == there


def test_the_words_of_a_column_are_all_that_its_check_lets_through(database: psycopg.Connection) -> None:
    for table, column in (("devices", "provisioning_status"), ("device_commands", "status")):
        words = INTENDED.tables[f"public.{table}"][column].words
        row = database.execute(
            "select pg_get_constraintdef(oid) from pg_constraint where conname = %s",
            (f"{table}_{column}_check",),
        ).fetchone()
        assert row is not None
        assert [word for word in words if f"'{word}'" not in row[0]] == []
        assert row[0].count("'::text") == len(words)


def test_the_tables_and_the_bucket_that_are_looked_for_are_those_that_the_files_set_up(
    database: psycopg.Connection,
) -> None:
    published = database.execute(
        "select schemaname || '.' || tablename from pg_publication_tables where pubname = %s", (PUBLICATION,)
    ).fetchall()
    assert {row[0] for row in published} == set(PUBLISHED)
    buckets = database.execute("select id, allowed_mime_types from storage.buckets order by id").fetchall()
    assert buckets == [(BUCKET, [MEDIA_TYPE]), ("firmware", None)]
