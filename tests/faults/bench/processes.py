"""Workers as real processes: started, asked, frozen, continued and killed by their process id."""

import asyncio
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from tests.integration.worker.harness import eventually
from tests.started import Process, start

# A worker that was asked to end does so within 10 s (the platform's patience), and this says so.
STOP_SECONDS = 10.0


class WorkerProcess:
    """One `mqtt-service run`; its output is in `log_file`."""

    def __init__(self, process: Process, name: str, log_file: Path) -> None:
        self.process = process
        self.name = name
        self.log_file = log_file
        self.url = ""
        self._expected = {0}

    @classmethod
    async def start(cls, name: str, env: Mapping[str, str], directory: Path) -> Self:
        """Start it with nothing of our environment but PATH; returns at once."""
        log_file = directory / f"{name}.log"
        return cls(start(["run"], env, directory, log_file), name, log_file)

    @property
    def output(self) -> str:
        """Everything it wrote so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def said(self, pattern: str) -> list[str]:
        """The lines of output that match, in order."""
        return [line for line in self.lines if re.search(pattern, line)]

    async def says(self, pattern: str, *, times: int = 1, deadline: float = 20.0) -> str:
        """Wait for so many lines that match; returns the last of them."""

        def look() -> str | None:
            found = self.said(pattern)
            if len(found) < times and not self.running:
                raise AssertionError(
                    f"{self.name} ended ({self.process.returncode}) before {pattern!r}:\n{self.output}"
                )
            return found[times - 1] if len(found) >= times else None

        try:
            line: str = await eventually(look, f"{pattern!r} from {self.name}", deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{self.output[-6000:]}") from None
        return line

    async def listens(self) -> None:
        """Wait until it answers HTTP; `url` is set then."""
        line = await self.says(r"\[SERVICE\] mqtt-service .* on port \d+", deadline=30)
        found = re.search(r"on port (\d+)", line)
        assert found is not None
        self.url = f"http://127.0.0.1:{found[1]}"

    async def health(self) -> dict[str, Any]:
        """The document of /health."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            document: dict[str, Any] = (await client.get(f"{self.url}/health")).json()
        return document

    async def metric(self, line: str) -> float:
        """The value of one series of /metrics, like `mqtt_service_commands_total{outcome="sent"}`."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            text = (await client.get(f"{self.url}/metrics")).text
        for row in text.splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        raise AssertionError(f"no series {line} in:\n{text}")

    async def becomes(self, status: str, deadline: float = 30.0) -> dict[str, Any]:
        """Wait until /health says healthy, degraded or unhealthy; returns its document."""

        async def look() -> dict[str, Any] | None:
            document = await self.health()
            return document if document["status"] == status else None

        document: dict[str, Any] = await eventually(look, f"{self.name} is {status}", deadline)
        return document

    def freeze(self) -> None:
        """SIGSTOP: it does nothing more until `thaw`, and its sockets stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, frozen or not; returns when it is gone."""
        self._expected.add(-signal.SIGKILL)
        if self.running:
            self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def stop(self, *, patience: float = STOP_SECONDS, status: int = 0) -> float:
        """SIGTERM; returns the seconds it took, fails where that exceeds `patience` or ends otherwise."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        self.process.terminate()
        assert await self.ended(patience) == status, self.output[-6000:]
        return loop.time() - started

    async def ended(self, deadline: float) -> int:
        """Wait for its end; returns the exit status. A test that expects another than 0 asks here."""
        try:
            status = await asyncio.to_thread(self.process.wait, deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {deadline:.0f} s:\n{self.output[-6000:]}"
            ) from None
        self._expected.add(status)
        return status

    async def release(self) -> None:
        """End it in any case; fails where it had ended by itself unseen."""
        if self.running:
            self.thaw()
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, STOP_SECONDS + 2)
            except subprocess.TimeoutExpired:
                await self.kill()
        status = self.process.returncode
        assert status in self._expected, f"{self.name} ended with {status}:\n{self.output[-6000:]}"
