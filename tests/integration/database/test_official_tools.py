"""The official command line, its advisors and pgTAP, on a plain Debian Postgres 15."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.conftest import SUPABASE
from tests.requirements import find_program, needs

pytestmark = [
    pytest.mark.slow,
    needs(
        "node", "supabase", "pg_prove", "postgresql-15", "pgtap", *(["runuser"] if os.geteuid() == 0 else [])
    ),
]

BINARIES = Path("/usr/lib/postgresql/15/bin")


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


def as_owner(command: Sequence[str]) -> list[str]:
    """Postgres does not run as root: then its files belong to the account that Debian made for it."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    return [*prefix, *command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a new server."""
    port = free_port()
    home = tmp_path_factory.mktemp("postgres15")
    if os.geteuid() == 0:
        shutil.chown(home, "postgres", "postgres")
        for folder in home.parents:
            if folder.owner() == "root" and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o001)
    data = str(home / "data")
    run(
        as_owner([str(BINARIES / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]),
        home,
    )
    settings = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off -c wal_level=logical"
    control = [str(BINARIES / "pg_ctl"), "-D", data, "-w"]
    run(as_owner([*control, "-l", str(home / "log"), "-o", settings, "start"]), home)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        run(as_owner([*control, "-m", "immediate", "stop"]), home)


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


def test_the_advisors_report_nothing_at_warn_or_above(project: Project) -> None:
    result = project.supabase("db", "advisors", "--level", "warn", "--fail-on", "warn")
    assert '"level"' not in result.stdout, result.stdout


def test_the_advisors_look_at_our_tables(project: Project) -> None:
    """The check above could pass for want of anything to look at: unused indexes are seen, so ours are."""
    findings = json.loads(project.supabase("db", "advisors", "--level", "info").stdout)
    assert {finding["name"] for finding in findings} == {"unused_index"}
    assert "devices" in {finding["metadata"]["name"] for finding in findings}


def test_pgtap_finds_structure_grants_and_guards_in_order(project: Project) -> None:
    program = find_program("pg_prove")
    assert program is not None
    files = sorted(str(file) for file in (SUPABASE / "tests").glob("*.sql"))
    assert files
    result = run([program, "-d", project.url, *files], project.folder)
    assert "Result: PASS" in result.stdout
