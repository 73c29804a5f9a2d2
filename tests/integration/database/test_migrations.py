"""Migrations create each object once, can be applied twice and to any project, and let no stranger in."""

import re
from collections import Counter
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.applying import MIGRATIONS, SUPABASE, apply
from tests.integration.database.catalog import grants, structure
from tests.integration.database.migration_objects import Found, columns_of_new_tables, created_in

# These say each thing once. What has landed is not edited: a later migration replaces what it changes.
FIRST_SET = [file for file in MIGRATIONS if file.stem < "20261127090000"]
LATER = [file for file in MIGRATIONS if file not in FIRST_SET]

OLD_DEFAULT_PRIVILEGES = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant execute on functions to anon, authenticated, service_role;
"""


_CATALOG = """
with ours as (select oid from pg_namespace where nspname in ('public', 'mqtt_private'))
select 'function', oid::regproc || '(' || oidvectortypes(proargtypes) || ')'
from pg_proc where pronamespace in (select oid from ours)
union all
select 'table', oid::regclass::text from pg_class
where relkind = 'r' and relnamespace in (select oid from ours)
union all
select 'column', attrelid::regclass || '.' || attname from pg_attribute
where attnum > 0 and not attisdropped
  and attrelid in (select oid from pg_class where relkind = 'r' and relnamespace in (select oid from ours))
union all
select 'type', oid::regtype::text from pg_type
where typtype = 'c' and typnamespace in (select oid from ours)
  and typrelid in (select oid from pg_class where relkind = 'c')
union all
select 'index', i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indexrelid
where c.relnamespace in (select oid from ours)
  and not exists (select from pg_constraint where conindid = i.indexrelid and contype in ('p', 'u'))
union all
select 'trigger', tgname || ' on ' || tgrelid::regclass from pg_trigger where not tgisinternal
union all
select 'policy', polname || ' on ' || polrelid::regclass from pg_policy
"""


def test_each_object_is_created_in_one_place() -> None:
    assert FIRST_SET
    places: Counter[Found] = Counter(found for file in FIRST_SET for found in created_in(file))
    assert {found: times for found, times in places.items() if times > 1} == {}


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "create or replace function public.f(p_a numeric(5, 2) default 1, out b int) returns int",
            "public.f(numeric(5, 2))",
        ),
        (
            "create function public.f(\n  p_a mqtt_private.claim, p_b uuid[])",
            "public.f(mqtt_private.claim, uuid[])",
        ),
        ("create table public.t (a int)", "public.t"),
        ("call mqtt_private.create_table('public.t', null, $$ a int $$)", "public.t"),
        ("alter table public.t\n  add column a int check (a in (1, 2)), add column b text", "public.t.b"),
        ("create unique index if not exists t_idx on public.t (a)", "t_idx"),
        ("call mqtt_private.add_unique_index(\n  't_idx', 'public.t (a)')", "t_idx"),
        ("create or replace trigger g before insert or update on public.t", "g on public.t"),
        ("create policy p on public.t for select", "p on public.t"),
        ("create type public.t as (a int)", "public.t"),
    ],
)
def test_a_second_place_is_seen(tmp_path: Path, statement: str, found: str) -> None:
    file = tmp_path / "1.sql"
    file.write_text(f"{statement};\n-- {statement};\n")
    assert found in [name for _, name in created_in(file)]
    file.write_text(f"{statement};\n{statement};\n")
    assert [name for _, name in created_in(file)].count(found) == 2


def test_the_place_of_each_object_in_the_database_is_found(database: psycopg.Connection) -> None:
    """Else the test above could pass for want of anything to look at."""
    database.execute("set search_path = ''")
    there = {(kind, _bare(name)) for kind, name in database.execute(_CATALOG).fetchall()}
    found = {(kind, _bare(name)) for file in MIGRATIONS for kind, name in created_in(file)}
    found |= {("column", column) for file in MIGRATIONS for column in columns_of_new_tables(file)}
    assert len(there) > 350
    assert there - found == set()


def _bare(name: str) -> str:
    """The same name for the same object: Postgres writes types in full, and indexes with their schema."""
    name = re.sub(r"timestamp without time zone", "timestamp", name)
    name = re.sub(r"timestamp with time zone", "timestamptz", name)
    name = re.sub(r"\binteger\b", "int", name)
    return re.sub(r"^(?:public|mqtt_private)\.(\w+_(?:idx|key))$", r"\1", name)


def test_the_versions_are_our_own_and_in_the_order_of_the_day() -> None:
    """Other people's migrations have round times: two of one version could not be told apart."""
    assert "device_provisioning_automation" in " ".join(file.stem for file in MIGRATIONS)
    for file in MIGRATIONS:
        version, name = file.stem.split("_", 1)
        assert re.fullmatch("mqtt_service(_[a-z]+)+", name), file.name
        assert datetime.strptime(version, "%Y%m%d%H%M%S").second % 5 != 0, file.name  # noqa: DTZ007 - a name
    assert len({file.stem[:14] for file in MIGRATIONS}) == len(MIGRATIONS)


def test_a_second_application_changes_nothing(database: psycopg.Connection) -> None:
    before = structure(database), grants(database)
    apply(database)
    assert (structure(database), grants(database)) == before


def test_each_migration_can_be_applied_again_on_its_own(database: psycopg.Connection) -> None:
    before = structure(database), grants(database)
    for file in [*reversed(FIRST_SET), *LATER]:
        database.execute(file.read_bytes())
    assert (structure(database), grants(database)) == before


def test_what_a_platform_grants_by_default_makes_no_difference(
    database: psycopg.Connection, empty_database_url: str
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as generous:
        generous.execute(PLATFORM.read_bytes())
        generous.execute(OLD_DEFAULT_PRIVILEGES)
        apply(generous)
        # Full grants to service_role are the platform's affair; what people may do is ours.
        theirs = {fact for fact in grants(generous) if not fact[2].startswith("service_role")}
    assert theirs == {fact for fact in grants(database) if not fact[2].startswith("service_role")}


def test_nothing_of_ours_is_for_anon_or_for_everyone(database: psycopg.Connection) -> None:
    facts = grants(database)
    assert len(facts) > 100
    assert {fact for fact in facts if fact[2].startswith(("anon", "-"))} == set()


def test_the_seed_can_run_again_and_leaves_what_changed_meanwhile(seeded: psycopg.Connection) -> None:
    count = "select (select count(*) from devices), (select count(*) from device_site_assignments)"
    before = seeded.execute(count).fetchone()
    seeded.execute("update device_site_assignments set is_active = false")
    seeded.execute((SUPABASE / "seed.sql").read_bytes())
    assert seeded.execute(count).fetchone() == before
    assert seeded.execute("select count(*) from devices where is_active").fetchone() == (0,)


def test_a_publication_is_created_where_a_project_has_none(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute("drop publication supabase_realtime")
        apply(connection)
        published = connection.execute(
            "select tablename::text from pg_publication_tables where pubname = 'supabase_realtime' order by 1"
        ).fetchall()
    assert published == [("device_commands",), ("devices",)]


def test_a_publication_for_all_tables_is_left_as_it_is(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute("drop publication supabase_realtime")
        connection.execute("create publication supabase_realtime for all tables")
        apply(connection)
        assert connection.execute("select puballtables from pg_publication").fetchone() == (True,)


@pytest.mark.parametrize("table", ["devices", "sites", "device_commands"])
def test_a_table_without_its_key_is_refused_with_what_to_do(empty_database_url: str, table: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute(f"create table public.{table} (id uuid primary key)")
        with pytest.raises(psycopg.errors.UndefinedColumn) as refused:
            apply(connection)
    assert f"table public.{table} was there before" in str(refused.value.diag.message_primary)
    assert "rename column" in str(refused.value.diag.message_hint)


def test_a_status_that_is_an_enum_gets_the_words_that_it_lacks(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute("create type public.command_status as enum ('pending', 'sent')")
        connection.execute(
            "create table public.device_commands (command_id uuid primary key, status public.command_status)"
        )
        apply(connection)
        words = connection.execute("select unnest(enum_range(null::public.command_status))::text").fetchall()
        claimed = connection.execute("select public.fn_claim_commands('w1')").fetchone()
    assert {word for (word,) in words} >= {"pending", "sent", "acknowledged", "failed", "expired"}
    assert claimed is not None


def test_a_status_that_is_a_number_is_refused_with_what_to_do(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute(
            "create table public.device_commands (command_id uuid primary key, status integer)"
        )
        with pytest.raises(psycopg.errors.DatatypeMismatch) as refused:
            apply(connection)
    assert "type text using status::text" in str(refused.value.diag.message_hint)
