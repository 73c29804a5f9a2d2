"""The devices' side of the broker: one client that hears every command and answers as devices do."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.integration.worker.harness import eventually

HOST = "127.0.0.1"
_COMMANDS = ("device/+/cmd", "ESP32CAM/+/cmd")


@dataclass(frozen=True)
class Heard:
    """One command as it came over the wire; `at` is monotonic, `topic_id` the device's name on topics."""

    root: str
    topic_id: str
    command_id: str
    body: dict[str, Any]
    at: float


@dataclass
class Fleet:
    """All devices as one client, over restarts of the broker; `heard` grows in the order of arrival.

    While `answering`, each command with an id is acknowledged at once.
    """

    client: mqtt.Client
    answering: bool = True
    heard: list[Heard] = field(default_factory=list)
    answered: int = 0
    _left: set[str] = field(default_factory=set)

    def say(self, topic: str, payload: object) -> mqtt.MQTTMessageInfo:
        """Publish at QoS 1; the client keeps it until the broker has it."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload)
        return self.client.publish(topic, data, qos=1)

    def answer(self, heard: Heard, outcome: str = "success") -> mqtt.MQTTMessageInfo:
        """Acknowledge a command as its device does."""
        self.answered += 1
        return self.say(
            f"{heard.root}/{heard.topic_id}/ack", {"command_id": heard.command_id, "command_ack": outcome}
        )

    def leave_to_themselves(self, *topic_ids: str) -> None:
        """Other clients play these devices: what they are told is heard, and not answered."""
        self._left.update(topic_ids)

    @property
    def connected(self) -> bool:
        return self.client.is_connected()

    def firsts(self) -> list[Heard]:
        """What was heard without repeats of one command_id."""
        seen: dict[str, Heard] = {}
        for message in list(self.heard):
            seen.setdefault(message.command_id, message)
        return list(seen.values())

    def repeats(self) -> int:
        """How many messages repeated a command_id."""
        return len(self.heard) - len({message.command_id for message in list(self.heard)})

    def numbers(self) -> dict[str, list[int]]:
        """For each device, the payloads' `n` in the order of first arrival, of commands that have one."""
        found: dict[str, list[int]] = {}
        for message in self.firsts():
            if "n" in message.body:
                found.setdefault(message.topic_id, []).append(message.body["n"])
        return found

    def on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        """Note a command and answer it; called on paho's thread."""
        root, topic_id, _ = message.topic.split("/")
        body = json.loads(message.payload)
        heard = Heard(root, topic_id, body.get("command_id", ""), body, time.monotonic())
        if message.dup and any(heard.command_id == known.command_id for known in self.heard):
            return  # the broker's own repeat: our PUBACK to it got lost
        self.heard.append(heard)
        if self.answering and heard.command_id and topic_id not in self._left:
            self.answer(heard)


@asynccontextmanager
async def fleet(
    port: int, *, answering: bool = True, topics: Iterable[str] = _COMMANDS
) -> AsyncIterator[Fleet]:
    """Devices that are subscribed before they are handed over; their session outlives connections."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id="the-devices", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.max_inflight_messages_set(200)
    client.reconnect_delay_set(0.1, 0.5)  # type: ignore[arg-type]  # it sleeps them, so parts of a second do
    made = Fleet(client, answering)
    subscribed = asyncio.Event()
    loop = asyncio.get_running_loop()
    wanted = [(topic, 1) for topic in topics]

    def on_connect(*_: object) -> None:
        client.subscribe(wanted)

    def on_subscribe(*_: object) -> None:
        loop.call_soon_threadsafe(subscribed.set)

    client.on_message, client.on_connect, client.on_subscribe = made.on_message, on_connect, on_subscribe
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho gives it no types
    properties.SessionExpiryInterval = 3600
    client.connect(HOST, port, keepalive=30, clean_start=False, properties=properties)
    client.loop_start()
    try:
        await eventually(subscribed.is_set, "the devices' subscriptions")
        yield made
    finally:
        client.on_subscribe = client.on_message = client.on_connect = None
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
