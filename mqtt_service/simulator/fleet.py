"""A fleet of simulated devices that wake, take pictures, upload them and sleep, on any broker."""

import asyncio
import json
import sys
from itertools import count
from random import Random

from rich.console import Console

from mqtt_service.devstack.signals import run_until_signal
from mqtt_service.errors import BrokerUnavailableError, ServiceError
from mqtt_service.simulator.access import Access
from mqtt_service.simulator.device import SimulatedDevice
from mqtt_service.simulator.fleet_options import FleetOptions, plan_devices
from mqtt_service.simulator.fleet_report import Report
from mqtt_service.simulator.fleet_view import show
from mqtt_service.simulator.link import DeviceLink, LinkOptions

_RECONNECT_SECONDS = 1.0


class Fleet:
    """The devices and their lives. `report` says what became of them, at any time."""

    def __init__(self, options: FleetOptions, host: str, port: int, access: Access) -> None:
        self.devices = [
            SimulatedDevice(device, host, port, rng=_rng(options.seed, number), access=access)
            for number, device in enumerate(plan_devices(options))
        ]
        self._options = options
        self._probe = LinkOptions(host, port, "simulated-fleet", ("device/-/cmd",), access=access)
        self._began = self._ended = 0.0
        self._finished = False

    async def run(self) -> None:
        """Return when every device is done or hung. Raises BrokerUnavailableError if there is no broker."""
        async with DeviceLink(self._probe, lambda _: None, lambda: None):
            pass  # the broker can be reached
        self._began = _clock()
        try:
            async with asyncio.TaskGroup() as lives:
                for number, device in enumerate(self.devices):
                    lives.create_task(self._run_device(device, _rng(self._options.seed, number)))
            self._finished = True
        finally:
            self._ended = _clock()
            await asyncio.gather(*(device.close() for device in self.devices))

    def report(self) -> Report:
        """Return what became of the fleet so far."""
        return Report(self.devices, self._ended - self._began, self._finished)

    async def _run_device(self, device: SimulatedDevice, rng: Random) -> None:
        await asyncio.sleep(rng.uniform(0, self._options.sleep))
        extra_wakes = 0
        for number in count(1):
            if self._is_due(number):
                self._take_pictures(device)
            elif extra_wakes < self._options.extra_wakes and self._has_pictures(device):
                extra_wakes += 1
            else:
                return
            await self._wake(device)
            if (await device.asleep()).ended == "hung":
                return
            await asyncio.sleep(self._options.sleep * rng.uniform(0.5, 1.5))

    def _is_due(self, number: int) -> bool:
        """Whether a device wakes for the `number`th time to take pictures."""
        options = self._options
        if options.seconds and _clock() - self._began >= options.seconds:
            return False
        return options.wakes == 0 or number <= options.wakes

    def _take_pictures(self, device: SimulatedDevice) -> None:
        if device.camera is not None:
            for _ in range(self._options.pictures):
                device.camera.take()

    def _has_pictures(self, device: SimulatedDevice) -> bool:
        return device.camera is not None and len(device.camera.card) > 0

    async def _wake(self, device: SimulatedDevice) -> None:
        while True:
            try:
                await device.wake()
            except BrokerUnavailableError:
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return


def run_fleet(options: FleetOptions, host: str, port: int, access: Access, *, as_json: bool = False) -> int:
    """Run a fleet with a view of it and a summary, or print one JSON object; until it is done or a signal.

    Returns 0; 1 if a device hung, a picture was not acknowledged, or there is no broker.
    """
    fleet = Fleet(options, host, port, access)
    console = Console(soft_wrap=True, highlight=False)
    try:
        run_until_signal(_run(fleet, None if as_json else console), interrupted=0)
    except ServiceError as error:
        print(f"mqtt-service: {error}", file=sys.stderr)  # noqa: T201 - the command line's own output
        return 1
    report = fleet.report()
    if as_json:
        print(json.dumps(report.document()))  # noqa: T201 - the command line's own output
    else:
        console.print("\n".join(report.lines()), markup=False)
    return 1 if report.failed else 0


async def _run(fleet: Fleet, console: Console | None) -> int:
    view = asyncio.create_task(show(fleet.devices, console)) if console is not None else None
    try:
        await fleet.run()
    finally:
        if view is not None:
            view.cancel()
            await asyncio.gather(view, return_exceptions=True)
    return 0


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _rng(seed: int, number: int) -> Random:
    return Random(f"device {seed} {number}")  # noqa: S311 - a simulation, nothing secret
