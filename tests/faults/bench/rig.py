"""The fault bench: the embedded stack, a Mosquitto of its own, a proxy before each, workers as processes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from mqtt_service.devstack.stack import Stack
from tests.faults.bench.database import Database
from tests.faults.bench.fleet import Fleet, fleet
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.proxy import Proxy
from tests.integration.worker.mosquitto import Mosquitto

LEASE = 5.0
POLL = 0.5


@dataclass(frozen=True)
class Bench:
    """Everything but the workers. Workers reach Supabase through `api` and the broker through `mqtt`."""

    stack: Stack
    broker: Mosquitto
    api: Proxy
    mqtt: Proxy
    database: Database
    directory: Path

    def env(self, name: str, settings: Mapping[str, str]) -> dict[str, str]:
        """The environment of a worker: short times, and a client id that no earlier test used."""
        return {
            **self.stack.env(),
            "SUPABASE_URL": f"http://127.0.0.1:{self.api.port}",
            "MQTT_PORT": str(self.mqtt.port),
            "MQTT_CLIENT_ID": name,
            "PORT": "0",
            "POLL_INTERVAL": str(POLL),
            "LEASE_DURATION": str(LEASE),
            "RETRY_DELAY": "0.2",
            **settings,
        }

    @asynccontextmanager
    async def worker(
        self, name: str = "worker", *, ready: bool = True, **settings: str
    ) -> AsyncIterator[WorkerProcess]:
        """`mqtt-service run`, healthy when handed over (`ready`); settings as in docs/operations.md.

        Its MQTT client id is its name, unless MQTT_CLIENT_ID says otherwise. A test may end it itself.
        """
        log_name = name if not (self.directory / f"{name}.log").exists() else f"{name}-{uuid4().hex[:4]}"
        process = await WorkerProcess.start(log_name, self.env(name, settings), self.directory)
        try:
            await process.listens()
            if ready:
                await process.becomes("healthy")
            yield process
        except BaseException:
            await process.kill()
            raise
        await process.release()

    @asynccontextmanager
    async def devices(self, *, answering: bool = True) -> AsyncIterator[Fleet]:
        """The devices' side, connected to the broker itself, not through the proxy."""
        async with fleet(self.broker.port, answering=answering) as made:
            yield made


@asynccontextmanager
async def running_bench(stack: Stack, directory: Path, *mosquitto: str) -> AsyncIterator[Bench]:
    """A bench on a running stack; `mosquitto` are more lines of its configuration.

    The broker keeps whatever a client that is away has not taken yet, unless a line says otherwise.
    """
    limits = () if any("max_queued_messages" in line for line in mosquitto) else ("max_queued_messages 0",)
    stack.faults.clear()
    database = Database(stack.db_url)
    await database.clear()
    try:
        async with (
            Mosquitto(directory, *limits, *mosquitto) as broker,
            Proxy(int(stack.url.rsplit(":", 1)[1])) as api,
            Proxy(broker.port) as mqtt,
        ):
            yield Bench(stack, broker, api, mqtt, database, directory)
    finally:
        stack.faults.clear()
        await database.close()
