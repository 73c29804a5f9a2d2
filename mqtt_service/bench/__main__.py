"""`scripts/bench`: what the service does, as a share of what bare paho does in the same run.

Ratios are what counts; what stands beside them are this machine's own figures.

    dispatch   a backlog of commands, published by the worker and by bare paho
    cycle      the same up to the rows that say `acknowledged`; and how many calls a command costs
    chunks     pictures' chunks, taken in by the worker and by a bare paho subscriber
    cpu        the CPU of the worker's process for each of these, over that of a bare paho process
    herd       a whole site that wakes within a second, with commands due and a picture each
    latency    from insert to publish, with and without Realtime, one at a time and under load
    costs      memory, and requests and bytes to Supabase: idle, a command, a picture
    far        the worker against an API that is 40 ms away
    peers      procrastinate and a polling service on the same server and broker
    scale      more workers, and more devices
    endurance  many commands through one worker: what they leave in its memory and the tables
    claims     a claim beside a million finished rows or changes, and a hundred thousand for later
"""

import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mqtt_service.bench import capacity, report
from mqtt_service.bench.claims import measure_claims
from mqtt_service.bench.commands import measure_cycle, measure_dispatch
from mqtt_service.bench.costs import measure_costs
from mqtt_service.bench.cpu import measure_cpu
from mqtt_service.bench.endurance import measure_endurance
from mqtt_service.bench.far import measure_far
from mqtt_service.bench.herd import measure_herd
from mqtt_service.bench.latency import measure_latency
from mqtt_service.bench.peers import measure_peers
from mqtt_service.bench.pictures import measure_chunks
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig, running_rig
from mqtt_service.bench.scale import measure_scale
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
    CPU = "cpu"
    HERD = "herd"
    LATENCY = "latency"
    COSTS = "costs"
    FAR = "far"
    PEERS = "peers"
    SCALE = "scale"
    ENDURANCE = "endurance"
    CLAIMS = "claims"


class Output(StrEnum):
    """How what was found is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; seconds where it is a time."""

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
    load_seconds: float
    idle_seconds: float
    lasting_commands: int
    lasting_pictures: int
    peer_interval: float
    workers: Sequence[int]
    fleets: Sequence[int]
    herd: int
    endurance_commands: int
    endurance_rounds: int

    def full(self) -> "Sizes":
        """The large sizes of what lasts: memory and scale."""
        return replace(
            self,
            idle_seconds=120.0,
            lasting_commands=100_000,
            lasting_pictures=1_000,
            workers=(1, 2, 4),
            fleets=(10, 1_000, 100_000),
            endurance_commands=1_000_000,
            endurance_rounds=20,
        )

    @property
    def all_devices(self) -> int:
        """As many devices as any part needs."""
        return max(self.devices, self.pictures, self.samples, self.herd)


@app.command()
def main(  # noqa: PLR0913 - each is an option
    parts: Annotated[list[Part] | None, typer.Argument(help="What to measure; default: all.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Memory after 100,000 commands and 1,000 pictures; 4 workers; 100,000 devices; "
            "1,000,000 commands of endurance.",
        ),
    ] = False,
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
    load_seconds: Annotated[float, typer.Option(min=0.1, help="How long each load of inserts lasts.")] = 6.0,
    idle_seconds: Annotated[float, typer.Option(min=0.5, help="How long the idle worker is watched.")] = 30.0,
    lasting_commands: Annotated[int, typer.Option(min=1, help="Commands before memory is read.")] = 5_000,
    lasting_pictures: Annotated[int, typer.Option(min=1, help="Pictures before memory is read.")] = 100,
    peer_interval: Annotated[
        float, typer.Option(min=0.1, help="Of the polling service, in seconds; its documents say 5.")
    ] = 5.0,
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Workers side by side; 1 and 2.")] = None,
    fleets: Annotated[list[int] | None, typer.Option(min=1, help="Devices; 10 and 1,000.")] = None,
    endurance_commands: Annotated[int, typer.Option(min=2, help="Commands of endurance.")] = 50_000,
    endurance_rounds: Annotated[int, typer.Option(min=2, help="Rounds that they come in.")] = 5,
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
        load_seconds=load_seconds,
        idle_seconds=idle_seconds,
        lasting_commands=lasting_commands,
        lasting_pictures=lasting_pictures,
        peer_interval=peer_interval,
        workers=workers or (1, 2),
        fleets=fleets or (10, 1_000),
        herd=devices or _HERD_DEVICES,
        endurance_commands=endurance_commands,
        endurance_rounds=endurance_rounds,
    )
    chosen = [part for part in Part if part in (parts or Part)]
    output = Output.JSON if as_json else Output.MARKDOWN if as_markdown else Output.TABLE
    raise typer.Exit(run_bench(chosen, sizes.full() if full else sizes, output))


def run_bench(parts: Sequence[Part], sizes: Sizes, output: Output) -> int:
    """Measure these parts and print what was found; returns 0, or 1 if something could not be measured."""
    measures: list[Measure] = []
    on = report.machine()
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        status = run_until_signal(_measure(parts, sizes, measures, progress), interrupted=_INTERRUPTED)
    except (ServiceError, OSError) as error:
        progress.print(f"scripts/bench: {error}", markup=False)
        status = 1
    _print(measures, on, output)
    return status


def _print(measures: Sequence[Measure], on: Mapping[str, float | str], output: Output) -> None:
    match output:
        case Output.JSON:
            print(json.dumps(report.as_document(measures, on)))  # noqa: T201 - the command line's own output
        case Output.MARKDOWN:
            print(report.as_markdown(measures, on))  # noqa: T201 - the same
            print(capacity.as_markdown(measures))  # noqa: T201 - the same
        case Output.TABLE:
            width = None if sys.stdout.isatty() else _WIDTH
            Console(highlight=False, width=width).print(report.as_table(measures))


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
    return await measure_latency(rig, sizes.samples, sizes.poll_interval, sizes.load_seconds)


async def _cpu(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_cpu(rig, sizes.commands, sizes.pictures, sizes.chunks, sizes.rounds)


async def _costs(rig: Rig, sizes: Sizes) -> list[Measure]:
    pictures = sizes.lasting_pictures, sizes.chunks
    return await measure_costs(rig, sizes.idle_seconds, sizes.lasting_commands, *pictures)


async def _far(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_far(rig, sizes.commands, sizes.samples)


async def _peers(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_peers(rig, sizes.commands, sizes.samples, sizes.peer_interval)


async def _scale(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_scale(rig, sizes.commands, sizes.workers, sizes.fleets)


async def _endurance(rig: Rig, sizes: Sizes) -> list[Measure]:
    return await measure_endurance(rig, sizes.endurance_commands, sizes.endurance_rounds)


_PARTS: dict[Part, Callable[[Rig, Sizes], Awaitable[list[Measure]]]] = {
    Part.DISPATCH: _dispatch,
    Part.CYCLE: _cycle,
    Part.CHUNKS: _chunks,
    Part.CPU: _cpu,
    Part.HERD: _herd,
    Part.LATENCY: _latency,
    Part.COSTS: _costs,
    Part.FAR: _far,
    Part.PEERS: _peers,
    Part.SCALE: _scale,
    Part.ENDURANCE: _endurance,
}

if __name__ == "__main__":
    app()
