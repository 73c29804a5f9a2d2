"""`mqtt-service demo`: the embedded stack, the worker as a process of its own, and simulated devices.

Devices announce themselves, are mapped and welcomed; an operator queues each built-in command for each;
pictures arrive over a bad network (see pictures). What happens is shown as it happens; the verdict comes at
the end (see report).
"""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random

import httpx
from postgrest import APIError
from rich.console import Console
from storage3.exceptions import StorageApiError

from mqtt_service.demo.dashboard import SITES, CommandRow, Dashboard, UnmappedDevice
from mqtt_service.demo.pictures import FORMATS, PictureWake, with_camera
from mqtt_service.demo.report import PAYLOADS, CommandSummary, DeviceSummary, Report
from mqtt_service.demo.worker import DemoWorker
from mqtt_service.devstack.signals import run_until_signal
from mqtt_service.devstack.stack import Stack, running_stack
from mqtt_service.errors import ServiceError
from mqtt_service.simulator.device import ACK_FORMS, ROOTS, DeviceOptions, SimulatedDevice

POLL_INTERVAL = 1.0
# Long enough for two polls of the worker, in which a second welcome would come.
QUIET_SECONDS = 2.5 * POLL_INTERVAL
_CHECK_SECONDS = 0.5
_POLL_SECONDS = 0.2
_INTERRUPTED = 130
# Beyond this many devices, a line for each is more than a person reads.
_LINES_FOR_EACH = 12


def run_demo(*, devices: int, seconds: float, as_json: bool) -> int:
    """Run the demo with `devices` devices, for at most `seconds`; returns 0 if all that should happen did.

    `as_json`: one JSON object on standard output, and the progress on standard error.
    """
    _bypass_proxies()
    demo = Demo(devices, Console(stderr=as_json, highlight=False, soft_wrap=True))
    status = run_until_signal(demo.run(seconds), interrupted=_INTERRUPTED)
    if status == _INTERRUPTED:
        demo.faults.append("interrupted")
    report = demo.report()
    if as_json:
        print(json.dumps(report.as_json()))  # noqa: T201 - the command line's own output
    else:
        demo.console.print(report.as_tables())
    return 0 if report.ok else 1


def _bypass_proxies() -> None:
    """Keep the WebSocket library from using a proxy, which the environment may name, for our own ports."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


def plan_fleet(count: int) -> list[DeviceOptions]:
    """Return how devices behave; six of them cover both topic roots with all three forms of acknowledgement.

    They spell their ids in turn with colons, without, and in lower case.
    """
    fleet = []
    for number in range(count):
        mac = f"02:00:00:00:{number + 1 >> 8 & 255:02X}:{number + 1 & 255:02X}"
        spelled = (mac, mac.replace(":", ""), mac.replace(":", "").lower())[number % 3]
        root, form = ROOTS[number % len(ROOTS)], ACK_FORMS[number // len(ROOTS) % len(ACK_FORMS)]
        fleet.append(DeviceOptions(spelled, root, form, think_seconds=(0.02, 0.12)))
    return fleet


class Demo:
    """One run; `faults` is what went wrong, in words, besides what rows and devices show."""

    def __init__(self, devices: int, console: Console) -> None:
        self.console = console
        self.faults: list[str] = []
        self._fleet = plan_fleet(devices)
        self._devices: dict[str, SimulatedDevice] = {}  # by root and id, as on the topics
        self._pool: list[UnmappedDevice] = []
        self._pictures: list[PictureWake] = []
        self._rows: list[CommandRow] = []
        self._changed = asyncio.Event()
        self._worker: DemoWorker | None = None
        self._started = self._ended = 0.0

    async def run(self, seconds: float) -> int:
        """Show everything, stop everything; returns 0, the verdict is in `report`."""
        clock = asyncio.get_running_loop().time
        self._started = self._ended = clock()
        async with AsyncExitStack() as parts:
            try:
                async with asyncio.timeout(seconds):
                    await self._show(parts)
            except TimeoutError:
                self.faults.append(f"not everything was seen within {seconds:g} s")
            except (APIError, StorageApiError) as error:
                self.faults.append(f"the API refused: {error.message}")
            except (ServiceError, httpx.TransportError) as error:
                self.faults.append(str(error))
            finally:
                self._ended = clock()
            await self._stop_worker()
        return 0

    def report(self) -> Report:
        """Return what was seen so far."""
        return Report(
            self._ended - self._started,
            len(self._fleet),
            tuple(CommandSummary.of(command_type, self._rows) for command_type in PAYLOADS),
            tuple(
                DeviceSummary.of(known.device_code, self._devices[known.address], self._rows_of(known))
                for known in self._pool
            ),
            tuple(picture.summary for picture in self._pictures),
            tuple(self.faults),
        )

    async def _show(self, parts: AsyncExitStack) -> None:
        stack = await parts.enter_async_context(running_stack(data_dir=None))
        self._say(f"Postgres, the API and a broker ({stack.broker.kind}) are up: {stack.url}")
        await self._start_worker(parts, stack)
        dashboard = await parts.enter_async_context(Dashboard(stack.url, stack.keys))
        await self._wake_devices(parts, stack)
        await self._wait_for_the_pool(dashboard)
        await dashboard.watch(self._changed.set)
        await self._map_devices(dashboard)
        await self._queue_commands(dashboard)
        await dashboard.write_reading([known.device_id for known in self._pool])
        edited_at = asyncio.get_running_loop().time()
        await self._upload_pictures(parts, stack, dashboard)
        await self._check_no_second_welcome(dashboard, edited_at)

    async def _start_worker(self, parts: AsyncExitStack, stack: Stack) -> None:
        self._worker = await DemoWorker.start(stack, POLL_INTERVAL)
        parts.push_async_callback(self._worker.stop)
        await self._worker.wait_until_ready()
        self._say(f"the worker is ready: {self._worker.url}/health")

    async def _wake_devices(self, parts: AsyncExitStack, stack: Stack) -> None:
        for number, options in enumerate(self._fleet):
            rng = Random(number)  # noqa: S311 - a simulation, nothing secret
            device = SimulatedDevice(options, stack.mqtt_host, stack.mqtt_port, rng=rng)
            self._devices[_address(options)] = await parts.enter_async_context(device)
        self._say(f"{_unknown_devices(len(self._fleet))} said HELLO")

    async def _wait_for_the_pool(self, dashboard: Dashboard) -> None:
        """Wait until each has registered itself and was told when to wake next."""
        while len(self._pool) < len(self._fleet) or not self._all_know_when_to_wake():
            await asyncio.sleep(_POLL_SECONDS)
            self._check_worker()
            self._pool = [
                known for known in await dashboard.unmapped_devices() if known.address in self._devices
            ]
        codes = dict.fromkeys((self._pool[0].device_code, self._pool[-1].device_code))
        self._say(
            f"in the pool of unmapped devices: {' to '.join(codes)} (001 to 003 are in the seed); "
            "each was told when to wake"
        )

    async def _map_devices(self, dashboard: Dashboard) -> None:
        sites = list(SITES)
        for number, known in enumerate(self._pool):
            site = sites[number % len(sites)]
            await dashboard.map_to_site(known.device_id, site)
            self._say(f"an admin mapped {known.device_code} from the pool to {site}", each=True)
        waiting = list(self._pool)

        def all_welcomed() -> bool:
            for known in [known for known in waiting if self._welcome_wake_time(known) is not None]:
                waiting.remove(known)
                self._show_welcome(known)
            return not waiting

        await self._wait_for_rows(dashboard, all_welcomed)
        self._say("every device was welcomed and has answered")

    async def _queue_commands(self, dashboard: Dashboard) -> None:
        for command_type, payload in PAYLOADS.items():
            await dashboard.queue([known.device_id for known in self._pool], command_type, payload)
        self._say(f"an operator queued each of the {len(PAYLOADS)} commands for each device")
        waiting = list(PAYLOADS)

        def all_ended() -> bool:
            for summary in [CommandSummary.of(command_type, self._rows) for command_type in waiting]:
                if summary.ended == len(self._fleet):
                    waiting.remove(summary.command_type)
                    self._show_commands(summary)
            return not waiting

        await self._wait_for_rows(dashboard, all_ended)

    def _show_commands(self, summary: CommandSummary) -> None:
        counts = f"[cyan]{summary.command_type}[/]: {summary.acknowledged} of {summary.queued} acknowledged"
        right = summary.acknowledged == summary.queued
        self._say(f"{counts}, median {summary.median_ms} ms", right=right)

    async def _upload_pictures(self, parts: AsyncExitStack, stack: Stack, dashboard: Dashboard) -> None:
        """Let the first device of each topic root sleep, and wake with a picture."""
        for known, form in zip(self._first_of_each_root(), FORMATS, strict=False):
            awake = self._devices[known.address]
            await awake.close()
            rng = Random(known.address)  # noqa: S311 - a simulation, nothing secret
            options = with_camera(awake.options, form)
            device = SimulatedDevice(options, stack.mqtt_host, stack.mqtt_port, rng=rng)
            parts.push_async_callback(device.close)
            picture = PictureWake(known.device_code, known.device_id, device, self._say)
            self._pictures.append(picture)
            await picture.wake()
        while not all(picture.ended for picture in self._pictures):
            for picture in self._pictures:
                await picture.update(dashboard)
            self._check_worker()
            await asyncio.sleep(_POLL_SECONDS)
        for picture in self._pictures:
            await picture.compare(dashboard)
            # The same device, at a later wake: what it was told last holds.
            self._devices[_address(picture.device.options)].next_wake = picture.device.next_wake

    def _first_of_each_root(self) -> list[UnmappedDevice]:
        found: dict[str, UnmappedDevice] = {}
        for known in self._pool:
            found.setdefault(self._devices[known.address].options.root, known)
        return [found[root] for root in ROOTS if root in found]

    async def _check_no_second_welcome(self, dashboard: Dashboard, edited_at: float) -> None:
        """Active devices were edited, as heartbeats edit them: give a wrong second welcome time to appear."""
        left = edited_at + QUIET_SECONDS - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, left))
        self._rows = await dashboard.commands()
        self._say("editing a device afterwards did not welcome it a second time")

    async def _stop_worker(self) -> None:
        if self._worker is None:
            return
        status = await self._worker.stop()
        if status == 0:
            self._say("the worker settled what it had in hand and left with status 0")
        else:
            self.faults.append(f"the worker ended with status {status}, not 0")
        if not self.report().ok:
            self.console.print("\nThe worker said last:", style="bold")
            self.console.print(self._worker.last_lines, markup=False)

    async def _wait_for_rows(self, dashboard: Dashboard, seen: Callable[[], bool]) -> None:
        """Read the rows again at each event, and now and then without one, until `seen` is true of them."""
        while True:
            self._changed.clear()
            self._rows = await dashboard.commands()
            if seen():
                return
            self._check_worker()
            try:
                await asyncio.wait_for(self._changed.wait(), _CHECK_SECONDS)
            except TimeoutError:
                continue

    def _check_worker(self) -> None:
        if self._worker is not None:
            self._worker.check()

    def _all_know_when_to_wake(self) -> bool:
        return all(device.next_wake is not None for device in self._devices.values())

    def _rows_of(self, known: UnmappedDevice) -> list[CommandRow]:
        return [row for row in self._rows if row.device_id == known.device_id]

    def _welcome_wake_time(self, known: UnmappedDevice) -> str | None:
        """Return the wake time in the welcome that a device has answered, None before that."""
        answered = {
            str(row.command_id)
            for row in self._rows_of(known)
            if row.welcome and row.status == "acknowledged"
        }
        told = [each for each in self._devices[known.address].received if each.command_id in answered]
        return str(told[0].fields["next_wake"]) if told else None

    def _show_welcome(self, known: UnmappedDevice) -> None:
        form = self._devices[known.address].options.ack_form
        wake = self._welcome_wake_time(known)
        self._say(
            f"{known.device_code} was welcomed and acknowledged (form of answer: {form}): "
            f"it wakes next at {wake} UTC",
            each=True,
        )

    def _say(self, text: str, *, each: bool = False, right: bool = True) -> None:
        """Print a line of progress; `each`: one of as many as there are devices."""
        if each and len(self._fleet) > _LINES_FOR_EACH:
            return
        seconds = asyncio.get_running_loop().time() - self._started
        mark = "[green]✓[/]" if right else "[red]✗[/]"
        self.console.print(f"[dim]{seconds:5.1f} s[/]  {mark} {text}")


def _address(options: DeviceOptions) -> str:
    return f"{options.root}/{options.device_id}"


def _unknown_devices(count: int) -> str:
    return "1 unknown device" if count == 1 else f"{count} unknown devices"
