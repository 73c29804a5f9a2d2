"""Several workers hear the same devices: they agree on what each answer means, or share what devices say."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from tests.faults.bench.drills import drill, report
from tests.faults.bench.fleet import Fleet
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.proxy import Proxy
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEVICES = 8
ROUNDS = drill(2, 30)
LAG = 0.4
SAY = {"command_ack": "acknowledged"}


def results(*workers: WorkerProcess) -> Callable[[str], Awaitable[float]]:
    """How many answers these workers counted with this result, in all."""

    async def count(result: str) -> float:
        series = f'mqtt_service_acknowledgements_total{{result="{result}"}}'
        return sum([await worker.metric(series) for worker in workers])

    return count


async def known_as_echoes(fleet: Fleet, bench: Bench, *workers: WorkerProcess) -> None:
    """Wait until each worker has heard what was said so far: something said last is heard last."""
    mark = str(uuid4())
    (device,) = await bench.database.all("select device_mac from public.devices limit 1")
    fleet.say(f"device/{device['device_mac']}/ack", {"command_id": mark, **SAY})
    for worker in workers:
        await worker.says(f"Answer not used: .*{mark}")


async def test_an_answer_without_an_id_counts_once_however_late_another_worker_hears_it(bench: Bench) -> None:
    """Take out what fn_find_duplicate_acknowledgement says of answers from before the command was sent.

    One worker is slow, and another is killed each round and goes on with its session. Of each round's two
    commands a device answers the first, so the second must stay `sent`, though echoes of that answer come in.
    """
    devices = await bench.database.add_active_devices(DEVICES)
    ids = [device["device_id"] for device in devices]
    async with (
        Proxy(bench.broker.port) as slow_link,
        bench.devices(answering=False) as fleet,
        bench.worker("quick") as quick,
        bench.worker("slow", MQTT_PORT=str(slow_link.port)) as slow,
    ):
        slow_link.delay = LAG
        for turn in range(1, ROUNDS + 1):
            async with bench.worker("mortal") as mortal:
                for half in (1, 2):
                    await bench.database.queue_each(ids, 1)
                    sent = (turn - 1) * DEVICES + (DEVICES if half == 2 else 0)
                    await all_are_sent(bench, {"acknowledged": sent, "sent": turn * DEVICES})
                    if half == 1:
                        for device in devices:
                            fleet.say(f"device/{device['device_mac']}/ack", SAY)
                        await answered(bench, turn * DEVICES)
                await known_as_echoes(fleet, bench, quick, slow, mortal)
                await mortal.kill()
            assert await bench.database.statuses() == {
                "acknowledged": turn * DEVICES,
                "sent": turn * DEVICES,
            }
        count = results(quick, slow)
        report(rounds=ROUNDS, answers=ROUNDS * DEVICES, echoes_of_two=await count("duplicate"))


async def all_are_sent(bench: Bench, wanted: dict[str, int]) -> None:
    async def look() -> bool:
        return await bench.database.statuses() == {kind: n for kind, n in wanted.items() if n}

    await eventually(look, f"{wanted}", 30)


async def answered(bench: Bench, commands: int) -> None:
    async def look() -> bool:
        return await bench.database.count("status = 'acknowledged'") == commands

    await eventually(look, f"{commands} acknowledged commands", 30)


async def test_a_group_shares_what_devices_say_and_a_dead_members_part_waits_for_its_return(
    bench: Bench,
) -> None:
    """Take out `$share/` in protocol/topics.py's `subscriptions`: every worker hears everything."""
    devices = await bench.database.add_active_devices(DEVICES)
    ids = [device["device_id"] for device in devices]
    total = DEVICES * 5
    async with (
        bench.devices(answering=False) as fleet,
        bench.worker("one", MQTT_SHARED_GROUP="workers") as one,
    ):
        async with bench.worker("two", MQTT_SHARED_GROUP="workers") as two:
            for turn in range(1, 6):
                await bench.database.queue_each(ids, 1)
                await all_are_sent(bench, {"acknowledged": (turn - 1) * DEVICES, "sent": DEVICES})
                for device in devices:
                    fleet.say(f"device/{device['device_mac']}/ack", SAY)
                await answered(bench, turn * DEVICES)
            count = results(one, two)
            assert (await count("acknowledged"), await count("duplicate")) == (total, 0)
            shares = [await results(worker)("acknowledged") for worker in (one, two)]
            for device in devices:
                fleet.say(f"device/{device['device_mac']}/status", {"status": "alive"})
            heartbeats = 'mqtt_service_hellos_total{result="known"}'

            async def each_was_heard_once() -> bool:
                return await one.metric(heartbeats) + await two.metric(heartbeats) == DEVICES

            await eventually(each_was_heard_once, "every HELLO, once")
            await eventually(lambda: fleet_told(fleet, DEVICES), "an answer to every HELLO")

            await bench.database.queue_each(ids, 5)
            await all_are_sent(bench, {"acknowledged": total, "sent": total})
            await bench.api.refuse()
            for message in fleet.firsts()[-total:]:
                fleet.answer(message)
            await two.says(r"\[ACK\] .*; \d+ waiting, next try in")
            await two.kill()
        await bench.api.admit()
        await eventually(lambda: one.said("✅ Command"), "the survivor's part")
        async with bench.worker("two", MQTT_SHARED_GROUP="workers"):
            await answered(bench, 2 * total)
    report(answers=2 * total, shares=shares)
    assert all(shares), shares


def fleet_told(fleet: Fleet, number: int) -> bool:
    """Whether so many devices were told when to wake."""
    return len({heard.topic_id for heard in list(fleet.heard) if "next_wake" in heard.body}) >= number
