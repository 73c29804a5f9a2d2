"""A simulated ESP32-CAM with a real MQTT connection, as docs/protocol.md describes devices.

It reads and writes JSON on its own, without the service's parsers and encoders: so what both sides agree on
is the wire, not a common mistake. What breaks the protocol, it notes in `complaints`.

    options    how one behaves           command_loop   how it obeys and acknowledges
    incoming   what it is told           camera         its pictures and their upload
    outgoing   what it says              card           where it keeps them
    link       its connection            radio          what the network does to its messages
    wake       its wakes, and when they end
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from mqtt_service.simulator.access import Access
from mqtt_service.simulator.camera import Camera
from mqtt_service.simulator.command_loop import CommandLoop, ReceivedCommand, received_command
from mqtt_service.simulator.incoming import is_wake_time, read_message
from mqtt_service.simulator.link import DeviceLink, LinkOptions, ReceivedMessage
from mqtt_service.simulator.options import ACK_FORMS, ROOTS, AckForm, Answer, DeviceOptions, Root
from mqtt_service.simulator.outgoing import heartbeat_document
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
_BUSY_CHECK_SECONDS = 0.05


class SimulatedDevice:
    """An async context manager: inside the block the device is connected and has said HELLO.

    It obeys one command after another. `received` is every command, duplicates too, in order of arrival;
    `next_wake` the last wake time it was told; `on_command` is called for each command after its answer was
    sent. `wakes` are its wakes so far; with `sleeps`, a wake ends by itself, and `wake` begins the next.
    `firmware_version` is what it says of itself, `config` what it was told by update_config.
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
        self.firmware_version = options.firmware_version
        self.config: dict[str, Any] = {}
        self.wakes: list[Wake] = []
        self._rng = rng
        self._on_command = on_command
        self._before_hello: Callable[[], Awaitable[None]] | None = None
        self._commands = CommandLoop(self, rng, self._taken, self._done)
        self._changed = asyncio.Event()
        self._active_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: DeviceLink | None = None
        client_id = f"{options.root}-{re.sub(r'[^0-9A-Za-z]', '', options.device_id)}"
        topics = (self.topic("cmd"), self.topic("ack"))
        self._link_options = LinkOptions(host, port, client_id, topics, options.keep_session, access)
        self._radio = Radio(options.radio, _derived(rng))
        self.camera = self._make_camera(_derived(rng), now)

    async def __aenter__(self) -> Self:
        await self.wake()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Its life: awake, asleep ------------------------------------------------------------------------------

    async def wake(self, before_hello: Callable[[], Awaitable[None]] | None = None) -> Wake:
        """Connect and say HELLO, each time it has connected after awaiting `before_hello`.

        Raises BrokerUnavailableError; RuntimeError if it is awake already.
        """
        if self._link is not None:
            raise RuntimeError(f"{self.options.device_id} is awake already")
        self._before_hello = before_hello
        self._link = DeviceLink(self._link_options, self._receive, self._connected)
        self.wakes.append(wake := Wake())
        if self.camera is not None:
            self.camera.sent = wake.sent
        try:
            await self._link.__aenter__()
        except BaseException:
            self.wakes.pop()
            await self.close()
            raise
        self._note_activity()
        self._start(self._commands.run())
        if self.camera is not None:
            self._start(self.camera.run())
        if self.options.sleeps is not None:
            self._start(self._sleep_after_silence(self.options.sleeps, wake))
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
        self._commands.reset()
        if self.camera is not None:
            self.camera.reset()

    def reboot(self) -> None:
        """Begin this wake anew: with another HELLO, and without knowing when to wake next."""
        if self.camera is not None:
            self.camera.reset()
        self.wakes[-1].knows_next_wake = False
        self._start(self.send_heartbeat())

    def install(self, version: str) -> None:
        """Begin this wake anew with other firmware, or with the old one where that does not start."""
        if not self.options.rolls_back:
            self.firmware_version = version
        self.reboot()

    def lose_connection(self) -> None:
        """Fall off the network without a word; it connects again and says HELLO."""
        if self._link is not None:
            self._link.drop()

    @property
    def busy(self) -> bool:
        """Whether it obeys a command or sends a picture right now."""
        return self._commands.busy or (self.camera is not None and self.camera.busy)

    async def wait_for(self, seen: Callable[["SimulatedDevice"], bool], seconds: float | None = 10.0) -> None:
        """Return once `seen` is true of this device. Raises TimeoutError after `seconds`."""
        async with asyncio.timeout(seconds):
            while not seen(self):
                self._changed.clear()
                await self._changed.wait()

    async def _sleep_after_silence(self, options: SleepOptions, wake: Wake) -> None:
        """End the wake after the silence that ends it."""
        while True:
            unfinished = self.camera is not None and self.camera.unfinished
            silence = options.silence(knows_next_wake=wake.knows_next_wake, unfinished=unfinished)
            left = self._active_at + silence - _clock()
            if left <= 0 and not self.busy:
                break
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, _BUSY_CHECK_SECONDS)):
                    await self._changed.wait()
        await self._end(wake, "asleep" if wake.knows_next_wake else "hung")

    async def _end(self, wake: Wake, ending: Ending) -> None:
        if ending == "hung":
            what = "its next wake time" if wake.answered_at else "any answer"
            self.complaints.append(f"hung awake: it waited in vain for {what}")
        await self.close()
        wake.ended, wake.ended_at = ending, _clock()
        self._changed.set()

    def _note_activity(self) -> None:
        """Something happened: the silence begins anew, and whoever waits looks again."""
        self._active_at = _clock()
        self._changed.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.complaints.append(f"the simulation itself failed: {error!r}")
            self._changed.set()

    # What it says -----------------------------------------------------------------------------------------

    def topic(self, kind: Literal["status", "cmd", "ack", "data"]) -> str:
        """Return the device's own topic of this kind."""
        root = "ESP32CAM" if kind == "data" else self.options.root
        return f"{root}/{self.options.device_id}/{kind}"

    async def send_heartbeat(self) -> None:
        """Say HELLO; returns when the broker has it."""
        count, names = self._pending()
        self.wakes[-1].note_heartbeat(_clock())
        form = self.options.heartbeat_form
        document = heartbeat_document(
            self.options.device_id, form, count, names, self._rng, self.firmware_version
        )
        await self.send("status", document)
        self._note_activity()
        if self.camera is not None:
            self.camera.upload_new()

    async def send(self, kind: Literal["status", "ack"], document: Mapping[str, Any]) -> None:
        """Publish by radio, which may lose or double it."""
        messages = self._radio.transmit([document]) if self._radio.affects("all") else [document]
        for message in messages:
            await self.publish(kind, message)

    async def publish(
        self, kind: Literal["status", "ack", "data"], document: Mapping[str, Any], qos: int = 1
    ) -> None:
        """Publish any JSON object on one of its topics, past the radio; returns when the broker has it."""
        if self._link is not None:
            await self._link.publish(self.topic(kind), json.dumps(document).encode(), qos)
            self._active_at = _clock()

    def _connected(self) -> None:
        self._start(self._say_hello())

    async def _say_hello(self) -> None:
        if self._before_hello is not None:
            await self._before_hello()
        await self.send_heartbeat()

    def _pending(self) -> tuple[int, list[str] | None]:
        if self.camera is not None:
            return self.camera.pending()
        images = self.options.pending_images
        return len(images), list(images[:10])

    def _make_camera(self, rng: Random, now: Callable[[], datetime]) -> Camera | None:
        options = self.options.camera
        if options is None:
            return None

        async def publish(document: Mapping[str, Any]) -> None:
            await self.publish("data", document, options.qos)

        return Camera(self.options.device_id, options, publish, self._radio, rng, now, self._note_activity)

    # What it hears ----------------------------------------------------------------------------------------

    def _receive(self, message: ReceivedMessage) -> None:
        incoming = read_message(message, self.options.device_id)
        self._complain(message, *incoming.faults)
        if incoming.kind in {"unreadable", "own"}:
            return
        self.wakes[-1].note_answer(_clock())
        if incoming.kind == "command":
            self._commands.put(received_command(incoming.fields, message.topic, _clock()))
        elif incoming.usable and self.camera is not None:
            self._take_reply(message, incoming.fields, self.camera)
        self._note_activity()

    def _complain(self, message: ReceivedMessage, *faults: str) -> None:
        self.complaints += [f"{message.topic}: {fault}" for fault in faults]

    def _take_reply(self, message: ReceivedMessage, fields: Mapping[str, Any], camera: Camera) -> None:
        name = fields["image_name"]
        if "ACK_OK" not in fields:
            camera.send_again(name, fields["missing_chunks"])
            return
        if camera.card.get(name) is not None:
            self.wakes[-1].note_acknowledged(name, _clock())
        fault = camera.confirm(name)
        self._complain(message, *([fault] if fault else []))
        self.learn_next_wake(fields["ACK_OK"]["next_wake_time"])

    def _taken(self, command: ReceivedCommand) -> None:
        self.received.append(command)
        self._note_activity()

    def _done(self, command: ReceivedCommand) -> None:
        self._note_activity()
        if self._on_command is not None:
            self._on_command(self, command)

    def learn_next_wake(self, time: object) -> None:
        """Remember when to wake next, if firmware can read that."""
        if isinstance(time, str) and is_wake_time(time):
            self.next_wake = time
            self.wakes[-1].knows_next_wake = True


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _derived(rng: Random) -> Random:
    """A generator of its own, so that what is drawn from it does not depend on the order of events."""
    return Random(rng.getrandbits(64))  # noqa: S311 - a simulation, nothing secret
