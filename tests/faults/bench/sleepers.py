"""Simulated devices that wake together, do what they are told, and sleep."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from uuid import UUID

from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.device import SimulatedDevice
from mqtt_service.simulator.options import ACK_FORMS, ROOTS, Answer, DeviceOptions
from mqtt_service.simulator.pictures import PictureFormat
from mqtt_service.simulator.wake import SleepOptions

# More at once, and their HELLOs wait for each other's connections.
_AWAKE_AT_ONCE = 100
_WAKE_SECONDS = 90.0


@dataclass(frozen=True)
class Sleeper:
    """A device and its row."""

    device_id: UUID
    code: str
    device: SimulatedDevice

    def rolls_back(self, whether: bool) -> None:
        """Whether it comes back with its old firmware after it has installed another."""
        self.device.options = replace(self.device.options, rolls_back=whether)

    def told(self, command_type: str) -> int:
        """How many commands of this type it has got, without those that came again."""
        return sum(c.command_type == command_type and not c.duplicate for c in self.device.received)


def make_sleeper(device_id: UUID, mac: str, code: str, port: int, answers: dict[str, Answer]) -> Sleeper:
    """A device asleep, with a camera; `answers` gives, by command type, another answer than success."""
    rng = Random(mac)
    options = DeviceOptions(
        mac,
        rng.choice(ROOTS),
        rng.choice(ACK_FORMS),
        answers=answers,
        camera=CameraOptions(2_000, PictureFormat(1024)),
        sleeps=SleepOptions(settle=20, patience=40),
        firmware_version="1.0.0",
    )
    return Sleeper(device_id, code, SimulatedDevice(options, "127.0.0.1", port, rng=rng))


async def wake_all(sleepers: Iterable[Sleeper]) -> None:
    """Wake them, and return when they sleep again; fails where one hangs awake."""
    gate = asyncio.Semaphore(_AWAKE_AT_ONCE)

    async def live(sleeper: Sleeper) -> None:
        async with gate:
            await sleeper.device.wake()
            wake = await sleeper.device.asleep(_WAKE_SECONDS)
        assert wake.ended == "asleep", (sleeper.code, sleeper.device.complaints)

    async with asyncio.TaskGroup() as lives:
        for sleeper in sleepers:
            lives.create_task(live(sleeper))
