"""Whatever compares times goes by the database's clock: a worker whose own is an hour off does no harm."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mqtt_service.protocol.commands import wire_time
from tests.faults.bench.drills import drill, report
from tests.faults.bench.given_back import given_back
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import LEASE, Bench
from tests.integration.worker.harness import eventually
from tests.requirements import find_program, require

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEVICES = 12
COMMANDS = drill(short=15, long=200)


@asynccontextmanager
async def off(bench: Bench, name: str, by: str) -> AsyncIterator[tuple[WorkerProcess, Path]]:
    """A worker whose clock is off by so much; it is set anew by writing to the file."""
    require("libfaketime")
    clock = bench.directory / f"{name}.clock"
    clock.write_text(by)
    faked = {
        "LD_PRELOAD": str(find_program("libfaketime")),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # that clock counts from the start of the machine, and is right
    }
    async with bench.worker(name, ready=True, LOG_FORMAT="json", **faked) as worker:
        said = datetime.fromisoformat(json.loads(worker.lines[0])["time"])
        assert abs(said - datetime.now(UTC)) > timedelta(minutes=50), "its clock is right"
        yield worker, clock


async def all_answered(bench: Bench, count: int) -> None:
    async def answered() -> bool:
        return await bench.database.statuses() == {"acknowledged": count}

    await eventually(answered, f"{count} answered commands", 60)


async def test_workers_an_hour_ahead_and_an_hour_behind_send_what_is_due_and_nothing_else(
    bench: Bench,
) -> None:
    """Fails where a worker compares its own time with one of the database's: that `next_wake_at` is not over,
    in `_try_to_publish`, was tried. tests/unit/test_clocks.py names who may read the clock.
    """
    (one, *_) = [row["device_id"] for row in await bench.database.add_active_devices(1)]
    moment = "now() + interval '{}'"
    columns = "(device_id, command_type, command_payload, scheduled_for, expires_at)"

    async def queue(kind: str, payload: str, scheduled: str, expires: str) -> str:
        row = await bench.database.one(
            f"insert into public.device_commands {columns} values (%s, %s, {payload}, {scheduled}, {expires})"
            " returning command_id, command_payload",
            one, kind,
        )  # fmt: skip
        return str(row["command_id"])

    wakes = "jsonb_build_object('next_wake_time', now() + interval '30 min')"
    due = [
        await queue("reboot", "'{}'", "null", moment.format("30 min")),
        await queue("set_wake_schedule", wakes, "null", moment.format("30 min")),
    ]
    early = await queue("reboot", "'{}'", moment.format("30 min"), "null")
    late = await queue("reboot", "'{}'", moment.format("-2 h"), moment.format("-1 min"))
    async with bench.devices() as fleet, off(bench, "ahead", "+1h"), off(bench, "behind", "-1h"):

        async def settled() -> bool:
            counts = await bench.database.statuses()
            return counts == {"acknowledged": 2, "pending": 1, "expired": 1}

        await eventually(settled, "what is due is done, what is late expired, and what is early waits")
        row = await bench.database.one("select now() + interval '30 min' as wake")
    heard = {message.command_id: message.body for message in fleet.heard}
    assert sorted(heard) == sorted(due)
    assert heard[due[1]]["next_wake"] in {
        wire_time(row["wake"] - timedelta(minutes=before), "12h") for before in (0, 1, 2)
    }
    assert early not in heard
    assert late not in heard


async def test_workers_whose_clocks_disagree_and_jump_respect_each_others_leases(bench: Bench) -> None:
    """Fails, like the test above, where leases are compared with a worker's own clock. One of the two is
    killed, and what it held comes back after the lease, as the database counts it.
    """
    devices = [row["device_id"] for row in await bench.database.add_active_devices(DEVICES)]
    async with (
        bench.devices() as fleet,
        off(bench, "ahead", "+1h") as (ahead, clock),
        off(bench, "behind", "-1h") as (behind, _),
    ):
        for n in range(COMMANDS):
            await bench.database.queue_each(devices, 1)
            clock.write_text("-1h" if n % 2 else "+1h")
            if n == COMMANDS // 2:
                await ahead.kill()
            await asyncio.sleep(0.1)  # the pace of the load
        started = time.monotonic()
        await all_answered(bench, COMMANDS * DEVICES)
        report(
            commands=COMMANDS * DEVICES, repeats=fleet.repeats(),
            all_done_after=f"{time.monotonic() - started:.1f} s", lease=f"{LEASE} s",
        )  # fmt: skip
        assert fleet.repeats() <= given_back(ahead, behind)
        assert (await behind.health())["status"] == "healthy"
    assert await bench.database.count("retry_count > 0") == 0
