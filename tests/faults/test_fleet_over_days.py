"""Days in the life of a fleet: what recurs at each wake, new firmware, new configuration; with two workers.

The database's clock is set ahead from one wake to the next. One device in twenty fails at what it is told.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from mqtt_service.simulator.options import Answer
from tests.faults.bench.clock import Clock, stack_with_clock
from tests.faults.bench.drills import drill, report
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench, running_bench
from tests.faults.bench.sleepers import Sleeper, make_sleeper, wake_all
from tests.integration.worker.harness import COMPANY, PROGRAM, SITE, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEVICES = drill(short=40, long=2_000)
DAYS = 3
WAKES_A_DAY = 2

_MANY = f"""
insert into public.devices (device_mac, device_code, provisioning_status, is_active, company_id, program_id, site_id)
select upper(lpad(to_hex(n), 12, '0')), 'DAYS-' || n, 'active', true, '{COMPANY}', '{PROGRAM}', '{SITE}'
from generate_series(1, %s) n
returning device_id, device_mac, device_code
"""  # noqa: S608 - ids of the seed


@dataclass(frozen=True)
class Story:
    """The stack, its clock, and the devices."""

    bench: Bench
    clock: Clock
    sleepers: list[Sleeper]
    failing: frozenset[str]

    async def go_to_next_wake(self) -> None:
        """Set the clock to just after the site's next wake."""
        row = await self.bench.database.one(
            "select next_run_at - clock_timestamp() as left from public.command_schedules"
        )
        self.clock.go_on(row["left"] + timedelta(seconds=2))

    async def is_queued(self, occurrences: int) -> bool:
        """Whether each device has the commands of so many occurrences, and none waits to be sent."""
        count = self.bench.database.count
        queued = await count("command_type = 'capture_image'")
        return queued == occurrences * len(self.sleepers) and not await count("status = 'pending'")


@asynccontextmanager
async def story(directory: Path) -> AsyncIterator[Story]:
    """A fleet of which one device in twenty fails at every command it gets, but for its wakes."""
    async with stack_with_clock() as (stack, clock), running_bench(stack, directory) as bench:
        await bench.database.all("update public.devices set is_active = false")  # those of the seed
        rows = await bench.database.all(_MANY, DEVICES)
        failing = {row["device_code"] for row in rows[::20]}
        fails: dict[str, Answer] = {"capture_image": "rejected", "update_config": "rejected"}
        sleepers = [
            make_sleeper(
                row["device_id"], row["device_mac"], row["device_code"], bench.broker.port,
                fails if row["device_code"] in failing else {},
            )
            for row in rows
        ]  # fmt: skip
        yield Story(bench, clock, sleepers, frozenset(failing))


async def test_a_picture_at_each_wake_of_three_days_is_queued_once_for_each_device_though_a_worker_is_killed(
    tmp_path: Path,
) -> None:
    """Fails where how far a schedule has come is not written in the transaction that queues."""
    async with story(tmp_path) as told, told.bench.worker("one") as one, told.bench.worker("two"):
        await told.bench.database.all(
            "insert into public.command_schedules (name, target, command_type, company_id)"
            " values ('a picture at each wake', jsonb_build_object('site', %s::text), 'capture_image', %s)",
            SITE, COMPANY,
        )  # fmt: skip
        for number in range(DAYS * WAKES_A_DAY):
            await told.go_to_next_wake()
            await eventually(lambda n=number: told.is_queued(n + 1), "the occurrence is queued", 60)
            waking = asyncio.create_task(wake_all(told.sleepers))
            if number == 1:
                await kill_in_the_middle(one, told)
            await waking
        await eventually(lambda: all_ended(told), "every command has ended", 60)
        occurrences = await told.bench.database.all(
            "select device_code, status, count(*), count(distinct idempotency_key) as keys"
            " from public.device_commands join public.devices using (device_id)"
            " where command_type = 'capture_image' group by 1, 2"
        )
        pictures = await told.bench.database.all(
            "select status, count(*) from public.device_images group by 1"
        )
    wakes = DAYS * WAKES_A_DAY
    assert {(row["count"], row["keys"]) for row in occurrences} == {(wakes, wakes)}
    assert Counter(row["status"] for row in occurrences) == {
        "acknowledged": DEVICES - len(told.failing), "rejected": len(told.failing),
    }  # fmt: skip
    assert {row["status"]: row["count"] for row in pictures} == {
        "complete": wakes * (DEVICES - len(told.failing))
    }
    report(commands=wakes * DEVICES, pictures=pictures)


async def kill_in_the_middle(worker: WorkerProcess, told: Story) -> None:
    async def some_awake() -> bool:
        return await told.bench.database.count("command_type = 'capture_image' and acknowledged_at is not null") > 0

    await eventually(some_awake, "an answer")
    await worker.kill()


async def all_ended(told: Story) -> bool:
    return not await told.bench.database.count("status in ('pending', 'sent') or due_at is not null")
