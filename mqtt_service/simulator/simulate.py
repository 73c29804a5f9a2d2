"""`mqtt-service simulate`: devices that stay awake, obey and acknowledge, on any broker."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from random import Random

from rich.console import Console
from rich.markup import escape

from mqtt_service.devstack.signals import run_until_signal
from mqtt_service.errors import ServiceError
from mqtt_service.simulator.access import Access
from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.device import (
    ACK_FORMS,
    DeviceOptions,
    ReceivedCommand,
    Root,
    SimulatedDevice,
)

# The devices of supabase/seed.sql; any more get locally administered addresses.
SEEDED = ("AA:BB:CC:DD:EE:FF", "AA:BB:CC:DD:EE:02", "BB:BB:CC:DD:EE:01")

_NO_ACCESS_CONTROL = Access()
# Where a picture is sent unasked, a late send_image finds it deleted; a failure of the plain form names no
# command, and may be taken for that of the next one.
_CAMERA = CameraOptions(24_000, waits_for_send_image=True)


def run_simulate(
    *,
    host: str,
    port: int,
    device_ids: Sequence[str],
    seconds: float = 0.0,
    root: Root = "device",
    seed: int = 1,
    access: Access = _NO_ACCESS_CONTROL,
) -> int:
    """Run devices that stay awake and print what each gets, for `seconds` (0: until a signal).

    `device_ids` are as on the topics. They acknowledge in the three forms in turn, say how far they are with
    a firmware, and take a picture when they are told to. Returns 0, or 1 if there is no broker.
    """
    device_of = partial(SimulatedDevice, host=host, port=port, access=access)
    options = [
        DeviceOptions(
            name,
            root,
            ACK_FORMS[number % len(ACK_FORMS)],
            reports={"update_firmware": (25, 50, 75)},
            think_seconds=(0.1, 0.5),
            camera=_CAMERA,
        )
        for number, name in enumerate(device_ids)
    ]
    try:
        return run_until_signal(_simulate(options, device_of, seconds, seed), interrupted=0)
    except ServiceError as error:
        print(f"mqtt-service: {error}", file=sys.stderr)  # noqa: T201 - the command line's own output
        return 1


def default_ids(count: int) -> list[str]:
    """Return the ids of `count` devices: the seeded ones, then 02:00:00:00:00:01 and so on."""
    more = (f"02:00:00:{n >> 16 & 255:02X}:{n >> 8 & 255:02X}:{n & 255:02X}" for n in range(1, count + 1))
    return [*SEEDED, *more][:count]


async def _simulate(
    options: list[DeviceOptions], device_of: Callable[..., SimulatedDevice], seconds: float, seed: int
) -> int:
    console = Console(soft_wrap=True, highlight=False)

    def show(device: SimulatedDevice, command: ReceivedCommand) -> None:
        again = " [dim](again)[/]" if command.duplicate else ""
        console.print(
            f"{device.options.device_id}  [cyan]{command.command_type}[/]{again}  {_detail(command)}"
        )

    async with AsyncExitStack() as exits:
        for number, option in enumerate(options):
            device = device_of(option, rng=Random(seed + number), on_command=show)  # noqa: S311 - a simulation, nothing secret
            await exits.enter_async_context(device)
            console.print(f"{option.device_id}  [green]awake[/] on {device.topic('cmd')}")
        await asyncio.sleep(seconds) if seconds > 0 else await asyncio.Event().wait()
    return 0


def _detail(command: ReceivedCommand) -> str:
    shown = {name: value for name, value in command.fields.items() if name not in {"device_id", "command_id"}}
    return escape(" ".join(f"{name}={value}" for name, value in shown.items()))
