"""A rolling deploy: the old process and the new one overlap, and the old one is told to end at any moment."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.faults.bench.drills import drill, report
from tests.faults.bench.fleet import Fleet
from tests.faults.bench.given_back import given_back
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEVICES = 20
ENDS = drill(short=4, long=200)
AT_ONCE = 4
STOPS_WITHIN = 10.0


async def all_answered(bench: Bench, count: int, deadline: float = 60.0) -> None:
    async def answered() -> bool:
        return await bench.database.statuses() == {"acknowledged": count}

    await eventually(answered, f"{count} acknowledged commands", deadline)


@asynccontextmanager
async def load(bench: Bench) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Devices that get commands all the time; ends with a call of what is yielded: how many there were."""
    devices = [row["device_id"] for row in await bench.database.add_active_devices(DEVICES)]
    enough = asyncio.Event()

    async def queue() -> int:
        rounds = 0
        while not enough.is_set():
            await bench.database.queue_each(devices, 1)
            await asyncio.sleep(0.2)  # the pace of the load
            rounds += 1
        return rounds * len(devices)

    task = asyncio.create_task(queue())

    async def end() -> int:
        enough.set()
        count = await task
        await all_answered(bench, count)
        return count

    yield end
    assert task.done()


async def under_way(fleet: Fleet, more: int = 50) -> None:
    """Wait until commands flow."""
    heard = len(fleet.heard)
    await eventually(lambda: len(fleet.heard) > heard + more, "commands that flow")


async def test_a_new_process_with_the_same_client_id_takes_over_without_a_fight(bench: Bench) -> None:
    """Fails without `has_newer_process` in link.py: on Mosquitto before 2.0.15, which puts a client out and
    does not say why, old and new take the session from each other again and again.
    """
    async with bench.devices() as fleet, bench.worker("old", MQTT_CLIENT_ID="one") as old, load(bench) as end:
        await under_way(fleet)
        async with bench.worker("new", MQTT_CLIENT_ID="one") as new:
            assert await old.ended(STOPS_WITHIN) == 0
            await old.says(r"\[MQTT\] another client has connected to .* as one; leaving the session to it")
            await old.says(r"\[SERVICE\] Stopping \(another worker took over the MQTT session\)")
            await under_way(fleet)
            count = await end()
            assert new.said("lost the connection") == []
            assert len(old.said("Connected to")) == len(new.said("Connected to")) == 1
            assert (await new.health())["status"] == "healthy"
        assert fleet.repeats() <= given_back(old, new)
        report(commands=count, repeats=fleet.repeats())
    assert await bench.database.count("retry_count > 0") == 0


async def test_a_new_process_with_another_client_id_overlaps_unnoticed(bench: Bench) -> None:
    """Fails without `busy` in fn_find_due_commands: a device's commands overtake each other."""
    async with bench.devices() as fleet, bench.worker("old") as old, load(bench) as end:
        await under_way(fleet)
        async with bench.worker("new") as new:
            await under_way(fleet)
            took = await old.stop(patience=STOPS_WITHIN)
            assert await leases_of(bench, old.name) == 0
            await under_way(fleet)
            count = await end()
        assert await in_order(bench, fleet)
        assert fleet.repeats() <= given_back(old, new)
        report(commands=count, repeats=fleet.repeats(), stopped_in=f"{took:.1f} s")
    assert await bench.database.count("retry_count > 0") == 0


async def in_order(bench: Bench, fleet: Fleet) -> bool:
    """Whether each device heard its commands in the order of issue."""
    issued: dict[str, list[str]] = {}
    for row in await bench.database.all(
        "select command_id::text, device_mac"
        " from public.device_commands join public.devices using (device_id) order by issue_number"
    ):
        issued.setdefault(row["device_mac"], []).append(row["command_id"])
    heard: dict[str, list[str]] = {}
    for message in fleet.firsts():
        heard.setdefault(message.topic_id, []).append(message.command_id)
    return heard == issued


async def leases_of(bench: Bench, client_id: str) -> int:
    return await bench.database.count("lease_worker like %s", f"{client_id}:%")


async def test_sigterm_at_any_moment_ends_within_10_s_and_gives_every_lease_back(bench: Bench) -> None:
    """Fails where `Worker.stop` does not stop the queue and wait for it: leases stay.

    Four instances that start anew each time, as on a platform, under the client ids that they had: what
    devices answer while an instance is away waits for its return.
    """
    dice = random.Random(9)
    ends: list[End] = []
    instances = [f"instance-{n}" for n in range(AT_ONCE)]
    async with bench.devices() as fleet, load(bench) as end, AsyncExitStack() as at_last:
        while len(ends) < ENDS:
            ends += await asyncio.gather(
                *(end_one(bench, client_id, f"{client_id}-{len(ends)}", dice) for client_id in instances)
            )
        stay = [await at_last.enter_async_context(bench.worker(client_id)) for client_id in instances]
        count = await end()
        report(
            ends=len(ends), at_work=sum(one.at_work for one in ends), commands=count,
            slowest=f"{max(one.seconds for one in ends):.1f} s", repeats=fleet.repeats(),
        )  # fmt: skip
        assert fleet.repeats() <= sum(one.given_back for one in ends) + given_back(*stay)
    assert await bench.database.count("retry_count > 0") == 0


@dataclass(frozen=True)
class End:
    """How a process ended: in how many seconds, whether it was at work, and what it gave back unsettled."""

    seconds: float
    at_work: bool
    given_back: int


async def end_one(bench: Bench, client_id: str, name: str, dice: random.Random) -> End:
    """Start a worker and ask it to end at a random moment, most often once it has begun."""
    worker = await WorkerProcess.start(name, bench.env(client_id, {}), bench.directory)
    try:
        if dice.random() < 0.8:
            await worker.says("Connected to", deadline=60)
        await asyncio.sleep(dice.uniform(0.0, 1.2))  # the random moment
        started = time.monotonic()
        worker.process.terminate()
        status = await worker.ended(STOPS_WITHIN)
    finally:
        await worker.kill()
    # Before it has anything in hand, a process may simply end.
    assert status == 0 or not worker.said("Command queue processor started"), worker.output
    assert await leases_of(bench, client_id) == 0, worker.output
    assert not worker.said("Traceback"), worker.output
    at_work = bool(worker.said("Processing .* pending command"))
    return End(time.monotonic() - started, at_work, given_back(worker))


async def test_shutdown_ends_while_everything_is_frozen(bench: Bench) -> None:
    """Fails where a part of `Worker.stop` has no bound, and `exit_after` is not there either."""
    async with bench.devices(), bench.worker() as worker:
        devices = [row["device_id"] for row in await bench.database.add_active_devices(DEVICES)]
        bench.broker.freeze()
        try:
            await bench.database.queue_each(devices, 20)
            await worker.says("Processing .* pending command")
            bench.api.black_hole()
            took = await worker.stop(patience=STOPS_WITHIN)
        finally:
            bench.broker.thaw()
        bench.api.flow()
        report(stopped_in=f"{took:.1f} s")
        assert await bench.database.count("retry_count > 0") == 0


async def test_an_answer_that_the_broker_delivers_to_the_next_process_counts_once(bench: Bench) -> None:
    """Fails without fn_find_redelivered_acknowledgement: the answer counts for the next command too.

    The old process records it, and dies before its acknowledgement reaches the broker; an hour may go by.
    """
    (device,) = await bench.database.add_active_devices(1)
    ack = f"device/{device['device_mac']}/ack"
    async with bench.devices(answering=False) as fleet, bench.worker("old", MQTT_CLIENT_ID="one") as old:
        # Only above `max_inbound` does a packet id show that the broker counts.
        for _ in range(510):
            fleet.say("device/nobody/ack", {"command_ack": "ok"})
        first = await bench.database.queue(device["device_id"], "reboot")
        await bench.database.becomes(first, "sent")
        await old.says("no device with this id is registered", times=510)
        bench.mqtt.black_hole("up")
        fleet.say(ack, {"command_ack": "ok"})
        await bench.database.becomes(first, "acknowledged")
        await old.kill()
        await bench.mqtt.reset()
        bench.mqtt.flow()
        await bench.database.all(
            "update mqtt_private.acknowledgements set received_at = received_at - interval '50 min'"
        )
        async with bench.worker("other") as other:
            second = await bench.database.queue(device["device_id"], "reboot")
            await bench.database.becomes(second, "sent")
            await other.stop()
        async with bench.worker("new", MQTT_CLIENT_ID="one") as new:
            await new.says("Answer not used: the command had it already")
            assert (await bench.database.command(second))["status"] == "sent"
            fleet.say(ack, {"command_ack": "ok"})
            await bench.database.becomes(second, "acknowledged")
