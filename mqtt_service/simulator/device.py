"""A simulated ESP32-CAM that speaks PROTOCOL.md over a real MQTT connection.

It reads and writes JSON on its own, without the service's parsers and encoders: so what both sides agree on
is the wire, not a common mistake. What breaks the protocol, it notes in `complaints`.

    options    how one behaves        wake     its wakes, and when they end
    commands   what it is told        camera   its pictures and their upload
    messages   what it says           radio    what the network does to that
    link       its connection
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from mqtt_service.simulator.access import Access
from mqtt_service.simulator.camera import Camera
from mqtt_service.simulator.commands import (
    command_faults,
    command_type,
    device_key,
    is_wake_time,
    reply_faults,
)
from mqtt_service.simulator.link import DeviceLink, LinkOptions, Received
from mqtt_service.simulator.messages import acknowledgement, hello_document
from mqtt_service.simulator.options import ACK_FORMS, ROOTS, AckForm, Answer, DeviceOptions, Root
from mqtt_service.simulator.radio import Radio
from mqtt_service.simulator.wake import Ending, SleepOptions, Wake

__all__ = [
    "ACK_FORMS",
    "ROOTS",
    "AckForm",
    "Answer",
    "DeviceOptions",
    "ReceivedCommand",
    "Root",
    "SimulatedDevice",
]

_NO_ACCESS_CONTROL = Access()
_LOOK_SECONDS = 0.05


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
    sent. `wakes` are its wakes so far; with `sleeps`, a wake ends by itself, and `wake` begins the next.
    `camera` is None where the options name none. What `now` returns is aware.

    Raises BrokerUnavailableError if there is no broker.
    """

    def __init__(
        self,
        options: DeviceOptions,
        host: str,
        port: int,
        *,
        rng: Random,
        on_command: Callable[["SimulatedDevice", ReceivedCommand], None] | None = None,
        access: Access = _NO_ACCESS_CONTROL,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.options = options
        self.received: list[ReceivedCommand] = []
        self.complaints: list[str] = []
        self.answers: dict[str, Answer] = dict(options.answers)
        self.next_wake: str | None = None
        self.wakes: list[Wake] = []
        self._rng = rng
        self._on_command = on_command
        self._obeyed: set[str] = set()
        self._inbox: asyncio.Queue[ReceivedCommand] = asyncio.Queue()
        self._obeying = False
        self._changed = asyncio.Event()
        self._active_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: DeviceLink | None = None
        client_id = f"{options.root}-{re.sub(r'[^0-9A-Za-z]', '', options.device_id)}"
        topics = (self.topic("cmd"), self.topic("ack"))
        self._link_options = LinkOptions(host, port, client_id, topics, options.keep_session, access)
        self._radio = Radio(options.radio, _another(rng))
        self.camera = self._make_camera(_another(rng), now)

    async def __aenter__(self) -> Self:
        await self.wake()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def wake(self) -> Wake:
        """Connect and say HELLO. Raises BrokerUnavailableError; RuntimeError if it is awake already."""
        if self._link is not None:
            raise RuntimeError(f"{self.options.device_id} is awake already")
        self._link = DeviceLink(self._link_options, self._read, self._connected)
        self.wakes.append(wake := Wake())
        if self.camera is not None:
            self.camera.sent = wake.sent
        try:
            await self._link.__aenter__()
        except BaseException:
            self.wakes.pop()
            await self.close()
            raise
        self._stir()
        self._spawn(self._work())
        if self.camera is not None:
            self._spawn(self.camera.run())
        if self.options.sleeps is not None:
            self._spawn(self._tire(self.options.sleeps, wake))
        return wake

    async def asleep(self, seconds: float | None = None) -> Wake:
        """Return the last wake once it has ended, asleep or hung. Raises TimeoutError after `seconds`."""
        await self.wait_for(lambda device: device.wakes[-1].ended is not None, seconds)
        return self.wakes[-1]

    async def close(self) -> None:
        """Leave the network and forget what is under way; a wake that had no end yet has none then."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.__aexit__(None, None, None)
        self._link = None
        self._inbox = asyncio.Queue()
        self._obeying = False
        if self.camera is not None:
            self.camera.reset()

    @property
    def busy(self) -> bool:
        """Whether it obeys a command or sends a picture right now."""
        return self._obeying or not self._inbox.empty() or (self.camera is not None and self.camera.busy)

    def topic(self, kind: Literal["status", "cmd", "ack", "data"]) -> str:
        """Return the device's own topic of this kind."""
        root = "ESP32CAM" if kind == "data" else self.options.root
        return f"{root}/{self.options.device_id}/{kind}"

    async def hello(self) -> None:
        """Say that it is awake; returns when the broker has it."""
        count, names = self._pending()
        self.wakes[-1].say_hello(_clock())
        document = hello_document(self.options.device_id, self.options.hello_form, count, names, self._rng)
        await self._say("status", document)
        self._stir()
        if self.camera is not None:
            self.camera.upload_new()

    async def publish(
        self, kind: Literal["status", "ack", "data"], document: Mapping[str, Any], qos: int = 1
    ) -> None:
        """Publish any JSON object on one of its topics, past the radio; returns when the broker has it."""
        if self._link is not None:
            await self._link.publish(self.topic(kind), json.dumps(document).encode(), qos)
            self._active_at = _clock()

    async def wait_for(self, seen: Callable[["SimulatedDevice"], bool], seconds: float | None = 10.0) -> None:
        """Return once `seen` is true of this device. Raises TimeoutError after `seconds`."""
        async with asyncio.timeout(seconds):
            while not seen(self):
                self._changed.clear()
                await self._changed.wait()

    def lose_connection(self) -> None:
        """Fall off the network without a word; it connects again and says HELLO."""
        if self._link is not None:
            self._link.drop()

    def _make_camera(self, rng: Random, now: Callable[[], datetime]) -> Camera | None:
        options = self.options.camera
        if options is None:
            return None

        async def publish(document: Mapping[str, Any]) -> None:
            await self.publish("data", document, options.qos)

        return Camera(self.options.device_id, options, publish, self._radio, rng, now, self._stir)

    def _pending(self) -> tuple[int, list[str] | None]:
        if self.camera is not None:
            return self.camera.pending()
        images = self.options.pending_images
        return len(images), list(images[:10])

    # Its life ---------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        self._spawn(self.hello())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.complaints.append(f"the simulation itself failed: {error!r}")
            self._changed.set()

    def _stir(self) -> None:
        """Something happened: the silence begins anew, and whoever waits looks again."""
        self._active_at = _clock()
        self._changed.set()

    async def _tire(self, options: SleepOptions, wake: Wake) -> None:
        """End the wake after the silence that ends it."""
        while True:
            unfinished = self.camera is not None and self.camera.unfinished
            silence = options.silence(told=wake.told, unfinished=unfinished)
            left = self._active_at + silence - _clock()
            if left <= 0 and not self.busy:
                break
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, _LOOK_SECONDS)):
                    await self._changed.wait()
        await self._end(wake, "asleep" if wake.told else "hung")

    async def _end(self, wake: Wake, ending: Ending) -> None:
        if ending == "hung":
            what = "its next wake time" if wake.answered_at else "any answer"
            self.complaints.append(f"hung awake: it waited in vain for {what}")
        await self.close()
        wake.ended, wake.ended_at = ending, _clock()
        self._changed.set()

    # What it hears ----------------------------------------------------------------------------------------

    def _read(self, message: Received) -> None:
        """Take a message in; obeying a command takes time and happens in `_work`."""
        try:
            fields = json.loads(message.payload)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            self._complain(message, f"not a JSON object: {message.payload[:80]!r}")
            return
        is_reply = message.topic == self.topic("ack")
        if is_reply and "command_ack" in fields:
            return  # its own
        self.wakes[-1].hear(_clock())
        self._complain(message, *self._faults_of_any(message, fields))
        if is_reply:
            self._take_reply(message, fields)
        else:
            self._take_command(message, fields)
        self._stir()

    def _complain(self, message: Received, *faults: str) -> None:
        self.complaints += [f"{message.topic}: {fault}" for fault in faults]

    def _faults_of_any(self, message: Received, fields: Mapping[str, Any]) -> list[str]:
        faults = ["the message was retained"] if message.retained else []
        if device_key(str(fields.get("device_id"))) != device_key(self.options.device_id):
            faults.append(f"device_id is {fields.get('device_id')!r}")
        return faults

    def _take_command(self, message: Received, fields: Mapping[str, Any]) -> None:
        self._complain(message, *command_faults(fields, message.qos))
        at, kind = _clock(), command_type(fields)
        command_id = fields.get("command_id")
        self._inbox.put_nowait(ReceivedCommand(kind, command_id, fields, message.topic, at, duplicate=False))

    def _take_reply(self, message: Received, fields: Mapping[str, Any]) -> None:
        faults = reply_faults(fields)
        self._complain(message, *faults)
        if faults or self.camera is None:
            return
        name = fields["image_name"]
        if "ACK_OK" not in fields:
            self.camera.send_again(name, fields["missing_chunks"])
            return
        if self.camera.card.get(name) is not None:
            self.wakes[-1].acknowledged.append(name)
        fault = self.camera.confirm(name)
        self._complain(message, *([fault] if fault else []))
        self._learn_wake(fields["ACK_OK"]["next_wake_time"])

    def _learn_wake(self, time: object) -> None:
        if isinstance(time, str) and is_wake_time(time):
            self.next_wake = time
            self.wakes[-1].told = True

    # What it does -----------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            arrived = await self._inbox.get()
            self._obeying = True
            command = replace(arrived, duplicate=arrived.command_id in self._obeyed)
            await asyncio.sleep(self._rng.uniform(*self.options.think_seconds))
            self.received.append(command)
            self._stir()
            await self._answer(command, self.answers.get(command.command_type, "success"))
            self._obeying = False
            self._stir()
            if self._on_command is not None:
                self._on_command(self, command)

    async def _answer(self, command: ReceivedCommand, answer: Answer) -> None:
        if answer == "success" and command.command_type == "set_wake_schedule":
            self._learn_wake(command.fields["next_wake"])  # the same time twice is no harm
        if answer == "success" and not command.duplicate:
            answer = self._obey(command)
        if command.command_id is not None and answer != "none":
            document = acknowledgement(
                self.options.device_id,
                self.options.ack_form,
                command.command_type,
                command.command_id,
                answer,
            )
            await self._say("ack", document)

    def _obey(self, command: ReceivedCommand) -> Answer:
        if not self._picture_is_there(command):
            return "failed"
        if command.command_id is not None:
            self._obeyed.add(command.command_id)
        if command.command_type == "capture_image" and self.camera is not None:
            self.camera.capture()
        if command.command_type == "reboot":
            self._reboot()
        return "success"

    def _picture_is_there(self, command: ReceivedCommand) -> bool:
        """Send the picture that it is asked for, if it is asked for one."""
        if command.command_type != "send_image" or self.camera is None:
            return True
        return self.camera.send(str(command.fields["send_image"]))

    def _reboot(self) -> None:
        if self.camera is not None:
            self.camera.reset()
        self.wakes[-1].told = False
        self._spawn(self.hello())

    async def _say(self, kind: Literal["status", "ack"], document: Mapping[str, Any]) -> None:
        """Publish by radio."""
        leaving = self._radio.leave([document]) if self._radio.suffers("all") else [document]
        for each in leaving:
            await self.publish(kind, each)


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _another(rng: Random) -> Random:
    """A generator of its own, so that what is drawn from it does not depend on the order of events."""
    return Random(rng.getrandbits(64))  # noqa: S311 - a simulation, nothing secret
