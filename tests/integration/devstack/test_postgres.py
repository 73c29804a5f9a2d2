"""The embedded Postgres: starting, restarting, stopping, and what is left behind (nothing)."""

import asyncio
import contextlib
import os
import signal
import stat
import sys
from pathlib import Path

import psycopg
import pytest

from mqtt_service.devstack.migrations import MigrationFailedError, apply_migrations, apply_seed
from mqtt_service.devstack.postgres import EmbeddedPostgres, PostgresStartError
from tests.prepared_cluster import copied_from, fill_nothing

DEADLINE_SECONDS = 15.0
ROOT = Path(__file__).parents[3]

HOLD = """
import asyncio, sys
from pathlib import Path
from mqtt_service.devstack.postgres import EmbeddedPostgres

async def main():
    async with EmbeddedPostgres(Path(sys.argv[1])) as postgres:
        print(postgres.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server_of_a_copy(tmp_path_factory: pytest.TempPathFactory) -> type[EmbeddedPostgres]:
    """A server whose cluster is a copy of one that initdb has made, where that itself is not tested."""
    return copied_from(tmp_path_factory.mktemp("prepared") / "empty", fill_nothing)


@pytest.fixture
def cluster(server_of_a_copy: type[EmbeddedPostgres], tmp_path: Path) -> EmbeddedPostgres:
    """A server of the test's own, not yet started."""
    return server_of_a_copy(tmp_path / "pg")


async def ask(url: str, query: str) -> object:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
        return row[0] if row else None


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while _runs(pid):  # noqa: ASYNC110 - nothing tells us of its end
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_is_a_real_server_that_can_feed_realtime(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "pg") as postgres:
        assert int(str(await ask(postgres.url, "show server_version_num"))) >= 160000
        assert await ask(postgres.url, "show wal_level") == "logical"
        assert await ask(postgres.url, "show timezone") == "UTC"
        assert await ask(postgres.url, "select upper('ä')") == "Ä"
        assert await ask(postgres.url, "show listen_addresses") == "127.0.0.1"


async def test_rows_outlive_a_restart_and_the_address_stays(
    cluster: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with cluster as postgres:
        url, pid = postgres.url, postgres.pid
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("create table kept as select 7 as n")
        await postgres.restart()
        assert (postgres.url, await ask(url, "select n from kept")) == (url, 7)
        assert postgres.pid != pid
    async with EmbeddedPostgres(tmp_path / "pg") as postgres:
        assert await ask(postgres.url, "select n from kept") == 7


async def test_connected_clients_do_not_keep_it_from_stopping(cluster: EmbeddedPostgres) -> None:
    async with cluster as postgres:
        pid = postgres.pid
        connection = await psycopg.AsyncConnection.connect(postgres.url)
    await until_gone(pid)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("select 1")
    await connection.close()


async def test_a_cancelled_task_leaves_no_server_behind(cluster: EmbeddedPostgres) -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with cluster as postgres:
            started.set_result(postgres.pid)
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_gone(pid)


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 12, 20])
async def test_a_start_that_is_cancelled_at_any_moment_leaves_no_server_behind(
    cluster: EmbeddedPostgres, tmp_path: Path, turns: int
) -> None:
    async with cluster:
        pass
    postgres = EmbeddedPostgres(tmp_path / "pg")
    task = asyncio.create_task(postgres.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await postgres.stop()
    assert not (tmp_path / "pg" / "postmaster.pid").exists()


async def test_a_cluster_that_was_never_finished_is_made_anew(tmp_path: Path) -> None:
    unfinished = tmp_path / "pg.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(tmp_path / "pg") as postgres:
        assert await ask(postgres.url, "select 1") == 1
    assert not unfinished.exists()


async def test_a_killed_process_leaves_no_server_behind(tmp_path: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(tmp_path / "pg"), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert holder.stdout is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        pid = int(await holder.stdout.readline())
    holder.send_signal(signal.SIGKILL)
    await holder.wait()
    await until_gone(pid)
    async with EmbeddedPostgres(tmp_path / "pg") as postgres:
        assert await ask(postgres.url, "select 1") == 1


async def test_two_servers_on_one_directory_are_refused(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    async with cluster as postgres:
        with pytest.raises(PostgresStartError, match="stop that or choose another"):
            await EmbeddedPostgres(tmp_path / "pg").start()
        assert await ask(postgres.url, "select 1") == 1


async def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(PostgresStartError, match="choose another directory"):
        await EmbeddedPostgres(tmp_path).start()


async def test_a_directory_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresStartError, match="was made by Postgres 9"):
        await EmbeddedPostgres(tmp_path).start()


async def test_a_port_that_is_taken_is_named(
    cluster: EmbeddedPostgres, server_of_a_copy: type[EmbeddedPostgres], tmp_path: Path
) -> None:
    async with cluster as postgres:
        with pytest.raises(PostgresStartError, match=f"did not start on port {postgres.port}"):
            await server_of_a_copy(tmp_path / "two", postgres.port).start()


async def test_folders_above_the_data_stay_as_private_as_they_were(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    async with EmbeddedPostgres(private / "pg") as postgres:
        assert await ask(postgres.url, "select 1") == 1
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert private.stat().st_uid == os.geteuid()


async def test_migrations_are_applied_once_in_order_and_recorded(
    cluster: EmbeddedPostgres, tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "20250102000000_second.sql").write_text("insert into public.log values (2);")
    (folder / "20250101000000_first.sql").write_text("create table public.log (n int); set search_path = '';")
    async with cluster as postgres:
        names = ["20250101000000_first.sql", "20250102000000_second.sql"]
        assert await apply_migrations(postgres.url, folder) == names
        assert await apply_migrations(postgres.url, folder) == []
        assert await ask(postgres.url, "select count(*) from public.log") == 1
        applied = "select string_agg(version || ' ' || name, ', ' order by version)"
        assert (
            await ask(postgres.url, f"{applied} from supabase_migrations.schema_migrations")
            == "20250101000000 first, 20250102000000 second"
        )


async def test_a_migration_that_fails_names_its_line_and_leaves_nothing(
    cluster: EmbeddedPostgres, tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "20250101000000_broken.sql").write_text(
        "create table public.half (n int);\n\nselect nothing;\n"
    )
    async with cluster as postgres:
        with pytest.raises(MigrationFailedError, match=r"_broken\.sql, line 3: .*nothing"):
            await apply_migrations(postgres.url, folder)
        assert await ask(postgres.url, "select to_regclass('public.half')") is None


async def test_the_migrations_and_the_seed_of_the_project_can_be_applied_twice(
    cluster: EmbeddedPostgres,
) -> None:
    async with cluster as postgres:
        for _ in range(2):
            await apply_migrations(postgres.url, ROOT / "supabase" / "migrations")
            await apply_seed(postgres.url, ROOT / "supabase" / "seed.sql")
        assert await ask(postgres.url, "select count(*) from public.companies") == 2


async def test_a_folder_without_migrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationFailedError, match="check the path"):
        await apply_migrations("postgresql://127.0.0.1:1/none", tmp_path)
