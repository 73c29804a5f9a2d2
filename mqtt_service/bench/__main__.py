"""`scripts/bench`: what the service does, as a share of what bare paho does in the same run.

Ratios are what counts; what stands beside them are this machine's own figures.

    dispatch   a backlog of commands, published by the worker and by bare paho
    cycle      the same up to the rows that say `acknowledged`; and how many calls a command costs
    chunks     pictures' chunks, taken in by the worker and by a bare paho subscriber
    herd       a whole site that wakes within a second, with commands due and a picture each
    latency    from insert to publish, with and without Realtime
    claims     a claim beside a million finished rows, and a hundred thousand for later
"""

import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mqtt_service.bench.claims import measure_claims
from mqtt_service.bench.commands import measure_cycle, measure_dispatch
from mqtt_service.bench.herd import measure_herd
from mqtt_service.bench.latency import measure_latency
from mqtt_service.bench.pictures import measure_chunks
from mqtt_service.bench.report import Measure, as_document, as_table
from mqtt_service.bench.rig import Rig, running_rig
from mqtt_service.devstack.signals import run_until_signal
from mqtt_service.errors import ServiceError

_INTERRUPTED = 130
# Where standard output is no terminal, a table is not folded to fit one.
_WIDTH = 160
_BACKLOG_DEVICES = 200
_HERD_DEVICES = 500

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Part(StrEnum):
    """What can be measured on its own, in the order in which it is."""

    DISPATCH = "dispatch"
    CYCLE = "cycle"
    CHUNKS = "chunks"
    HERD = "herd"
    LATENCY = "latency"
    CLAIMS = "claims"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int
    commands: int
    devices: int
    pictures: int
    chunks: int
    samples: int
    poll_interval: float
    finished: int
    later: int
    claims: int
    herd: int

    @property
    def all_devices(self) -> int:
        """As many devices as any part needs."""
        return max(self.devices, self.pictures, self.samples, self.herd)


@app.command()
def main(  # noqa: PLR0913 - each is an option
    parts: Annotated[list[Part] | None, typer.Argument(help="What to measure; default: all.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of dispatch, cycle and chunks.")] = 3,
    commands: Annotated[int, typer.Option(min=2, help="Commands in a backlog.")] = 3_000,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Devices of the backlog and of the herd.", show_default="200 and 500"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures that are sent side by side.")] = 50,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks of a picture, of 1,024 bytes each.")] = 70,
    samples: Annotated[int, typer.Option(min=1, help="Inserts whose latency is measured.")] = 100,
    poll_interval: Annotated[
        float, typer.Option(min=0.1, help="Of the worker while latency is measured, in seconds.")
    ] = 1.0,
    finished: Annotated[int, typer.Option(min=1, help="Finished rows beside a claim.")] = 1_000_000,
    later: Annotated[int, typer.Option(min=1, help="Rows for later beside a claim.")] = 100_000,
    claims: Annotated[int, typer.Option(min=1, help="Claims timed.")] = 200,
) -> None:
    """Measure, and print a table. Exit status 0 unless something could not be measured."""
    sizes = Sizes(
        rounds=rounds,
        commands=commands,
        devices=devices or _BACKLOG_DEVICES,
        pictures=pictures,
        chunks=chunks,
        samples=samples,
        poll_interval=poll_interval,
        finished=finished,
        later=later,
        claims=claims,
        herd=devices or _HERD_DEVICES,
    )
    chosen = [part for part in Part if part in (parts or Part)]
    raise typer.Exit(run_bench(chosen, sizes, as_json=as_json))


def run_bench(parts: Sequence[Part], sizes: Sizes, *, as_json: bool) -> int:
    """Measure these parts and print what was found; returns 0, or 1 if something could not be measured."""
    measures: list[Measure] = []
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        status = run_until_signal(_measure(parts, sizes, measures, progress), interrupted=_INTERRUPTED)
    except (ServiceError, OSError) as error:
        progress.print(f"scripts/bench: {error}", markup=False)
        status = 1
    if as_json:
        print(json.dumps(as_document(measures)))  # noqa: T201 - the command line's own output
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(as_table(measures))
    return status


async def _measure(parts: Sequence[Part], sizes: Sizes, into: list[Measure], progress: Console) -> int:
    with tempfile.TemporaryDirectory(prefix="mqtt-bench-") as temporary:
        directory = Path(temporary)
        async with AsyncExitStack() as running:
            rig: Rig | None = None
            for part in parts:
                if part is Part.CLAIMS:
                    continue
                if rig is None:
                    rig = await running.enter_async_context(running_rig(directory, sizes.all_devices))
                progress.print(f"measuring {part}")
                into.extend(await _PARTS[part](rig, sizes))
        if Part.CLAIMS in parts:
            progress.print("measuring claims")
            into.extend(await measure_claims(directory, sizes.finished, sizes.later, sizes.claims))
    return 0


async def _dispatch(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_dispatch(rig, sizes.commands, sizes.rounds)


async def _cycle(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_cycle(rig, sizes.commands, sizes.rounds)


async def _chunks(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_chunks(rig, sizes.pictures, sizes.chunks, sizes.rounds)


async def _herd(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_herd(rig, sizes.herd)


async def _latency(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_latency(rig, sizes.samples, sizes.poll_interval)


_PARTS: dict[Part, Callable[[Rig, Sizes], Awaitable[list[Measure]]]] = {
    Part.DISPATCH: _dispatch,
    Part.CYCLE: _cycle,
    Part.CHUNKS: _chunks,
    Part.HERD: _herd,
    Part.LATENCY: _latency,
}

if __name__ == "__main__":
    app()
