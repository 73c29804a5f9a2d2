"""As many commands as a fleet sends in years, through one worker: what memory and tables keep of them.

They come in rounds. After each, when all are acknowledged, their rows are made as old as the retention needs,
and removed by the calls that a worker makes once an hour. What counts is that the last round leaves no more
than one half way did: what is kept for reuse, by Python and by Postgres, grows at first.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mqtt_service.bench.processes import BenchError, WorkerProcess, patience
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig

_MEGABYTE = 1e6
# Counting the rows takes time from the rest, so it is not done often.
_CHECK_SECONDS = 0.5
# More than what one round happens to leave for the next.
_MOST = 1.1
# As many rows a call as a worker's retention removes.
_BATCH = 500

# Without triggers: they would take a row that is changed for one that is new.
_AGE = """
set session_replication_role = replica;
update public.device_commands set updated_at = updated_at - interval '100 days';
update public.device_history set created_at = created_at - interval '100 days';
update mqtt_private.acknowledgements set received_at = received_at - interval '1 day';
update mqtt_private.replies set sent_at = sent_at - interval '1 day';
reset session_replication_role
"""
_TABLES = """
select n.nspname || '.' || c.relname as name, pg_total_relation_size(c.oid) as bytes
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and (n.nspname = 'mqtt_private' or c.relname like 'device%%')
  and n.nspname in ('mqtt_private', 'public')
order by 1
"""


@dataclass(frozen=True, slots=True)
class _Left:
    """After a round: the worker's resident bytes, rows and bytes of all our tables, and the round's rate."""

    memory: int
    rows: int
    table_bytes: int
    rate: float


async def measure_endurance(rig: Rig, commands: int, rounds: int) -> list[Measure]:
    """So many commands in so many rounds, through one worker; each over the first round, or over before."""
    await rig.clear()
    async with rig.devices_that_answer(), rig.worker() as worker:
        await worker.ready()
        idle, before = worker.usage.memory(), (await _tables(rig))[0]
        left = [await _round(rig, worker, commands // rounds) for _ in range(rounds)]
        peak = worker.peak_memory()
    await rig.clear()
    return _measures(commands, left, idle, before, peak)


async def _round(rig: Rig, worker: WorkerProcess, commands: int) -> _Left:
    began = time.monotonic()
    await rig.queue_backlog(commands)
    await _all_acknowledged(rig, commands)
    rate = commands / (time.monotonic() - began)
    await _remove_what_is_old(rig)
    rows, size = await _tables(rig)
    return _Left(worker.usage.memory(), rows, size, rate)


async def _all_acknowledged(rig: Rig, commands: int) -> None:
    deadline = time.monotonic() + patience(commands)
    query = "select count(*) from public.device_commands where status = 'acknowledged'"
    while await rig.value(query) < commands:
        if time.monotonic() > deadline:
            raise BenchError(f"not all of {commands:,} commands were acknowledged")
        await asyncio.sleep(_CHECK_SECONDS)


async def _remove_what_is_old(rig: Rig) -> None:
    await rig.all(_AGE)
    for kind in ("commands", "history"):
        more = True
        while more:
            query = "select public.fn_remove_old_rows('endurance', %s, 90, %s) ->> 'more' = 'true'"
            more = await rig.value(query, kind, _BATCH)
    removed = 1
    while removed:
        removed = await rig.value("select (public.fn_sweep_own_tables('endurance') ->> 'removed')::int")
    # As autovacuum does, at a time of its own.
    for table in await rig.all(_TABLES):
        await rig.all(f"vacuum {table['name']}")


async def _tables(rig: Rig) -> tuple[int, int]:
    """Rows and bytes of the tables that a command, an answer or a device makes grow."""
    tables = await rig.all(_TABLES)
    rows = [await rig.value(f"select count(*) from {table['name']}") for table in tables]  # noqa: S608 - ours
    return sum(rows), sum(table["bytes"] for table in tables)


def _measures(commands: int, left: Sequence[_Left], idle: int, before: int, peak: int) -> list[Measure]:
    first, middle, last = left[0], left[len(left) // 2], left[-1]
    rates = {"rounds": len(left), "commands": commands, "commands_per_s": _rate(left)}
    rounds = {f"MB_{number}": each.memory / _MEGABYTE for number, each in enumerate(left, 1)}
    memory = {"idle_MB": idle / _MEGABYTE, **rounds, "peak_MB": peak / _MEGABYTE}
    tables = {f"MB_{number}": each.table_bytes / _MEGABYTE for number, each in enumerate(left, 1)}
    return [
        _measure("memory after the last round / half way", last.memory / middle.memory, memory),
        _measure("rows after the last round / before", last.rows / before, {"rows": last.rows}),
        # No goal: how much of a file is free for reuse depends on when autovacuum came by.
        _measure(
            "tables after the last round / half way", last.table_bytes / middle.table_bytes, tables, None
        ),
        Measure(
            "endurance: rate of the last round / the first", [last.rate / first.rate], "higher", None, rates
        ),
    ]


def _rate(left: Sequence[_Left]) -> float:
    return len(left) / sum(1 / each.rate for each in left)


def _measure(name: str, ratio: float, figures: dict[str, float], goal: float | None = _MOST) -> Measure:
    return Measure(f"endurance: {name}", [ratio], "lower", goal, figures)
