"""Realtime dead in every way we know of: commands flow at the pace of the poll, and the worker says so.

Within 30 s of its death /health says `degraded`; within 60 s of its return it says `healthy`. One line tells
what happened and what the service does about it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mqtt_service.devstack.faults import RealtimeAction, RealtimeFaults
from tests.faults.bench.drills import drill, report
from tests.faults.bench.fork import Fork
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import POLL, Bench
from tests.integration.worker.harness import SITE, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEEN_WITHIN = 30.0
BACK_WITHIN = 60.0
DEAD = drill(short=3.0, long=300.0)

POLL_GOES_ON = "commands go on at the pace of the poll"


@asynccontextmanager
async def forked(bench: Bench, name: str) -> AsyncIterator[tuple[WorkerProcess, Fork]]:
    """A worker whose Realtime can fail alone."""
    async with (
        Fork(int(bench.stack.url.rsplit(":", 1)[1])) as fork,
        bench.worker(name, SUPABASE_URL=fork.url) as worker,
    ):
        yield worker, fork


async def send_one(bench: Bench) -> float:
    """Queue a command; returns the seconds until the broker had it."""
    device = (await bench.database.add_active_devices(1))[0]["device_id"]
    command = await bench.database.queue(device, "reboot")
    row = await bench.database.becomes(command, "sent", deadline=20)
    return float((row["delivered_at"] - row["issued_at"]).total_seconds())


async def map_one(bench: Bench) -> None:
    """Map a new device; returns when its welcome was sent."""
    (device,) = await bench.database.add_active_devices(1)
    device_id = device["device_id"]
    await bench.database.all("update public.devices set is_active = false where device_id = %s", device_id)
    await bench.database.all(
        "insert into public.device_site_assignments (device_id, site_id) values (%s, %s)", device_id, SITE
    )

    async def welcomed() -> bool:
        return await bench.database.count("device_id = %s and status = 'sent'", device_id) == 1

    await eventually(welcomed, "the welcome of a device that was mapped")


async def test_a_socket_that_goes_nowhere_and_a_server_that_is_away(bench: Bench) -> None:
    """Fails without the count of unanswered heartbeats in adapters/realtime.py (the first is not seen), or
    without the rebuild in `Doorbell.run` (neither comes back).
    """
    async with forked(bench, "holed") as (holed, hole), forked(bench, "away") as (away, gap):
        started = time.monotonic()
        hole.realtime.black_hole()
        await gap.realtime.refuse()
        await asyncio.gather(
            holed.becomes("degraded", SEEN_WITHIN),
            away.becomes("degraded", SEEN_WITHIN),
        )
        seen = time.monotonic() - started
        await holed.says(rf"\[REALTIME\] Realtime has been silent for \d+ s.*{POLL_GOES_ON}")
        await away.says(rf"\[REALTIME\] .*{POLL_GOES_ON}")
        assert "silent" in (await holed.health())["realtime"]["error"]

        slowest = await send_one(bench)
        while time.monotonic() - started < seen + DEAD:
            slowest = max(slowest, await send_one(bench))
        await map_one(bench)

        returned = time.monotonic()
        hole.realtime.flow()
        await gap.realtime.admit()
        await asyncio.gather(
            holed.becomes("healthy", BACK_WITHIN),
            away.becomes("healthy", BACK_WITHIN),
        )
        report(
            seen=f"{seen:.1f} s", back=f"{time.monotonic() - returned:.1f} s",
            slowest_command=f"{slowest:.2f} s", poll=f"{POLL} s",
        )  # fmt: skip


@pytest.mark.parametrize("how", ["phx_close", "expire", "close_clean", "close_abrupt"])
async def test_a_channel_that_the_server_ends(bench: Bench, how: RealtimeAction) -> None:
    """Fails without `_on_state` and the watch over the listener in adapters/realtime.py."""
    async with bench.worker() as worker:
        bench.stack.faults.act(how)
        line = await worker.says(rf"\[REALTIME\] .*{POLL_GOES_ON}")
        await worker.says("Device provisioning listener active", times=2, deadline=BACK_WITHIN)
        await worker.becomes("healthy", BACK_WITHIN)
        report(line=line)


async def test_a_channel_that_delivers_nothing(bench: Bench) -> None:
    """Fails without silence.py: the channel itself says to the end that it is joined and well."""
    async with bench.worker() as worker:
        bench.stack.faults.realtime = RealtimeFaults(drop=True)
        started = time.monotonic()

        async def degraded() -> bool:
            await send_one(bench)
            return bool((await worker.health())["status"] == "degraded")

        await eventually(degraded, "the silence is seen", SEEN_WITHIN)
        seen = time.monotonic() - started
        line = await worker.says(rf"did not announce commands that the poll found.*{POLL_GOES_ON}")
        await map_one(bench)
        # A subscription that was silent is not believed because it is joined again.
        await worker.says("Device provisioning listener active", times=2)
        assert (await worker.health())["status"] == "degraded"
        bench.stack.faults.clear()

        async def healthy() -> bool:
            await send_one(bench)
            return bool((await worker.health())["status"] == "healthy")

        await eventually(healthy, "the events are heard again", BACK_WITHIN)
        await worker.says("Events arrive again")
        report(seen=f"{seen:.1f} s", line=line)
