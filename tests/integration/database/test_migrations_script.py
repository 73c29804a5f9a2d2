"""All migrations as one script: by psql and as one query string, applied whole or not at all."""

import subprocess
from collections.abc import Callable

import psycopg
import pytest

from mqtt_service.migrations import Migration, as_script, read_migrations
from tests.integration.database.catalog import grants, structure
from tests.requirements import find_program, needs

BROKEN = Migration("20990101000000_broken.sql", "create table public.half (n int);\n\nselect nothing;\n")
REFUSED = Migration(
    "20990101000000_refused.sql",
    "do $$ begin raise exception 'no key' using errcode = '42703', detail = 'Why.', hint = 'Add it.'; end $$",
)


def run_in_psql(url: str, script: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """What a person does who pipes the script into psql."""
    psql = find_program("psql")
    assert psql is not None
    return subprocess.run(
        [psql, "--no-psqlrc", *options, url],
        input=script, capture_output=True, text=True, encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip


def run_as_one_query(url: str, script: str) -> None:
    """What the SQL editor does: the text as it is, in one message of the simple protocol."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script.encode())


def apply_in_psql(url: str, script: str) -> None:
    finished = run_in_psql(url, script, "--set=ON_ERROR_STOP=1")
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("apply", [pytest.param(apply_in_psql, marks=needs("psql")), run_as_one_query])
def test_the_script_applies_every_migration_and_can_be_run_again(
    platform_url: str, database: psycopg.Connection, apply: Callable[[str, str], None]
) -> None:
    for _ in range(2):
        apply(platform_url, as_script(read_migrations()))
        with psycopg.connect(platform_url, autocommit=True) as connection:
            assert structure(connection) == structure(database)
            assert grants(connection) == grants(database)


def test_the_script_leaves_no_setting_of_the_session_changed(platform_url: str) -> None:
    settings = "select name, setting from pg_settings order by name"
    with psycopg.connect(platform_url, autocommit=True) as connection:
        connection.execute("load 'plpgsql'")  # which has settings of its own
        before = connection.execute(settings).fetchall()
        connection.execute(as_script(read_migrations()).encode())
        assert connection.execute(settings).fetchall() == before


def test_the_script_leaves_the_history_of_the_official_command_line_alone(platform_url: str) -> None:
    """With a version in it that a folder of migrations lacks, `supabase db push` would refuse that folder."""
    run_as_one_query(platform_url, as_script(read_migrations()))
    with psycopg.connect(platform_url) as connection:
        assert connection.execute("select to_regnamespace('supabase_migrations')").fetchone() == (None,)


def test_the_script_has_the_api_read_the_schema_again(platform_url: str) -> None:
    with psycopg.connect(platform_url, autocommit=True) as connection:
        connection.execute("listen pgrst")
        run_as_one_query(platform_url, as_script(read_migrations()))
        (heard,) = connection.notifies(timeout=10, stop_after=1)
    assert heard.payload == "reload schema"


@needs("psql")
@pytest.mark.parametrize(
    ("options", "status"), [((), 0), (("--set=ON_ERROR_STOP=1",), 3), (("--single-transaction",), 0)]
)
def test_in_psql_an_error_names_its_migration_and_nothing_is_kept(
    platform_url: str, database: psycopg.Connection, options: tuple[str, ...], status: int
) -> None:
    first, *rest = read_migrations()
    finished = run_in_psql(platform_url, as_script([first, BROKEN, *rest]), *options)
    assert finished.returncode == status
    (error,) = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
    assert error == 'ERROR:  20990101000000_broken.sql: column "nothing" does not exist'
    assert "Nothing of the script was applied." in finished.stderr
    assert_nothing_is_left(platform_url)


def test_as_one_query_an_error_names_its_migration_and_nothing_is_kept(platform_url: str) -> None:
    first, *rest = read_migrations()
    with pytest.raises(psycopg.errors.UndefinedColumn) as refused:
        run_as_one_query(platform_url, as_script([first, REFUSED, *rest]))
    said = refused.value.diag
    assert said.message_primary == "20990101000000_refused.sql: no key"
    assert said.message_detail == "Why.\nNothing of the script was applied."
    assert said.message_hint == "Add it.\nPut this right, and run the whole script again."
    assert_nothing_is_left(platform_url)


def test_a_time_limit_names_the_migration_that_it_ended(platform_url: str) -> None:
    slow = Migration("20990101000000_slow.sql", "select pg_sleep(60);")
    with psycopg.connect(platform_url, autocommit=True) as connection:
        connection.execute("set statement_timeout = '50ms'")
        with pytest.raises(psycopg.errors.QueryCanceled, match=r"^20990101000000_slow\.sql: "):
            connection.execute(as_script([slow]).encode())


def assert_nothing_is_left(url: str) -> None:
    with psycopg.connect(url) as connection:
        left = connection.execute(
            "select (select count(*) from pg_class where relnamespace = 'public'::regnamespace),"
            " to_regnamespace('mqtt_private')"
        ).fetchone()
    assert left == (0, None)
