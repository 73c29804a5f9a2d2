"""The worker of the demo: `mqtt-service run` as a process of its own, with the stack's settings alone."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import httpx

import mqtt_service
from mqtt_service.devstack.child import Child
from mqtt_service.devstack.stack import Stack
from mqtt_service.errors import PermanentError

_CHECK_SECONDS = 0.05
# All devices register themselves at once, and their network is quick.
_QUICK_SETTINGS = {"REGISTRATIONS_PER_MINUTE": "1000", "IMAGE_SILENCE": "1"}


class WorkerEndedError(PermanentError):
    """The worker ended before it was asked to; the message holds its last lines."""


class DemoWorker:
    """A running worker; `url` is where it serves /health and /ready."""

    def __init__(self, child: Child, url: str) -> None:
        self.url = url
        self._child = child

    @classmethod
    async def start(cls, stack: Stack, poll_interval: float) -> "DemoWorker":
        """Start it; nothing of our own environment but PATH reaches it, and no .env."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(stack.data_dir),
            "PYTHONPATH": str(Path(mqtt_service.__file__).parents[1]),
            "PYTHONUNBUFFERED": "1",
            "POLL_INTERVAL": str(poll_interval),
            "MQTT_CLIENT_ID": "demo-worker",
            "PORT": str(port),
            **_QUICK_SETTINGS,
            **stack.env(),
        }
        command = [sys.executable, "-m", "mqtt_service", "run"]
        log_file = stack.data_dir / "worker.log"
        child = await Child.start(command, log_file=log_file, env=settings, directory=stack.data_dir)
        return cls(child, f"http://127.0.0.1:{port}")

    @property
    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self._child.log.splitlines()[-15:])

    def check(self) -> None:
        """Raise WorkerEndedError if it does not run any more."""
        if self._child.exit_status is not None:
            raise WorkerEndedError(f"the worker ended by itself with status {self._child.exit_status}")

    async def wait_until_ready(self) -> None:
        """Return once it says that it can do its work. Raises WorkerEndedError if it ends instead."""
        async with httpx.AsyncClient(trust_env=False) as client:
            while not await _is_ready(client, f"{self.url}/ready"):
                self.check()
                await asyncio.sleep(_CHECK_SECONDS)

    async def stop(self) -> int:
        """Stop it with SIGTERM, if it still runs; returns its exit status."""
        return await self._child.stop()


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
