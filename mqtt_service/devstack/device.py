"""A simulated ESP32-CAM that speaks PROTOCOL.md over a real MQTT connection.

It reads and writes JSON on its own, without the service's parsers and encoders: so what both sides agree on
is the wire, not a common mistake. What breaks the protocol, it notes in `complaints`.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from mqtt_service.devstack.device_link import DeviceLink, LinkOptions, Received

Root = Literal["device", "ESP32CAM"]
AckForm = Literal["plain", "typed", "by_id"]
Answer = Literal["success", "failed", "rejected", "none"]

ROOTS: tuple[Root, ...] = ("device", "ESP32CAM")
ACK_FORMS: tuple[AckForm, ...] = ("plain", "typed", "by_id")

_CLOCK = re.compile(r"(1[0-2]|[1-9]):[0-5][0-9](AM|PM)")
_ADDRESS = frozenset({"device_id", "command_id"})


@dataclass(frozen=True)
class DeviceOptions:
    """How one device behaves.

    `device_id` is spelled on the topics as it stands here. `ack_form`: "plain" {"command_ack":
    "acknowledged"}, "typed" {"command_ack": {"type", "status"}}, "by_id" with the command_id. `answers`
    gives, for a command type, another answer than success; "none" is no answer at all. `think_seconds`: it
    takes this long to obey, from and to.
    """

    device_id: str
    root: Root = "device"
    ack_form: AckForm = "by_id"
    answers: Mapping[str, Answer] = field(default_factory=dict)
    think_seconds: tuple[float, float] = (0.0, 0.0)
    pending_images: tuple[str, ...] = ()
    keep_session: bool = False


@dataclass(frozen=True)
class ReceivedCommand:
    """One command as it arrived; `fields` is the JSON object, `at` the event loop's clock in seconds.

    `duplicate`: this command_id was obeyed before, so the device acknowledges it and does nothing.
    """

    command_type: str
    command_id: str | None
    fields: Mapping[str, Any]
    topic: str
    at: float
    duplicate: bool


class SimulatedDevice:
    """An async context manager: inside the block the device is connected and has said HELLO.

    It obeys one command after another. `received` is every command, duplicates too, in order of arrival;
    `next_wake` the last wake time it was told; `on_command` is called for each command after its answer was
    sent. Raises BrokerUnavailableError if there is no broker.
    """

    def __init__(
        self,
        options: DeviceOptions,
        host: str,
        port: int,
        *,
        rng: Random,
        on_command: Callable[["SimulatedDevice", ReceivedCommand], None] | None = None,
    ) -> None:
        self.options = options
        self.received: list[ReceivedCommand] = []
        self.complaints: list[str] = []
        self.answers: dict[str, Answer] = dict(options.answers)
        self.next_wake: str | None = None
        self._rng = rng
        self._on_command = on_command
        self._obeyed: set[str] = set()
        self._inbox: asyncio.Queue[ReceivedCommand] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        name = re.sub(r"[^0-9A-Za-z]", "", options.device_id)
        self._link = DeviceLink(
            LinkOptions(host, port, f"{options.root}-{name}", self.topic("cmd"), options.keep_session),
            self._read,
            self._awake,
        )

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        self._spawn(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.__aexit__(kind, error, trace)

    def topic(self, kind: Literal["status", "cmd", "ack", "data"]) -> str:
        """Return the device's own topic of this kind."""
        return f"{self.options.root}/{self.options.device_id}/{kind}"

    async def hello(self) -> None:
        """Say that it is awake; returns when the broker has it."""
        images = self.options.pending_images
        await self.publish("status", {
            "device_id": self.options.device_id,
            "status": "alive",
            "pendingImg": len(images),
            "pending_list": list(images[:10]),
            "firmware_version": "sim-1",
            "battery_voltage": round(self._rng.uniform(3.6, 4.1), 2),
            "wifi_rssi": self._rng.randint(-80, -45),
        })  # fmt: skip

    async def publish(self, kind: Literal["status", "ack", "data"], document: Mapping[str, Any]) -> None:
        """Publish any JSON object at QoS 1 on one of its topics; returns when the broker has it."""
        await self._link.publish(self.topic(kind), json.dumps(document).encode())

    async def wait_for(self, seen: Callable[["SimulatedDevice"], bool], seconds: float = 10.0) -> None:
        """Return once `seen` is true of this device. Raises TimeoutError after `seconds`."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: seen(self))

    def lose_connection(self) -> None:
        """Fall off the network without a word; it connects again and says HELLO."""
        self._link.drop()

    def _awake(self) -> None:
        self._spawn(self.hello())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read(self, message: Received) -> None:
        """Take a message in; obeying it takes time and happens in `_work`."""
        try:
            fields = json.loads(message.payload)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            self.complaints.append(f"{message.topic}: not a JSON object: {message.payload[:80]!r}")
            return
        self.complaints += [f"{message.topic}: {fault}" for fault in self._faults(message, fields)]
        command_id = fields.get("command_id")
        at = asyncio.get_running_loop().time()
        self._inbox.put_nowait(
            ReceivedCommand(command_type(fields), command_id, fields, message.topic, at, duplicate=False)
        )

    def _faults(self, message: Received, fields: Mapping[str, Any]) -> list[str]:
        faults = []
        if message.retained:
            faults.append("a command was retained")
        if message.qos != 1:
            faults.append(f"QoS {message.qos}, not 1")
        if _key(str(fields.get("device_id"))) != _key(self.options.device_id):
            faults.append(f"device_id is {fields.get('device_id')!r}")
        wake = fields.get("next_wake")
        if wake is not None and not is_wake_time(wake):
            faults.append(f"next_wake is {wake!r}")
        if wake is None and not isinstance(fields.get("command_id"), str):
            faults.append("no command_id")
        return faults

    async def _work(self) -> None:
        while True:
            arrived = await self._inbox.get()
            command = replace(arrived, duplicate=arrived.command_id in self._obeyed)
            await asyncio.sleep(self._rng.uniform(*self.options.think_seconds))
            async with self._changed:
                self.received.append(command)
                self._changed.notify_all()
            await self._answer(command, self.answers.get(command.command_type, "success"))
            if self._on_command is not None:
                self._on_command(self, command)

    async def _answer(self, command: ReceivedCommand, answer: Answer) -> None:
        if answer == "success" and not command.duplicate:
            self._obey(command)
        if command.command_id is not None and answer != "none":
            await self.publish("ack", self._acknowledgement(command, answer))

    def _obey(self, command: ReceivedCommand) -> None:
        if command.command_id is not None:
            self._obeyed.add(command.command_id)
        if command.command_type == "set_wake_schedule":
            self.next_wake = command.fields["next_wake"]
        if command.command_type == "reboot":
            self._spawn(self.hello())

    def _acknowledgement(self, command: ReceivedCommand, answer: Answer) -> dict[str, Any]:
        device = {"device_id": self.options.device_id}
        word = "acknowledged" if answer == "success" else answer
        reason = {} if answer == "success" else {"reason": f"simulated: {answer}"}
        match self.options.ack_form:
            case "plain":
                return {**device, "command_ack": word, **reason}
            case "typed":
                message = reason.get("reason", "done")
                return {
                    **device,
                    "command_ack": {"type": command.command_type, "status": answer, "message": message},
                }
            case "by_id":
                return {**device, "command_id": command.command_id, "command_ack": word, **reason}


def command_type(fields: Mapping[str, Any]) -> str:
    """Return which of the six commands this is, as firmware tells them apart: by their keys."""
    if fields.get("capture_image") is True:
        return "capture_image"
    if fields.get("reboot") is True:
        return "reboot"
    for key, name in (
        ("send_image", "send_image"),
        ("next_wake", "set_wake_schedule"),
        ("firmware_url", "update_firmware"),
    ):
        if key in fields:
            return name
    return "update_config" if fields.keys() - _ADDRESS else "unknown"


def is_wake_time(value: object) -> bool:
    """Return whether firmware can read it: `5:30PM`, or ISO 8601 with an offset."""
    if not isinstance(value, str):
        return False
    if _CLOCK.fullmatch(value):
        return True
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _key(device_id: str) -> str:
    """Twelve hex digits are one device, whatever their separators."""
    digits = re.sub(r"[:.\-\s]", "", device_id)
    return digits.upper() if re.fullmatch(r"[0-9A-Fa-f]{12}", digits) else device_id
