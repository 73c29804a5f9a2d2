"""A site that wakes as one: simulated devices that all say HELLO within a second, in a process of their own.

    python -m mqtt_service.bench.herd_devices HOST PORT DEVICES

All are connected before the first says HELLO. When all sleep again, or hang, one JSON object says what became
of them (`HerdOutcome`). Every second device uploads its picture unasked, the others list it and wait.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from random import Random

from mqtt_service.simulator.camera import Camera, CameraOptions
from mqtt_service.simulator.device import SimulatedDevice
from mqtt_service.simulator.options import DeviceOptions
from mqtt_service.simulator.pictures import Picture
from mqtt_service.simulator.wake import SleepOptions

PICTURE_BYTES = 70_000
_HELLOS_WITHIN = 1.0
_CONNECTING_AT_ONCE = 50
_SLEEPS = SleepOptions(settle=60.0, patience=60.0)
_SEED = 1


@dataclass(frozen=True, slots=True)
class HerdOutcome:
    """What became of a herd; times are monotonic seconds, `answers` seconds from HELLO to the first answer.

    `pictures` are those that the service confirmed, each as the device's id and the hash of its bytes.
    """

    began: float
    last_ack_ok: float
    answers: list[float]
    hung: int
    pictures: list[tuple[str, str]]
    complaints: list[str]


def device_id(number: int) -> str:
    """The id of a device, counted from 1, as the rig has registered it."""
    return f"0A{number:010X}"


def plan_device(number: int) -> DeviceOptions:
    """How a device of the herd behaves."""
    camera = CameraOptions(PICTURE_BYTES, uploads_new=number % 2 == 0)
    return DeviceOptions(device_id(number), camera=camera, sleeps=_SLEEPS)


def picture_of(number: int) -> Picture:
    """The picture that is on a device's card, the same for the same number."""
    (pending,) = _camera(_make_device(number, "", 0)).card
    return pending.picture


def _make_device(number: int, host: str, port: int) -> SimulatedDevice:
    rng = Random(f"{_SEED} {number}")  # noqa: S311 - a simulation, nothing secret
    device = SimulatedDevice(plan_device(number), host, port, rng=rng)
    _camera(device).take()
    return device


def _camera(device: SimulatedDevice) -> Camera:
    if device.camera is None:
        raise AssertionError("every device of the herd has a camera")
    return device.camera


async def wake_herd(host: str, port: int, devices: int) -> HerdOutcome:
    """Wake so many devices at once; returns when all sleep or hang."""
    herd = [_make_device(number, host, port) for number in range(1, devices + 1)]
    start, at_once = asyncio.Event(), asyncio.Semaphore(_CONNECTING_AT_ONCE)
    rng = Random(_SEED)  # noqa: S311 - a simulation, nothing secret

    async def connect(device: SimulatedDevice, offset: float) -> None:
        async def wait() -> None:
            await start.wait()
            await asyncio.sleep(offset)

        async with at_once:
            await device.wake(before_hello=wait)

    try:
        await asyncio.gather(*(connect(device, rng.uniform(0, _HELLOS_WITHIN)) for device in herd))
        began = asyncio.get_running_loop().time()
        start.set()
        await asyncio.gather(*(device.asleep() for device in herd))
    finally:
        await asyncio.gather(*(device.close() for device in herd))
    return _outcome(herd, began)


def _outcome(herd: list[SimulatedDevice], began: float) -> HerdOutcome:
    wakes = [wake for device in herd for wake in device.wakes]
    confirmed = [
        (device.options.device_id, picture.sha256)
        for device in herd
        for picture in _camera(device).card.confirmed
    ]
    return HerdOutcome(
        began,
        max((wake.acknowledged_at for wake in wakes if wake.acknowledged_at is not None), default=began),
        [wake.answer_seconds for wake in wakes if wake.answer_seconds is not None],
        sum(wake.ended == "hung" for wake in wakes),
        confirmed,
        [f"{device.options.device_id}: {text}" for device in herd for text in device.complaints],
    )


def _main(host: str, port: str, devices: str) -> None:
    outcome = asyncio.run(wake_herd(host, int(port), int(devices)))
    print(json.dumps(asdict(outcome)))  # noqa: T201 - read by whoever started this process


if __name__ == "__main__":
    _main(*sys.argv[1:])
