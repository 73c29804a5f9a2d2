"""The processes that the benchmark starts, with nothing of our environment but what each needs."""

import asyncio
import contextlib
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx

import mqtt_service
from mqtt_service.bench.usage import Usage
from mqtt_service.devstack.broker import HOST, find_mosquitto
from mqtt_service.devstack.child import Child
from mqtt_service.errors import PermanentError

T = TypeVar("T")

CHECK_SECONDS = 0.02
TIMEOUT_SECONDS = 120.0
_SLOWEST_PER_SECOND = 50


class BenchError(PermanentError):
    """The benchmark cannot go on; the message says why, with the last lines of the process that failed."""


def patience(items: int) -> float:
    """Seconds within which so many commands or chunks must be done on any machine."""
    return TIMEOUT_SECONDS + items / _SLOWEST_PER_SECOND


async def eventually(
    check: Callable[[], Awaitable[T | None]], what: str, seconds: float = TIMEOUT_SECONDS
) -> T:
    """Return what `check` gives once that is neither None nor False. Raises BenchError after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await check()
                if found is not None and found is not False:
                    return found
                await asyncio.sleep(CHECK_SECONDS)
    except TimeoutError:
        raise BenchError(f"not seen within {seconds:.0f} s: {what}") from None


class WorkerProcess:
    """A running worker."""

    def __init__(self, child: Child) -> None:
        self._child = child

    @property
    def usage(self) -> Usage:
        """What it uses of the machine; once it is ready."""
        return Usage(self._child)

    async def ready(self) -> None:
        """Return once it says that it can do its work."""
        async with await self._http() as client:

            async def check() -> bool:
                document = (await client.get("/health")).json()
                return bool(document["status"] == "healthy")

            await eventually(check, "a healthy worker")

    def peak_memory(self) -> int:
        """The most bytes of memory that it ever held."""
        return self._child.peak_memory()

    async def _http(self) -> httpx.AsyncClient:
        port = await eventually(self._port, "a worker that listens")
        return httpx.AsyncClient(trust_env=False, base_url=f"http://{HOST}:{port}", timeout=TIMEOUT_SECONDS)

    async def _port(self) -> str | None:
        if self._child.exit_status is not None:
            raise BenchError("the worker ended by itself")
        found = re.search(r"(?<=on port )\d+", self._child.log)
        return found[0] if found else None


@asynccontextmanager
async def running_mosquitto(directory: Path) -> AsyncIterator[int]:
    """Yield the port of a Mosquitto that keeps whatever a slow subscriber has not taken yet."""
    mosquitto = find_mosquitto()
    if mosquitto is None:
        raise BenchError("Mosquitto is not installed: install it (Debian: apt install mosquitto)")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    config = directory / "mosquitto.conf"
    lines = [
        f"listener {port} {HOST}",
        "allow_anonymous true",
        "max_queued_messages 0",
        "set_tcp_nodelay true",
    ]
    config.write_text("\n".join([*lines, "log_dest stderr", ""]), encoding="utf-8")
    child = await Child.start([mosquitto, "-c", str(config)], log_file=directory / "mosquitto.log")
    try:
        await eventually(lambda: _accepts(port, child), "Mosquitto")
        yield port
    finally:
        await child.stop()


async def start_python(command: list[str], directory: Path, name: str, env: dict[str, str]) -> Child:
    """Start Python in `directory`, with PATH, this package and `env` alone; its output goes to `name`.log."""
    kept = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "TMPDIR": str(directory)}
    more = {"PYTHONPATH": str(Path(mqtt_service.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    log_file = directory / f"{name}.log"
    return await Child.start(
        [sys.executable, *command], log_file=log_file, env={**kept, **more, **env}, directory=directory
    )


def end_of_log(child: Child) -> str:
    """Return what a process wrote last."""
    return child.log[-2000:]


async def has_said(child: Child, line: str) -> bool:
    """Return whether a process wrote this line. Raises BenchError if it has ended without it."""
    if line in child.log.splitlines():
        return True
    if child.exit_status is not None:
        raise BenchError(f"a process ended by itself:\n{end_of_log(child)}")
    return False


async def _accepts(port: int, child: Child) -> bool:
    if child.exit_status is not None:
        raise BenchError(f"Mosquitto did not start:\n{end_of_log(child)}")
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.close()
        return True
    return False
