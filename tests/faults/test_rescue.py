"""Workers that die under load: others go on with what they held."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from uuid import UUID

import pytest

from tests.faults.bench.drills import drill, report
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.proxy import Proxy
from tests.faults.bench.rig import LEASE, POLL, Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Linked = tuple[WorkerProcess, Proxy]

_NAMES = ("worker-1", "worker-2", "worker-3")
_DEVICES = 40
_BETWEEN_KILLS = drill(2.5, 5.0)
_KILLS = drill(2, 24)
# For a machine that is busy with this very test.
_SLACK = 4.0

_LAPSED = """
select coalesce(extract(epoch from max(clock_timestamp() - lease_until)), 0)::float as seconds
from public.device_commands where lease_until is not null
"""


async def _queue_for_ever(bench: Bench, ids: list[UUID], made: "itertools.count[int]") -> None:
    """A command for a quarter of the devices, five times a second."""
    quarters = itertools.cycle([ids[n::4] for n in range(4)])
    while True:
        await bench.database.all(
            "insert into public.device_commands (device_id, command_type, command_payload)"
            " select d, 'update_config', jsonb_build_object('n', %s::int) from unnest(%s::uuid[]) d",
            next(made),
            next(quarters),
        )
        await asyncio.sleep(0.2)  # the pace of the load


async def _watch_lapsed(bench: Bench, seen: list[float]) -> None:
    """For how long a command has been in the hands of a worker whose lease had run out."""
    while True:
        seen.append((await bench.database.one(_LAPSED))["seconds"])
        await asyncio.sleep(0.2)  # the pace of the looks


@asynccontextmanager
async def _beside(*jobs: "asyncio.Task[None]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        for job in jobs:
            job.cancel()
        ended = await asyncio.gather(*jobs, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def _kill_in_turn(bench: Bench, parts: AsyncExitStack, workers: dict[str, Linked]) -> None:
    """Kill one worker after the other while it holds commands; each starts again, as on a platform."""
    loop = asyncio.get_running_loop()
    for turn, name in enumerate(itertools.islice(itertools.cycle(_NAMES), _KILLS)):
        until = loop.time() + _BETWEEN_KILLS
        worker, link = workers[name]
        link.black_hole()
        await _holds_commands(bench, name)
        await worker.kill()
        await link.reset()
        link.flow()
        workers[name] = await _start(bench, parts, name, link)
        if turn + 1 < _KILLS:
            await asyncio.sleep(max(until - loop.time(), 0))  # the pace of the faults


async def _holds_commands(bench: Bench, name: str) -> None:
    """Wait until the worker has commands in hand that it claimed from now on."""
    since = (await bench.database.one("select clock_timestamp() as now"))["now"]
    later = since + timedelta(seconds=LEASE)

    async def holds() -> bool:
        return await bench.database.count("lease_worker like %s and lease_until > %s", f"{name}:%", later) > 0

    await eventually(holds, f"commands in the hands of {name}")


async def _start(bench: Bench, parts: AsyncExitStack, name: str, link: Proxy) -> Linked:
    process = bench.worker(name, ready=False, MQTT_PORT=str(link.port))
    return await parts.enter_async_context(process), link


async def test_workers_killed_in_turn_under_load_lose_nothing_and_keep_each_devices_order(
    bench: Bench,
) -> None:
    """Take out the end of leases: `lease_until <= p_claim.now` in fn_find_due_commands.

    Long: one of three workers is killed every 5 s for 2 minutes.
    """
    ids = [row["device_id"] for row in await bench.database.add_active_devices(_DEVICES)]
    lapsed: list[float] = []
    async with bench.devices() as fleet, AsyncExitStack() as parts:
        workers: dict[str, Linked] = {}
        for name in _NAMES:
            link = await parts.enter_async_context(Proxy(bench.broker.port))
            workers[name] = await _start(bench, parts, name, link)
        async with _beside(asyncio.create_task(_watch_lapsed(bench, lapsed))):
            async with _beside(asyncio.create_task(_queue_for_ever(bench, ids, itertools.count(1)))):
                await _kill_in_turn(bench, parts, workers)

            async def all_acknowledged() -> bool:
                return set(await bench.database.statuses()) == {"acknowledged"}

            await eventually(all_acknowledged, "every command's acknowledgement", 4 * LEASE + 30)
        total = await bench.database.count("true")
        rescues = [line for log in _logs(bench) for line in log if "of a worker that is gone" in line]
        for worker, _ in workers.values():
            await worker.becomes("healthy")
    report(
        commands=total,
        kills=_KILLS,
        repeats=fleet.repeats(),
        longest_beyond_lease=round(max(lapsed), 1),
        rescues=len(rescues),
    )
    assert len(fleet.firsts()) == total
    assert all(numbers == sorted(numbers) for numbers in fleet.numbers().values())
    assert await bench.database.count("retry_count > 0") == 0
    assert rescues  # not one for each kill: whoever took over may be killed before it has said so
    assert max(lapsed) < POLL + _SLACK


def _logs(bench: Bench) -> list[list[str]]:
    """The lines of every worker's log."""
    return [file.read_text(encoding="utf-8").splitlines() for file in bench.directory.glob("worker-*.log")]
