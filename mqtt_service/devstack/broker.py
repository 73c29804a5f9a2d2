"""A real MQTT broker on loopback: Mosquitto where it is installed, else amqtt, which comes with the package.

Mosquitto keeps sessions and queued messages in `data_dir` over restarts and speaks MQTT 5. amqtt speaks
MQTT 3.1.1 and keeps nothing; it is good for a first look, not for tests of redelivery.
"""

import asyncio
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from mqtt_service.devstack.child import Child
from mqtt_service.errors import PermanentError

Kind = Literal["mosquitto", "amqtt"]

HOST = "127.0.0.1"
START_SECONDS = 15.0
_STOP_SECONDS = 5.0
_AMQTT_SERVER = Path(__file__).with_name("amqtt_server.py")

# Debian puts the server where only root's PATH leads, Homebrew likewise.
_MORE_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/sbin")

# MQTT 3.1.1, sections 3.1 and 3.2: a CONNECT with a clean session and the id "probe", and what accepts it.
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x0a\x00\x05probe"
_CONNACK = b"\x20\x02\x00\x00"
_DISCONNECT = b"\xe0\x00"


class BrokerStartError(PermanentError):
    """The broker cannot run; the message says why and what to do."""


def find_mosquitto() -> str | None:
    """Return the path of the Mosquitto server, None where it is not installed."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_MORE_PLACES]))


class Broker:
    """An async context manager around one broker, reached at `host` and `port` without TLS or a password.

    `kind` "auto" takes Mosquitto if it is installed; afterwards `kind` is the one that was taken. `port` 0
    takes any free port. `data_dir` holds its configuration, log and, with Mosquitto, sessions.
    Raises BrokerStartError where it cannot start.
    """

    def __init__(self, kind: str, port: int, data_dir: Path) -> None:
        self.kind: Kind = _choose(kind)
        self.host = HOST
        self.port = port
        self.data_dir = data_dir.absolute()
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def log_file(self) -> Path:
        """What the broker wrote, over all its starts."""
        return self.data_dir / f"{self.kind}.log"

    async def start(self) -> None:
        """Start the broker and return once it accepts connections."""
        self.port = _claim_port(self.port)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._child = await Child.start(self._command(), log_file=self.log_file)
        try:
            await self._wait_until_ready(self._child)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop it; Mosquitto writes down its sessions first."""
        child, self._child = self._child, None
        if child is not None:
            await child.stop(_STOP_SECONDS)

    async def died(self) -> int:
        """Wait until the broker ends without having been stopped; returns its exit status."""
        if self._child is None:
            raise BrokerStartError("The broker is not running: start it first.")
        return await self._child.wait()

    async def restart(self) -> None:
        """Stop and start again on the same port, as an upgrade of the broker does."""
        await self.stop()
        await self.start()

    def _command(self) -> list[str]:
        config = self.data_dir / f"{self.kind}.conf"
        mosquitto = find_mosquitto()
        if self.kind == "mosquitto" and mosquitto is not None:
            config.write_text(_mosquitto_config(self.port, self.data_dir), encoding="utf-8")
            return [mosquitto, "-c", str(config)]
        config.write_text(_amqtt_config(self.port), encoding="utf-8")
        # -P: the other modules in that folder are not for it.
        return [sys.executable, "-P", "-W", "ignore", str(_AMQTT_SERVER), str(config)]

    async def _wait_until_ready(self, child: Child) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await _accepts(self.port):
            if child.exit_status is not None or asyncio.get_running_loop().time() > deadline:
                tail = "\n".join(child.log.splitlines()[-8:])
                raise BrokerStartError(f"{self.kind} did not start; {self.log_file} ends with:\n{tail}")
            await asyncio.sleep(0.02)


async def start_broker(kind: str, port: int, data_dir: Path) -> Broker:
    """Start a broker (see `Broker`); whoever calls this stops it."""
    broker = Broker(kind, port, data_dir)
    await broker.start()
    return broker


def _choose(kind: str) -> Kind:
    installed = find_mosquitto() is not None
    match kind:
        case "amqtt":
            return "amqtt"
        case "auto":
            return "mosquitto" if installed else "amqtt"
        case "mosquitto" if installed:
            return "mosquitto"
        case "mosquitto":
            raise BrokerStartError(
                "Mosquitto is not installed: install it (Debian: apt install mosquitto; macOS: brew install "
                "mosquitto), or choose the broker amqtt."
            )
    raise BrokerStartError(f"There is no broker {kind!r}: choose auto, mosquitto or amqtt.")


def _claim_port(port: int) -> int:
    """Return `port`, or a free one for 0. Raises BrokerStartError if something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BrokerStartError(
                f"The MQTT port {port} cannot be had ({error.strerror}): choose another, or 0."
            ) from error
        free: int = probe.getsockname()[1]
        return free


async def _accepts(port: int) -> bool:
    """Return whether an MQTT client is let in."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(_CONNECT)
                accepted = await reader.readexactly(len(_CONNACK)) == _CONNACK
                writer.write(_DISCONNECT)
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, EOFError, TimeoutError):
        return False
    return accepted


def _mosquitto_config(port: int, data_dir: Path) -> str:
    lines = [
        f"listener {port} {HOST}",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {data_dir}/",
        "set_tcp_nodelay true",
        # Beyond its default of 1,000 it drops what a fleet says while a worker is busy, a HELLO perhaps.
        "max_queued_messages 100000",
        "log_dest stderr",
        "connection_messages false",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        lines.append("user root")  # else it becomes a user who may not write to the data directory
    return "\n".join([*lines, ""])


def _amqtt_config(port: int) -> str:
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listeners = {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}}
    return json.dumps({"listeners": listeners, "plugins": anonymous})
