"""procrastinate doing the worker's job: a job a command, published with paho; done with its PUBACK.

Set up as its documentation does it: `PsycopgConnector`, an asynchronous task, one worker with the
concurrency of its guide "Execute multiple jobs at the same time", LISTEN/NOTIFY on. It talks to Postgres
itself. Jobs have no lock, so unlike with us, a device's commands keep no order.

As a process it is the worker, until it is ended: settings PEER_DB_URL, MQTT_HOST and MQTT_PORT.
"""

import asyncio
import os

import paho.mqtt.client as mqtt
from procrastinate import App, PsycopgConnector

from mqtt_service.bench.bare_paho import READY, client_for, connect

TASK = "publish"
_CONCURRENCY = 30


class AcknowledgedPublisher:
    """Publishes at QoS 1 from the event loop of its making, and waits for the PUBACK."""

    def __init__(self, client: mqtt.Client) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._client = client
        client.on_publish = self._on_publish

    async def publish(self, topic: str, payload: str) -> None:
        """Return once the broker has it."""
        sent = self._client.publish(topic, payload, qos=1)
        # The callback is handed to this loop, so it comes only after this line.
        self._waiting[sent.mid] = future = self._loop.create_future()
        await future

    def _on_publish(self, _client: mqtt.Client, _data: object, mid: int, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._acknowledged, mid)

    def _acknowledged(self, mid: int) -> None:
        self._waiting.pop(mid).set_result(None)


def app_for(database_url: str) -> App:
    """Return procrastinate on this database; its task `publish` takes a topic and a payload."""
    return App(connector=PsycopgConnector(conninfo=database_url))


async def _work() -> None:
    client = client_for()
    connect(client, os.environ["MQTT_HOST"], int(os.environ["MQTT_PORT"]))
    publisher = AcknowledgedPublisher(client)
    app = app_for(os.environ["PEER_DB_URL"])

    @app.task(name=TASK)
    async def publish(topic: str, payload: str) -> None:
        await publisher.publish(topic, payload)

    async with app.open_async():
        print(READY, flush=True)  # noqa: T201 - read by whoever started this process
        await app.run_worker_async(concurrency=_CONCURRENCY)


if __name__ == "__main__":
    asyncio.run(_work())
