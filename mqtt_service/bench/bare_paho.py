"""Bare paho: what the service is held against, and the other end of its messages.

    publish FILE         publish the file's messages at QoS 1 as fast as paho does, and wait for each PUBACK
    publish-each FILE    the same, each only after the PUBACK of the one before
    exchange FILE        the same as publish, and take in as many answers of devices
    receive TOPIC NUMBER take in so many messages
    answer               be all devices: acknowledge every command

Each is a process of its own, so that it shares no interpreter with what is measured, and its CPU is its own.
All but `answer` end with one line of JSON: when that began and ended, and the CPU seconds it took. Times are
monotonic seconds, which all processes of a machine share.
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
ANSWERS = ("device/+/ack", "ESP32CAM/+/ack")
READY = "ready"
# As much as the worker lets the broker send ahead.
_RECEIVE_MAXIMUM = 500
_TIMEOUT_SECONDS = 120.0


class Message(NamedTuple):
    """A topic, a payload of text, and after how many seconds the broker drops it (None: never)."""

    topic: str
    payload: str
    expiry: int | None = None


class Spent(NamedTuple):
    """When an exchange began and ended, and the CPU seconds that the process used in between."""

    began: float
    ended: float
    cpu: float


class Listener:
    """A context manager: a paho client that takes in all messages on `topics`, at QoS 1.

    `heard` grows by each message and when it came; it may be read at any time.
    """

    def __init__(self, host: str, port: int, topics: Sequence[str]) -> None:
        self.heard: list[tuple[float, Message]] = []
        self._address = (host, port)
        self._topics = topics
        self._client = client_for()
        self._client.on_message = self._take

    def __enter__(self) -> Self:
        connect(self._client, *self._address)
        _subscribe(self._client, self._topics)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        disconnect(self._client)

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


def publish(host: str, port: int, file: Path, *, each: bool = False, answered: bool = False) -> Spent:
    """Publish the file's messages in order; from the first call of paho to the last PUBACK.

    `each`: one at a time. `answered`: to the last PUBACK or answer, of which there are as many.
    """
    messages = [Message(*json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    properties = [_expiry(message.expiry) for message in messages]
    client, count = client_for(), _Count(len(messages) * (2 if answered else 1))
    client.on_publish = count.one_more
    client.on_message = count.one_more
    connect(client, host, port)
    if answered:
        _subscribe(client, ANSWERS)
    count.begin()
    for message, limits in zip(messages, properties, strict=True):
        sent = client.publish(message.topic, message.payload, qos=1, properties=limits)
        if each:
            sent.wait_for_publish(_TIMEOUT_SECONDS)
    spent = count.wait("the last PUBACK or answer")
    disconnect(client)
    return spent


def receive(host: str, port: int, topic: str, number: int) -> Spent:
    """Say that it is ready, and take in and acknowledge so many messages; from that word to the last one."""
    client, count = client_for(), _Count(number)
    client.on_message = count.one_more
    connect(client, host, port)
    _subscribe(client, [topic])
    count.begin()
    _say(READY)
    spent = count.wait("the last message")
    disconnect(client)
    return spent


def answer(host: str, port: int) -> None:
    """Acknowledge every command with its id, until the process is ended."""
    client = client_for()

    def on_message(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        command_id = json.loads(message.payload)["command_id"]
        topic = message.topic.removesuffix("cmd") + "ack"
        client.publish(topic, json.dumps({"command_id": command_id, "command_ack": "success"}), qos=1)

    client.on_message = on_message
    connect(client, host, port)
    _subscribe(client, COMMANDS)
    _say(READY)
    threading.Event().wait()


def forget_session(host: str, port: int, client_id: str) -> None:
    """Have the broker drop what it keeps for a client that will not come back."""
    client = client_for(client_id)
    connect(client, host, port)
    disconnect(client)


def _expiry(seconds: int | None) -> Properties | None:
    if seconds is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = seconds
    return properties


class _Count:
    """Counts what paho's thread reports, and knows when it is all there."""

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._done = threading.Event()
        self._ended = 0.0
        self._began = Spent(0.0, 0.0, 0.0)

    def begin(self) -> None:
        self._began = Spent(time.monotonic(), 0.0, time.process_time())

    def one_more(self, *_: object) -> None:
        """A callback of paho, whatever its arguments."""
        self._missing -= 1
        if self._missing == 0:
            self._ended = time.monotonic()
            self._done.set()

    def wait(self, what: str) -> Spent:
        _wait(self._done, what)
        return Spent(self._began.began, self._ended, time.process_time() - self._began.cpu)


def client_for(client_id: str = "") -> mqtt.Client:
    """A paho client that keeps whatever it is given until the broker takes it."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
    client.max_queued_messages_set(0)
    return client


def connect(client: mqtt.Client, host: str, port: int) -> None:
    """Connect with a clean session that ends with the connection, and run paho's thread."""
    connected = threading.Event()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = _RECEIVE_MAXIMUM
    client.on_connect = lambda *_: connected.set()
    client.connect(host, port, clean_start=True, properties=properties)
    client.loop_start()
    _wait(connected, "CONNACK")


def disconnect(client: mqtt.Client) -> None:
    """Say goodbye to the broker, and end paho's thread."""
    client.disconnect()
    client.loop_stop()


def _subscribe(client: mqtt.Client, topics: Sequence[str]) -> None:
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe([(topic, 1) for topic in topics])
    _wait(subscribed, "SUBACK")


def _wait(event: threading.Event, what: str) -> None:
    if not event.wait(_TIMEOUT_SECONDS):
        raise TimeoutError(f"{what} did not come within {_TIMEOUT_SECONDS:.0f} s")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - read by whoever started this process


def _main(arguments: list[str]) -> None:
    match arguments:
        case ["publish" | "publish-each" | "exchange" as verb, host, port, file]:
            ways = {"each": verb == "publish-each", "answered": verb == "exchange"}
            _say(json.dumps(publish(host, int(port), Path(file), **ways)))
        case ["receive", host, port, topic, number]:
            _say(json.dumps(receive(host, int(port), topic, int(number))))
        case ["answer", host, port]:
            answer(host, int(port))


if __name__ == "__main__":
    _main(sys.argv[1:])
