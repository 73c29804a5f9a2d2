"""A simulated device's commands: it obeys them one after another, and acknowledges each."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal, Protocol

from mqtt_service.simulator.camera import Camera
from mqtt_service.simulator.firmware import fetch_firmware
from mqtt_service.simulator.incoming import ADDRESS, command_type
from mqtt_service.simulator.options import Answer, DeviceOptions
from mqtt_service.simulator.outgoing import acknowledgement, progress_report


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


def received_command(fields: Mapping[str, Any], topic: str, at: float) -> ReceivedCommand:
    """Return the command in a message that came `at` this time; whether it is a duplicate shows later."""
    command_id = fields.get("command_id")
    return ReceivedCommand(command_type(fields), command_id, fields, topic, at, duplicate=False)


class Device(Protocol):
    """What commands need of their device; `answers` gives, by command type, another answer than success."""

    options: DeviceOptions
    answers: dict[str, Answer]
    camera: Camera | None
    config: dict[str, Any]

    async def send(self, kind: Literal["status", "ack"], document: Mapping[str, Any]) -> None:
        """Publish by radio."""

    def learn_next_wake(self, time: object) -> None:
        """Remember when to wake next."""

    def reboot(self) -> None:
        """Begin anew."""

    def install(self, version: str) -> None:
        """Begin anew with other firmware."""


class CommandLoop:
    """Obeys what was put into it; `on_taken` is called before a command's answer, `on_done` after it."""

    def __init__(
        self,
        device: Device,
        rng: Random,
        on_taken: Callable[[ReceivedCommand], None],
        on_done: Callable[[ReceivedCommand], None],
    ) -> None:
        self._device = device
        self._rng = rng
        self._on_taken = on_taken
        self._on_done = on_done
        self._obeyed: set[str] = set()
        self._waiting: asyncio.Queue[ReceivedCommand] = asyncio.Queue()
        self._obeying = False

    @property
    def busy(self) -> bool:
        """Whether a command waits or is being obeyed."""
        return self._obeying or not self._waiting.empty()

    def put(self, command: ReceivedCommand) -> None:
        """Have it obeyed after those before it."""
        self._waiting.put_nowait(command)

    def reset(self) -> None:
        """Forget the commands that wait, as sleep does; those that were obeyed are remembered."""
        self._waiting = asyncio.Queue()
        self._obeying = False

    async def run(self) -> None:
        """Obey until cancelled."""
        while True:
            arrived = await self._waiting.get()
            self._obeying = True
            command = replace(arrived, duplicate=arrived.command_id in self._obeyed)
            await asyncio.sleep(self._rng.uniform(*self._device.options.think_seconds))
            self._on_taken(command)
            if not command.duplicate:
                await self._report(command)
            await self._answer(command)
            self._obeying = False
            self._on_done(command)

    async def _report(self, command: ReceivedCommand) -> None:
        options = self._device.options
        if command.command_id is None:
            return
        for percent in options.reports.get(command.command_type, ()):
            document = progress_report(
                options.device_id, options.ack_form, command.command_type, command.command_id, percent
            )
            await self._device.send("ack", document)
            await asyncio.sleep(self._rng.uniform(*options.think_seconds))

    async def _answer(self, command: ReceivedCommand) -> None:
        answer = self._device.answers.get(command.command_type, "success")
        if answer == "success" and command.command_type == "set_wake_schedule":
            self._device.learn_next_wake(command.fields["next_wake"])  # the same time twice is no harm
        fetched = "elsewhere"
        if answer == "success" and command.command_type == "update_firmware" and not command.duplicate:
            fetched = await fetch_firmware(command.fields)
            answer = "failed" if fetched == "broken" else answer
        if answer == "success" and not command.duplicate:
            answer = self._obey(command)
        if command.command_id is not None and answer != "none":
            options = self._device.options
            document = acknowledgement(
                options.device_id, options.ack_form, command.command_type, command.command_id, answer
            )
            await self._device.send("ack", document)
        if answer == "success" and fetched == "fetched":
            self._device.install(str(command.fields.get("version")))

    def _obey(self, command: ReceivedCommand) -> Answer:
        """Do what can be done at once; returns "failed" for a picture that is not on the card."""
        camera = self._device.camera
        if command.command_type == "send_image" and camera is not None:
            name = str(command.fields["send_image"])
            if not camera.send(name):
                return "failed"
        if command.command_id is not None:
            self._obeyed.add(command.command_id)
        if command.command_type == "update_config":
            settings = {key: value for key, value in command.fields.items() if key not in ADDRESS}
            self._device.config.update(settings)
        if command.command_type == "capture_image" and camera is not None:
            camera.capture()
        if command.command_type == "reboot":
            self._device.reboot()
        return "success"
