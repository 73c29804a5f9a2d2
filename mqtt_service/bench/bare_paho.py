"""Bare paho: what the service's rates are held against, and the other end of its messages.

    publish FILE      publish the file's messages at QoS 1 as fast as paho does, say when that began and ended
    publish-each FILE the same, each only after the PUBACK of the one before
    answer            be all devices: acknowledge every command

Each is a process of its own, so that it shares no interpreter with what is measured. Times are monotonic
seconds, which all processes of a machine share.
"""

import json
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

COMMANDS = ("device/+/cmd", "ESP32CAM/+/cmd")
READY = "ready"
# As much as the worker lets the broker send ahead.
_RECEIVE_MAXIMUM = 500
_TIMEOUT_SECONDS = 30.0


class Message(NamedTuple):
    """A topic, a payload of text, and after how many seconds the broker drops it (None: never)."""

    topic: str
    payload: str
    expiry: int | None = None


class Listener:
    """A context manager: a paho client that takes in all messages on `topics`, at QoS 1.

    `heard` grows by each message and when it came; it may be read at any time.
    """

    def __init__(self, host: str, port: int, topics: Sequence[str]) -> None:
        self.heard: list[tuple[float, Message]] = []
        self._address = (host, port)
        self._topics = topics
        self._client = _client()
        self._client.on_message = self._take

    def __enter__(self) -> Self:
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        _connect(self._client, *self._address)
        self._client.subscribe([(topic, 1) for topic in self._topics])
        _wait(subscribed, "SUBACK")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def messages(self) -> list[Message]:
        """What was heard, as `write_messages` takes it."""
        return [message for _, message in list(self.heard)]

    def _take(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        expiry = getattr(message.properties, "MessageExpiryInterval", None)
        heard = Message(message.topic, message.payload.decode(), expiry)
        self.heard.append((time.monotonic(), heard))


def write_messages(file: Path, messages: Iterable[Message]) -> None:
    """Write the file that `publish` reads: a JSON array a line."""
    file.write_text("".join(f"{json.dumps(message)}\n" for message in messages), encoding="utf-8")


def publish(host: str, port: int, file: Path, *, each: bool = False) -> tuple[float, float]:
    """Publish the file's messages in order; returns when paho got the first, and the PUBACK of the last."""
    messages = [Message(*json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    properties = [_expiry(message.expiry) for message in messages]
    client, done = _client(), threading.Event()
    acknowledged: list[int] = []

    def on_publish(_client: mqtt.Client, _data: object, mid: int, *_: object) -> None:
        acknowledged.append(mid)
        if len(acknowledged) == len(messages):
            done.set()

    client.on_publish = on_publish
    _connect(client, host, port)
    began = time.monotonic()
    for message, limits in zip(messages, properties, strict=True):
        sent = client.publish(message.topic, message.payload, qos=1, properties=limits)
        if each:
            sent.wait_for_publish(_TIMEOUT_SECONDS)
    _wait(done, "the last PUBACK")
    ended = time.monotonic()
    client.disconnect()
    client.loop_stop()
    return began, ended


def answer(host: str, port: int) -> None:
    """Acknowledge every command with its id, until the process is ended."""
    client = _client()

    def on_message(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        command_id = json.loads(message.payload)["command_id"]
        topic = message.topic.removesuffix("cmd") + "ack"
        client.publish(topic, json.dumps({"command_id": command_id, "command_ack": "success"}), qos=1)

    client.on_message = on_message
    client.on_subscribe = lambda *_: _say(READY)
    _connect(client, host, port)
    client.subscribe([(topic, 1) for topic in COMMANDS])
    threading.Event().wait()


def forget_session(host: str, port: int, client_id: str) -> None:
    """Have the broker drop what it keeps for a client that will not come back."""
    client = _client(client_id)
    _connect(client, host, port)
    client.disconnect()
    client.loop_stop()


def _expiry(seconds: int | None) -> Properties | None:
    if seconds is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = seconds
    return properties


def _client(client_id: str = "") -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
    client.max_queued_messages_set(0)
    return client


def _connect(client: mqtt.Client, host: str, port: int) -> None:
    """Connect with a clean session that ends with the connection, and run paho's thread."""
    connected = threading.Event()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = _RECEIVE_MAXIMUM
    client.on_connect = lambda *_: connected.set()
    client.connect(host, port, clean_start=True, properties=properties)
    client.loop_start()
    _wait(connected, "CONNACK")


def _wait(event: threading.Event, what: str) -> None:
    if not event.wait(_TIMEOUT_SECONDS):
        raise TimeoutError(f"{what} did not come within {_TIMEOUT_SECONDS:.0f} s")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - read by whoever started this process


def _main(arguments: list[str]) -> None:
    match arguments:
        case ["publish" | "publish-each" as verb, host, port, file]:
            _say(json.dumps(publish(host, int(port), Path(file), each=verb == "publish-each")))
        case ["answer", host, port]:
            answer(host, int(port))


if __name__ == "__main__":
    _main(sys.argv[1:])
