"""A fleet while it runs: a list that changes on a terminal, a line now and then anywhere else."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mqtt_service.simulator.device import SimulatedDevice
from mqtt_service.simulator.fleet_report import Totals

_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 5.0
_TITLES = {
    "awake": "awake",
    "asleep": "asleep",
    "hung": "hung",
    "heartbeats": "HELLOs",
    "answered": "answered",
    "sent": "pictures sent",
    "acknowledged": "acknowledged",
    "chunks": "chunks",
    "commands": "commands",
    "complaints": "protocol faults",
}
_BAD = frozenset({"hung", "complaints"})


async def show(devices: Sequence[SimulatedDevice], console: Console) -> None:
    """Show how the fleet is doing until cancelled."""
    if not console.is_terminal:
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            console.print(line(Totals.of(devices)))
    with suppress(asyncio.CancelledError), Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(table(Totals.of(devices)), refresh=True)
            await asyncio.sleep(_REFRESH_SECONDS)


def line(totals: Totals) -> str:
    """Return the sums as a line of text."""
    sums = asdict(totals)
    return ", ".join(f"{sums[name]} {title}" for name, title in _TITLES.items())


def table(totals: Totals) -> Table:
    """Return the sums under one another, so that a narrow terminal shows them too."""
    sums = asdict(totals)
    shown = Table.grid("title", "sum", padding=(0, 2))
    shown.columns[1].justify = "right"
    for name, title in _TITLES.items():
        shown.add_row(title, str(sums[name]), style="red" if name in _BAD and sums[name] else None)
    return shown
