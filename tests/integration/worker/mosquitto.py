"""A Mosquitto of the test's own, to configure, freeze and kill; and a client on its other side."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.requirements import find_program, require

HOST = "127.0.0.1"
_DEADLINE = 15.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Mosquitto:
    """A broker in a process of its own; `settings` are more lines of mosquitto.conf, for its one listener.

    A test that makes one is skipped where Mosquitto is missing. Sessions survive `stop`.
    """

    def __init__(self, data_dir: Path, *settings: str, anonymous: bool = True) -> None:
        require("mosquitto")
        self.port = free_port()
        self._config = data_dir / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            f"listener {self.port} {HOST}",
            f"allow_anonymous {str(anonymous).lower()}",
            "persistence true",
            f"persistence_location {data_dir}/",
            f"log_dest file {data_dir}/mosquitto.log",
            "set_tcp_nodelay true",
            *settings,
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it becomes a user who may not write to the test's directory
        self._config.write_text("\n".join([*lines, ""]))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start, and return when it listens."""
        program = find_program("mosquitto")
        assert program is not None
        self._process = await asyncio.to_thread(subprocess.Popen[bytes], [program, "-c", str(self._config)])
        async with asyncio.timeout(_DEADLINE):
            while not await asyncio.to_thread(self._listens):
                assert self._process.poll() is None, "Mosquitto did not start"
                await asyncio.sleep(0.02)  # the pause between two looks

    async def stop(self) -> None:
        """End it gracefully; it writes its sessions down."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it at once, also a frozen one."""
        await self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it take in bytes and do nothing with them."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _end(self, signum: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signum)
            await asyncio.to_thread(process.wait, _DEADLINE)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


@dataclass
class Peer:
    """A client on the devices' side: what it received, in order, and a way to publish."""

    client: mqtt.Client
    received: list[mqtt.MQTTMessage] = field(default_factory=list)

    @property
    def payloads(self) -> list[bytes]:
        """The payloads it received, in order."""
        return [bytes(message.payload) for message in list(self.received)]

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Publish, and return when the broker has it."""
        info = self.client.publish(topic, payload, qos=qos, retain=retain)
        await asyncio.to_thread(info.wait_for_publish, _DEADLINE)
        assert info.is_published()


@asynccontextmanager
async def peer(
    port: int, *subscriptions: str, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
) -> AsyncIterator[Peer]:
    """A connected client that receives what matches `subscriptions`, with a session that ends with it."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False)
    one = Peer(client)
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    client.on_message = lambda _client, _data, message: one.received.append(message)
    client.on_subscribe = lambda _client, _data, _mid, _codes, _properties: tell_ready()

    def tell_ready() -> None:
        loop.call_soon_threadsafe(ready.set)

    client.connect(HOST, port)
    client.loop_start()
    try:
        client.subscribe([(topic, 1) for topic in (*subscriptions, "no/one/else")])
        await asyncio.wait_for(ready.wait(), _DEADLINE)
        yield one
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
        client.on_message = client.on_subscribe = None
