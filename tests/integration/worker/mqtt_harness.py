"""A link to a Mosquitto of the test's own, and what a test waits for."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from mqtt_service.adapters.mqtt.link import MqttLink
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.mqtt.options import MqttOptions
from tests.integration.worker.mosquitto import HOST

DEADLINE = 20.0
TOPIC = "device/aabbccddeeff/cmd"
ACK = "device/aabbccddeeff/ack"
SUBSCRIPTIONS = ("device/+/ack",)

Handle = Callable[[InboundMessage], Awaitable[None]]


async def eventually(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not look():
        assert time.monotonic() < deadline, f"not seen in time: {what}"
        await asyncio.sleep(0.01)  # the pause between two looks


def options(port: int, **changes: Any) -> MqttOptions:
    return MqttOptions(**{"host": HOST, "port": port, "tls": False, "client_id": "the-service", **changes})


async def at_once(_seconds: float) -> None:
    """No pause between attempts, but a turn for everyone else."""
    await asyncio.sleep(0.01)


class Inbox:
    """A handler that keeps what it was given; `before` runs first and may raise or wait."""

    def __init__(self, before: Handle | None = None) -> None:
        self.messages: list[InboundMessage] = []
        self._before = before

    async def __call__(self, message: InboundMessage) -> None:
        self.messages.append(message)
        if self._before is not None:
            await self._before(message)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    async def has(self, *payloads: bytes) -> None:
        await eventually(lambda: len(self.messages) >= len(payloads), f"{len(payloads)} message(s)")
        assert self.payloads == list(payloads)


@asynccontextmanager
async def running(
    to: MqttOptions,
    handler: Handle | None = None,
    *,
    subscriptions: Sequence[str] = SUBSCRIPTIONS,
    sleep: Callable[[float], Awaitable[None]] = at_once,
    wait: bool = True,
) -> AsyncIterator[MqttLink]:
    """A link that runs; like a process that is killed, it takes no leave unless the test says so."""
    link = MqttLink(to, subscriptions, handler or Inbox(), sleep=sleep)
    task = asyncio.create_task(link.run())
    try:
        if wait:
            await eventually(lambda: link.connected, "the link is up")
        yield link
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await eventually(lambda: not paho_threads(to.client_id), "the network thread has ended")


def paho_threads(client_id: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"paho-mqtt-client-{client_id}"]


@asynccontextmanager
async def scripted_broker(*answers: str) -> AsyncIterator[int]:
    """Answers each packet with these bytes (hex), where Mosquitto cannot be made to; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(1000)
            writer.write(bytes.fromhex(answer))
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port
