"""Days in the life of a fleet: what recurs at each wake, new firmware, new configuration; with two workers.

The database's clock is set ahead from one wake to the next. One device in twenty fails at what it is told.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from mqtt_service.simulator.options import Answer
from tests.faults.bench.clock import Clock, stack_with_clock
from tests.faults.bench.drills import drill, report
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench, running_bench
from tests.faults.bench.sleepers import Sleeper, make_sleeper, wake_all
from tests.integration.worker.harness import COMPANY, PROGRAM, SITE, eventually
from tests.started import run

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEVICES = drill(short=10, long=2_000)
DAYS = 3
WAKES_A_DAY = drill(short=1, long=2)
A_MINUTE = drill(short=2, long=50)
FEWEST_FAILURES = drill(short=2, long=20)

_MANY = f"""
insert into public.devices
    (device_mac, device_code, provisioning_status, is_active, company_id, program_id, site_id)
select upper(lpad(to_hex(n), 12, '0')), 'DAYS-' || n, 'active', true, '{COMPANY}', '{PROGRAM}', '{SITE}'
from generate_series(1, %s) n
returning device_id, device_mac, device_code
"""


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

    async def rollout(self, rollout_id: UUID) -> dict[str, Any]:
        return await self.bench.database.one(
            "select * from public.command_rollouts where rollout_id = %s", rollout_id
        )

    async def states(self, rollout_id: UUID) -> dict[str, int]:
        """How many of a rollout's devices are in each state."""
        rows = await self.bench.database.all(
            "select state, count(*) from public.rollout_devices where rollout_id = %s group by 1", rollout_id
        )
        return {row["state"]: row["count"] for row in rows}

    async def waiting_devices(self, rollout_id: UUID, status: str) -> list[Sleeper]:
        """The devices whose command of a rollout has this status, and is not verified."""
        rows = await self.bench.database.all(
            "select device_id from public.device_commands"
            " where rollout_id = %s and status = %s and verified_at is null",
            rollout_id, status,
        )  # fmt: skip
        waiting = {row["device_id"] for row in rows}
        return [sleeper for sleeper in self.sleepers if sleeper.device_id in waiting]

    async def ask(self, *words: str) -> str:
        """What `mqtt-service` prints."""
        asked = await asyncio.to_thread(run, words, self.bench.stack.env(), self.bench.directory)
        assert asked.returncode == 0, asked.stdout + asked.stderr
        return asked.stdout

    async def is_released(self, rollout_id: UUID) -> bool:
        """Whether what the minute allows is sent, and nothing waits to be."""
        rollout = await self.bench.database.one(
            "select coalesce(next_release_at > clock_timestamp(), true) as released"
            " from public.command_rollouts where rollout_id = %s",
            rollout_id,
        )
        states = await self.states(rollout_id)
        return bool(rollout["released"] and states) and "pending" not in states

    async def is_counted(self, rollout_id: UUID) -> bool:
        """Whether each device that got something has an outcome, from which the status follows."""
        states = await self.states(rollout_id)
        unseen = await self.bench.database.one(
            "select unseen from public.rollout_counts where rollout_id = %s", rollout_id
        )
        return not {"pending", "sent", "unverified"} & set(states) and not unseen["unseen"]


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
            await eventually(partial(told.is_queued, number + 1), "the occurrence is queued", 60)
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


async def test_a_bad_release_is_stopped_by_its_threshold_and_the_next_one_reaches_every_device_or_names_it(
    tmp_path: Path,
) -> None:
    """Fails where a device that comes back with its old firmware counts as done, or the rate is constant."""
    async with story(tmp_path) as told, told.bench.worker("one"), told.bench.worker("two"):
        for sleeper in told.sleepers:
            sleeper.rolls_back(True)
        bad = await roll_out(told, "1.1.0")
        await advance(told, bad, until="stopped")
        reached = await told.states(bad)
        stopped = await told.rollout(bad)

        for sleeper in told.sleepers:
            sleeper.rolls_back(sleeper.code in told.failing)
        good = await roll_out(told, "1.2.0")
        minutes = await advance(told, good, until="finished")
        devices = await told.bench.database.all(
            "select device_code, state, reason, firmware_version, verified_at from public.rollout_devices"
            " join public.devices using (device_id) join public.device_commands using (command_id)"
            " where rollout_devices.rollout_id = %s",
            good,
        )
        verified = await tell(told, good, "succeeded")
        failed = await tell(told, good, "failed")
    assert "The device woke with the new version" in verified[0]
    assert "the device came back with version 1.0.0, not 1.2.0" in failed[0].replace("\n", " ")
    assert "update_firmware" in verified[1]
    assert "update_firmware" in failed[1]
    assert reached["failed"] >= FEWEST_FAILURES
    assert sum(reached.values()) <= 3 * A_MINUTE, "it went on while devices came back with the old version"
    assert "succeeded" not in reached
    assert "have failed, more than 20 %" in stopped["last_result"]
    assert len(devices) == DEVICES
    for row in devices:
        if row["device_code"] in told.failing:
            assert (row["state"], row["firmware_version"]) == ("failed", "1.0.0")
            assert "1.2.0" in row["reason"]
        else:
            assert (row["state"], row["firmware_version"]) == ("succeeded", "1.2.0")
            assert row["verified_at"] is not None
    assert minutes < DEVICES / A_MINUTE, "the rate did not grow"
    report(stopped_after=reached, minutes=minutes, at_a_constant_rate=DEVICES / A_MINUTE)


async def test_a_configuration_that_changed_five_times_while_devices_slept_is_sent_once(
    tmp_path: Path,
) -> None:
    """Fails where each change is a command, or where two workers that hear one HELLO both send."""
    async with story(tmp_path) as told, told.bench.worker("one"), told.bench.worker("two"):
        await wake_all(told.sleepers)
        for interval in (10, 20, 30, 40, 50):
            await told.bench.database.all(
                "update public.devices set desired_config = jsonb_build_object('interval', %s::int)"
                " where is_active",
                interval,
            )
        told.clock.go_on(timedelta(hours=8))
        await wake_all(told.sleepers)
        await eventually(lambda: all_ended(told), "every command has ended", 60)
        rows = await told.bench.database.all(
            "select device_code, reported_config, config_error from public.devices where is_active"
        )
    for sleeper in told.sleepers:
        assert sleeper.told("update_config") == 1
        assert sleeper.device.config == ({} if sleeper.code in told.failing else {"interval": 50})
    for row in rows:
        if row["device_code"] in told.failing:
            assert row["config_error"]
        else:
            assert row["reported_config"] == {"interval": 50}


async def roll_out(told: Story, version: str) -> UUID:
    """Publish a release and start its rollout; returns the rollout's id."""
    content = f"firmware {version}".encode() * 100
    path = f"{COMPANY}/{version}.bin"
    key = told.bench.stack.keys.service_role_key
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {key}"}) as client:
        answer = await client.post(
            f"{told.bench.stack.url}/storage/v1/object/firmware/{path}", content=content, timeout=20
        )
        answer.raise_for_status()
    row = await told.bench.database.one(
        "with release as (insert into public.firmware_releases"
        " (company_id, version, sha256, size_bytes, path)"
        " values (%s, %s, %s, %s, %s) returning release_id)"
        " insert into public.command_rollouts (company_id, name, target, command_type, release_id,"
        " rate_per_minute, growth_factor, failure_threshold, failure_minimum)"
        " select %s, %s, jsonb_build_object('site', %s::text), 'update_firmware', release_id, %s, 2, 0.2, %s"
        " from release returning rollout_id",
        COMPANY, version, hashlib.sha256(content).hexdigest(), len(content), path,
        COMPANY, f"to {version}", SITE, A_MINUTE, FEWEST_FAILURES,
    )  # fmt: skip
    rollout_id: UUID = row["rollout_id"]
    return rollout_id


async def advance(told: Story, rollout_id: UUID, *, until: str) -> int:
    """Let minutes pass, in each of which the devices wake that got something; returns how many it took."""
    for minute in range(1, 200):
        await eventually(lambda: told.is_released(rollout_id), "a minute's devices are released and sent", 60)
        await wake_all(await told.waiting_devices(rollout_id, "sent"))
        # A HELLO right after an answer says nothing of the firmware: it may have been sent before.
        told.clock.go_on(timedelta(seconds=10))
        await wake_all(await told.waiting_devices(rollout_id, "acknowledged"))
        await eventually(lambda: told.is_counted(rollout_id), "what became of them is counted", 60)
        if (await told.rollout(rollout_id))["status"] == until:
            return minute
        told.clock.go_on(timedelta(minutes=1))
    raise AssertionError(f"it did not become {until}: {await told.rollout(rollout_id)}")


async def tell(told: Story, rollout_id: UUID, state: str) -> tuple[str, str]:
    """What `show` tells of one of a rollout's commands in this state, and `timeline` of its device."""
    row = await told.bench.database.one(
        "select command_id, device_code from public.rollout_devices join public.devices using (device_id)"
        " where rollout_id = %s and state = %s order by device_id limit 1",
        rollout_id, state,
    )  # fmt: skip
    story = await told.ask("show", str(row["command_id"]))
    tomorrow = datetime.now(UTC) + told.clock.ahead + timedelta(days=1)  # by the database's clock
    until = f"{tomorrow:%Y-%m-%dT%H:%M:%SZ}"
    return story, await told.ask("timeline", row["device_code"], "--since", "30d", "--until", until)


async def kill_in_the_middle(worker: WorkerProcess, told: Story) -> None:
    """Kill it once a device has answered in this wake."""
    answered = "command_type = 'capture_image' and acknowledged_at is not null"
    before = await told.bench.database.count(answered)

    async def another_has() -> bool:
        return await told.bench.database.count(answered) > before

    await eventually(another_has, "an answer")
    await worker.kill()


async def all_ended(told: Story) -> bool:
    """Whether no command waits for anything."""
    return not await told.bench.database.count("status in ('pending', 'sent') or due_at is not null")
