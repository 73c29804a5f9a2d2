"""`mqtt-service demo`: the embedded stack, the worker as a process of its own, and simulated devices.

Devices are registered, mapped and welcomed; an operator queues each of the six commands for each device; what
happens is shown as it happens, and judged at the end (`demo_report`).
"""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from uuid import UUID

import httpx
from postgrest import APIError
from rich.console import Console

from mqtt_service.devstack.demo_dashboard import SITES, CommandRow, Dashboard
from mqtt_service.devstack.demo_report import PAYLOADS, CommandSummary, DeviceSummary, Report
from mqtt_service.devstack.demo_worker import DemoWorker
from mqtt_service.devstack.device import (
    ACK_FORMS,
    ROOTS,
    DeviceOptions,
    ReceivedCommand,
    SimulatedDevice,
)
from mqtt_service.devstack.signals import run_until_signal
from mqtt_service.devstack.stack import Stack, running_stack
from mqtt_service.errors import ServiceError

POLL_INTERVAL = 1.0
# Long enough for two polls of the worker, in which a second welcome would come.
QUIET_SECONDS = 2.5 * POLL_INTERVAL
_LOOK_SECONDS = 0.5
_INTERRUPTED = 130
# Beyond this many devices, a line for each is more than a person reads.
_LINES_FOR_EACH = 12


def run_demo(*, devices: int, seconds: float, as_json: bool) -> int:
    """Run the demo with `devices` devices, for at most `seconds`; returns 0 if all that should happen did.

    `as_json`: one JSON object on standard output, and the progress on standard error.
    """
    _leave_loopback_to_itself()
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


def _leave_loopback_to_itself() -> None:
    """Keep the WebSocket library from asking a proxy, which the environment may name, for our own ports."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


def plan_fleet(count: int) -> dict[str, DeviceOptions]:
    """Return devices by code; six of them cover both topic roots with all three forms of acknowledgement.

    They spell their ids in turn with colons, without, and in lower case.
    """
    fleet = {}
    for number in range(count):
        mac = f"02:00:00:00:{number + 1 >> 8 & 255:02X}:{number + 1 & 255:02X}"
        spelled = (mac, mac.replace(":", ""), mac.replace(":", "").lower())[number % 3]
        root, form = ROOTS[number % len(ROOTS)], ACK_FORMS[number // len(ROOTS) % len(ACK_FORMS)]
        options = DeviceOptions(spelled, root, form, think_seconds=(0.02, 0.12))
        fleet[f"DEMO-{number + 1:02d}"] = options
    return fleet


class Demo:
    """One run; `faults` is what went wrong, in words, besides what the rows and devices show."""

    def __init__(self, devices: int, console: Console) -> None:
        self.console = console
        self.faults: list[str] = []
        self._fleet = plan_fleet(devices)
        self._devices: dict[str, SimulatedDevice] = {}
        self._ids: dict[str, UUID] = {}
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
            except APIError as error:
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
                DeviceSummary.of(code, device, self._rows_of(code)) for code, device in self._devices.items()
            ),
            tuple(self.faults),
        )

    async def _show(self, parts: AsyncExitStack) -> None:
        stack = await parts.enter_async_context(running_stack(data_dir=None))
        self._say(f"Postgres, the API and a broker ({stack.broker.kind}) are up: {stack.url}")
        await self._start_worker(parts, stack)
        dashboard = await parts.enter_async_context(Dashboard(stack.url, stack.keys))
        await self._wake_devices(parts, stack, dashboard)
        await dashboard.watch(self._changed.set)
        await self._map_devices(dashboard)
        await self._queue_commands(dashboard)
        await self._see_no_second_welcome(dashboard)

    async def _start_worker(self, parts: AsyncExitStack, stack: Stack) -> None:
        self._worker = await DemoWorker.start(stack, POLL_INTERVAL)
        parts.push_async_callback(self._worker.stop)
        await self._worker.wait_until_ready()
        self._say(f"the worker is ready: {self._worker.url}/health")

    async def _wake_devices(self, parts: AsyncExitStack, stack: Stack, dashboard: Dashboard) -> None:
        self._ids = await dashboard.register(self._fleet)
        for number, (code, options) in enumerate(self._fleet.items()):
            rng = Random(number)  # noqa: S311 - a simulation, nothing secret
            device = SimulatedDevice(
                options, stack.mqtt_host, stack.mqtt_port, rng=rng, on_command=self._show_welcome
            )
            self._devices[code] = await parts.enter_async_context(device)
        self._say(f"{len(self._devices)} devices said HELLO, on both topic roots; no site has them yet")

    async def _map_devices(self, dashboard: Dashboard) -> None:
        sites = list(SITES)
        for number, (code, device_id) in enumerate(self._ids.items()):
            site = sites[number % len(sites)]
            await dashboard.map_to_site(device_id, site)
            self._say(f"an admin mapped {code} to {site}", each=True)
        await self._until_rows(dashboard, self._all_welcomed)
        self._say(f"all {len(self._ids)} devices were welcomed and have answered")

    async def _queue_commands(self, dashboard: Dashboard) -> None:
        for command_type, payload in PAYLOADS.items():
            await dashboard.queue(self._ids.values(), command_type, payload)
        self._say(f"an operator queued each of the {len(PAYLOADS)} commands for each device")
        waiting = list(PAYLOADS)

        def all_over() -> bool:
            for summary in [CommandSummary.of(command_type, self._rows) for command_type in waiting]:
                if summary.over == len(self._fleet):
                    waiting.remove(summary.command_type)
                    self._show_commands(summary)
            return not waiting

        await self._until_rows(dashboard, all_over)

    def _show_commands(self, summary: CommandSummary) -> None:
        counts = f"[cyan]{summary.command_type}[/]: {summary.acknowledged} of {summary.queued} acknowledged"
        right = summary.acknowledged == summary.queued
        self._say(f"{counts}, median {summary.median_ms} ms", right=right)

    async def _see_no_second_welcome(self, dashboard: Dashboard) -> None:
        """Edit active devices, as heartbeats do, and give a wrong second welcome the time to show."""
        await dashboard.touch(list(self._ids.values()))
        await asyncio.sleep(QUIET_SECONDS)
        self._rows = await dashboard.commands()
        self._say("devices that were edited since were not welcomed again")

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

    async def _until_rows(self, dashboard: Dashboard, seen: Callable[[], bool]) -> None:
        """Read the rows again at each event, and now and then without one, until they show it."""
        while True:
            self._changed.clear()
            self._rows = await dashboard.commands()
            if seen():
                return
            if self._worker is not None:
                self._worker.check()
            try:
                await asyncio.wait_for(self._changed.wait(), _LOOK_SECONDS)
            except TimeoutError:
                continue

    def _all_welcomed(self) -> bool:
        answered = {row.device_id for row in self._rows if row.welcome and row.status == "acknowledged"}
        return answered >= set(self._ids.values())

    def _rows_of(self, code: str) -> list[CommandRow]:
        return [row for row in self._rows if row.device_id == self._ids[code]]

    def _show_welcome(self, device: SimulatedDevice, command: ReceivedCommand) -> None:
        wakes = [told for told in device.received if told.command_type == "set_wake_schedule"]
        if command in wakes and len(wakes) == 1:
            self._say(
                f"{self._code_of(device)} was welcomed and acknowledged ({device.options.ack_form}): "
                f"it wakes next at {device.next_wake} UTC",
                each=True,
            )

    def _code_of(self, device: SimulatedDevice) -> str:
        return next(code for code, known in self._devices.items() if known is device)

    def _say(self, text: str, *, each: bool = False, right: bool = True) -> None:
        """Print a line of progress; `each`: one of as many as there are devices."""
        if each and len(self._fleet) > _LINES_FOR_EACH:
            return
        seconds = asyncio.get_running_loop().time() - self._started
        mark = "[green]✓[/]" if right else "[red]✗[/]"
        self.console.print(f"[dim]{seconds:5.1f} s[/]  {mark} {text}")
