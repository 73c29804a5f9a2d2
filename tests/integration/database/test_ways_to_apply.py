"""A project that was there before takes the migrations in each way that supabase/README.md names.

Its owner, who is no superuser, as on hosted projects, applies them. Each way begins and ends with what
`mqtt-service migrations --check` looks at.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from mqtt_service.adoption.check import check as run_check
from mqtt_service.adoption.database import connect
from mqtt_service.adoption.report import as_document
from mqtt_service.migrations import as_script, read_migrations
from tests.faults.bench.drills import drill
from tests.integration.database.applying import SUPABASE
from tests.integration.database.catalog import Facts, columns_of, grants, structure
from tests.integration.database.existing_project import create_as_owner
from tests.integration.database.test_official_tools import Project
from tests.requirements import find_program, needs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OWNER = "hosted_owner"
MANY = drill(5_000, 30_000)
FILES = [SUPABASE / "migrations" / migration.file for migration in read_migrations()]
# What the project's own folder of migrations holds: its history names these, and they must not run again.
THEIRS = (
    "20251101000000_create_devices.sql", "20251110000000_device_history.sql",
    "20251115000000_device_provisioning_automation.sql", "20251120000000_device_commands.sql",
)  # fmt: skip
RUN_BEFORE = "do $$ begin raise exception 'this has run before'; end $$;"


def script_of_the_command_line() -> str:
    """What the product's command prints."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "mqtt_service", "migrations"],
        env=environment, capture_output=True, text=True, encoding="utf-8", check=True, timeout=300,
    ).stdout  # fmt: skip


def psql(url: str, *arguments: str, script: str | None = None) -> None:
    program = find_program("psql")
    assert program is not None
    finished = subprocess.run(
        [program, "--no-psqlrc", url, "-v", "ON_ERROR_STOP=1", *arguments],
        input=script, capture_output=True, text=True, encoding="utf-8", check=False, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


def paste_into_the_sql_editor(url: str, _: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(as_script(read_migrations()).encode())


def pipe_into_psql(url: str, _: Path) -> None:
    script = script_of_the_command_line()
    psql(url, "-c", "set client_min_messages = warning", "-f", "-", script=script)


def file_by_file_in_psql(url: str, _: Path) -> None:
    for file in FILES:
        psql(url, "--single-transaction", "-f", str(file))


def push_with_the_official_command_line(url: str, folder: Path) -> None:
    migrations = folder / "supabase/migrations"
    migrations.mkdir(parents=True)
    shutil.copy(SUPABASE / "config.toml", folder / "supabase")
    for name in THEIRS:
        (migrations / name).write_text(RUN_BEFORE)
    for file in FILES:
        shutil.copy(file, migrations)
    Project(url, folder).supabase("db", "push", "--include-all")
    with psycopg.connect(url) as connection:
        history = connection.execute(
            "select version || '_' || name || '.sql' from supabase_migrations.schema_migrations order by 1"
        ).fetchall()
    assert [name for (name,) in history] == sorted([*THEIRS, *(file.name for file in FILES)])


WAYS = [
    pytest.param(pipe_into_psql, MANY, marks=needs("psql"), id="the script in psql, with many rows"),
    pytest.param(paste_into_the_sql_editor, 100, id="the script in the SQL editor"),
    pytest.param(file_by_file_in_psql, 100, marks=needs("psql"), id="file by file in psql"),
    pytest.param(
        push_with_the_official_command_line, 100, marks=needs("supabase"), id="the official command line"
    ),
]


@pytest.fixture(scope="module")
def owner(server_url: str) -> str:
    """A role like the one that hosted projects give to their owner."""
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("create role {} login createrole bypassrls").format(sql.Identifier(OWNER)))
        server.execute(
            sql.SQL("grant set on parameter session_replication_role to {}").format(sql.Identifier(OWNER))
        )
    return OWNER


@pytest.fixture
def owners_url(empty_database_url: str, owner: str) -> str:
    """The URL with which the owner reaches her project, as it is before the migrations."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        create_as_owner(connection, owner)
    return empty_database_url.replace("postgres@", f"{owner}@")


@pytest.fixture(scope="module")
def after_each_way() -> dict[str, tuple[Facts, Facts]]:
    """The schema and the grants that each way has left."""
    return {}


def check(url: str) -> dict[str, Any]:
    """What `mqtt-service migrations --check --json` says of this database."""
    with connect(url) as connection:
        report = run_check(connection, read_migrations())
    assert report.is_fine, report
    return as_document(report)


def digests(connection: psycopg.Connection, columns: dict[str, list[str]]) -> dict[str, Any]:
    """A number for each table, which changes with any value of these columns in any row."""
    return {
        table: connection.execute(
            sql.SQL("select count(*), sum(hashtextextended(t::text, 0)) from (select {} from {}) t").format(
                sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier("public", table)
            )
        ).fetchone()
        for table, names in columns.items()
    }


@pytest.mark.parametrize(("apply", "old_rows"), WAYS)
def test_the_project_takes_the_migrations_and_keeps_its_own(
    owners_url: str,
    tmp_path: Path,
    after_each_way: dict[str, tuple[Facts, Facts]],
    apply: Callable[[str, Path], None],
    old_rows: int,
) -> None:
    with psycopg.connect(owners_url, autocommit=True) as connection:
        connection.execute("select fill_with_old_rows(%s)", (old_rows,))
        columns = columns_of(connection)
        before = digests(connection, columns)
        report = check(owners_url)
        assert (report["state"], report["trial"]["failures"]) == ("to adopt", ())
        found = {finding["kind"]: finding for finding in report["findings"]}
        assert found["required_column_known"]["subject"] == "public.device_history.event_category"
        assert "(calibrate), which are left alone" in found["commands_unknown"]["text"]
        assert digests(connection, columns) == before

        apply(owners_url, tmp_path)

        report = check(owners_url)
        assert (report["state"], report["trial"]["changes"]) == ("applied", ())
        assert report["verdict"].startswith("ALL IS IN PLACE.")
        # The audit log is among them: no trigger of the project saw the migrations.
        assert digests(connection, columns) == before
        after_each_way[apply.__name__] = structure(connection), grants(connection)
    assert len({(frozenset(schema), frozenset(given)) for schema, given in after_each_way.values()}) == 1


@needs("supabase")
def test_the_advisors_find_nothing_new_but_policies_that_stand_beside_those_of_the_project(
    owners_url: str, tmp_path: Path
) -> None:
    project = Project(owners_url, tmp_path)

    def findings() -> set[tuple[str, str]]:
        found = json.loads(project.supabase("db", "advisors", "--level", "warn").stdout)
        return {(each["name"], each["metadata"]["name"]) for each in found}

    before = findings()
    paste_into_the_sql_editor(owners_url, tmp_path)
    assert {name for name, _ in findings() - before} == {"multiple_permissive_policies"}
