"""The official command line, its advisors and pgTAP, on a plain Debian Postgres 15."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mqtt_service.devstack.migrations import PLATFORM
from mqtt_service.migrations import as_script, read_migrations
from tests.integration.database.applying import SUPABASE
from tests.integration.database.catalog import grants, structure
from tests.integration.database.test_adoption import OLD_PROJECT
from tests.requirements import find_program, needs

pytestmark = [
    pytest.mark.slow,
    needs("node", "supabase", "pg_prove", "postgresql-15", "pgtap"),
]

BINARIES = Path("/usr/lib/postgresql/15/bin")
# Postgres does not run as root: then it runs under the account that Debian made for it.
OWNER: Any = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@dataclass(frozen=True)
class Project:
    """A server of its own, with the platform's parts, and the folder that the command line works in."""

    url: str
    folder: Path

    def supabase(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the official command line against this server."""
        program = find_program("supabase")
        assert program is not None
        return run([
            program, *arguments, f"--remote={self.url}?sslmode=disable", "--workdir", str(self.folder),
            "--yes", "--agent", "no",
        ], cwd=self.folder)  # fmt: skip


def run(command: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    # HOME: the official command line keeps files of its own there
    environment = {**os.environ, "HOME": str(cwd), "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"}
    result = subprocess.run(
        command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, f"{command[0]} {command[1]}:\n{result.stdout}\n{result.stderr}"
    return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The URL of a new server.

    Its files lie outside pytest's folder: that is closed to every other account whenever a run begins.
    """
    with tempfile.TemporaryDirectory(prefix="postgres15-") as home:
        if OWNER:
            shutil.chown(home, "postgres")
        port = free_port()
        server = start_server(Path(home), port)
        try:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            wait_for(server, url)
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def start_server(home: Path, port: int) -> subprocess.Popen[bytes]:
    data = ["-D", str(home / "data")]
    settings = [
        "listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=",
        "fsync=off", "wal_level=logical",
    ]  # fmt: skip
    with (home / "log").open("w") as log:
        subprocess.run(
            [str(BINARIES / "initdb"), *data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"],
            check=True, cwd=home, stdout=log, stderr=log, **OWNER,
        )  # fmt: skip
        options = [word for setting in settings for word in ("-c", setting)]
        return subprocess.Popen(
            [str(BINARIES / "postgres"), *data, *options], cwd=home, stdout=log, stderr=log, **OWNER
        )


def wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert server.poll() is None, "the server has stopped"
            assert time.monotonic() < deadline, "the server does not answer"
        else:
            return


@pytest.fixture(scope="module")
def project(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after `supabase db push`."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(SUPABASE, folder / "supabase", ignore=shutil.ignore_patterns(".temp"))
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
    project = Project(cluster, folder)
    project.supabase("db", "push")
    return project


def test_db_push_records_every_migration_and_finds_nothing_to_do_after(project: Project) -> None:
    with psycopg.connect(project.url) as connection:
        recorded = connection.execute(
            "select version || '_' || name || '.sql'"
            " from supabase_migrations.schema_migrations order by version"
        ).fetchall()
    assert [row[0] for row in recorded] == sorted(
        file.name for file in (SUPABASE / "migrations").glob("*.sql")
    )
    again = project.supabase("db", "push")
    assert "Applying migration" not in again.stdout + again.stderr
    assert "up to date" in again.stdout + again.stderr


# Versions as people and tools make them, before and after ours; the second has our own file's subject.
THEIRS = [
    "20251110000000_create_devices.sql",
    "20251115000000_device_provisioning_automation.sql",
    "20251120000000_mqtt_command_queue.sql",
    "20251127120000_remote_schema.sql",
    "20261231235900_latest.sql",
]


@pytest.fixture
def other_project(cluster: str, tmp_path: Path) -> Iterator[Project]:
    """A project with the tables of old and a history of its own, whose files raise if they run again."""
    server = psycopg.connect(cluster, autocommit=True)
    server.execute("create database other")
    project = Project(cluster.rsplit("/", 1)[0] + "/other", tmp_path)
    with psycopg.connect(project.url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
    folder = tmp_path / "supabase/migrations"
    folder.mkdir(parents=True)
    shutil.copy(SUPABASE / "config.toml", tmp_path / "supabase")
    for name in THEIRS:
        (folder / name).write_text("select 1;")
    (folder / THEIRS[0]).write_bytes(OLD_PROJECT.read_bytes())
    project.supabase("db", "push")
    for name in THEIRS:
        (folder / name).write_text("do $$ begin raise exception 'this has run before'; end $$;")
    yield project
    server.execute("drop database other with (force)")
    server.close()


def test_a_project_with_a_history_of_its_own_takes_ours_beside_it(other_project: Project) -> None:
    history = "select version, name, statements from supabase_migrations.schema_migrations order by version"
    ours = sorted(file.name for file in (SUPABASE / "migrations").glob("*.sql"))
    with psycopg.connect(other_project.url, autocommit=True) as connection:
        before = connection.execute(history).fetchall()
        assert [f"{version}_{name}.sql" for version, name, _ in before] == THEIRS
        for name in ours:
            shutil.copy(SUPABASE / "migrations" / name, other_project.folder / "supabase/migrations")
        other_project.supabase("db", "push", "--include-all")
        after = connection.execute(history).fetchall()
        assert [f"{version}_{name}.sql" for version, name, _ in after] == sorted([*THEIRS, *ours])
        assert [row for row in after if row in before] == before
        assert connection.execute("select public.fn_claim_commands('w')").fetchone() is not None
    again = other_project.supabase("db", "push", "--include-all")
    assert "up to date" in again.stdout + again.stderr


def test_the_advisors_report_nothing_at_warn_or_above(project: Project) -> None:
    result = project.supabase("db", "advisors", "--level", "warn", "--fail-on", "warn")
    assert '"level"' not in result.stdout, result.stdout


def test_the_advisors_look_at_our_tables(project: Project) -> None:
    """The check above could pass for want of anything to look at: unused indexes are seen, so ours are."""
    findings = json.loads(project.supabase("db", "advisors", "--level", "info").stdout)
    # mqtt_private.acknowledgements is closed to everybody but the worker, and so has no policy.
    assert {finding["name"] for finding in findings} == {"unused_index", "rls_enabled_no_policy"}
    assert "devices" in {finding["metadata"]["name"] for finding in findings}


def test_pgtap_finds_structure_grants_and_guards_in_order(project: Project) -> None:
    program = find_program("pg_prove")
    assert program is not None
    files = sorted(str(file) for file in (SUPABASE / "tests").glob("*.sql"))
    assert files
    result = run([program, "-d", project.url, *files], project.folder)
    assert "Result: PASS" in result.stdout


def test_db_push_after_the_script_was_pasted_applies_each_migration_once_more(
    cluster: str, tmp_path: Path
) -> None:
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute("create database pasted")
    url = cluster.removesuffix("postgres") + "pasted"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute(as_script(read_migrations()).encode())
        before = structure(connection), grants(connection)
        shutil.copytree(SUPABASE, tmp_path / "supabase", ignore=shutil.ignore_patterns(".temp"))
        pushed = Project(url, tmp_path).supabase("db", "push")
        assert pushed.stderr.count("Applying migration") == len(read_migrations())
        # What the command line itself keeps is in schemas of its own.
        assert (structure(connection), grants(connection)) == before
