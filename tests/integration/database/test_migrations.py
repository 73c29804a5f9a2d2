"""Migrations can be applied twice, to a project of any default grants, and leave no way in for strangers."""

import psycopg
import pytest

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.catalog import grants, structure
from tests.integration.database.conftest import SUPABASE

MIGRATIONS = sorted((SUPABASE / "migrations").glob("*.sql"))

OLD_DEFAULT_PRIVILEGES = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant execute on functions to anon, authenticated, service_role;
"""


def apply(connection: psycopg.Connection) -> None:
    for file in MIGRATIONS:
        with connection.transaction():
            connection.execute(file.read_bytes())


def test_a_second_application_changes_nothing(database: psycopg.Connection) -> None:
    before = structure(database), grants(database)
    apply(database)
    assert (structure(database), grants(database)) == before


def test_each_migration_can_be_applied_again_on_its_own(database: psycopg.Connection) -> None:
    before = structure(database), grants(database)
    for file in reversed(MIGRATIONS):
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


def test_a_status_that_is_an_enum_is_refused_with_what_to_do(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute("create type public.command_status as enum ('pending', 'sent')")
        connection.execute(
            "create table public.device_commands (command_id uuid primary key, status public.command_status)"
        )
        with pytest.raises(psycopg.errors.DatatypeMismatch) as refused:
            apply(connection)
    assert "type text using status::text" in str(refused.value.diag.message_hint)
