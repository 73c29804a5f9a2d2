"""Moving from the service that this one replaces to this one, and back, while commands come all along."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from tests.faults.bench.drills import drill, report
from tests.faults.bench.fleet import Fleet
from tests.faults.bench.node_service import node_service
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import SITE, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The other service sends one command after the other. It must keep up on a busy machine too: where its rows
# grow older than `STANDBY`, it is right that ours takes them.
DEVICES = 2
FLOW = drill(short=6, long=600)
INTERVAL = 0.5
STANDBY = "10"


class Operator:
    """Queues commands all along, and maps a new device in each phase."""

    def __init__(self, bench: Bench, fleet: Fleet, devices: list[UUID]) -> None:
        self.queued = 0
        self.mapped: list[str] = []
        self._bench = bench
        self._fleet = fleet
        self._devices = devices
        self._enough = asyncio.Event()

    async def run(self) -> None:
        while not self._enough.is_set():
            await self._bench.database.queue_each(self._devices, 1)
            self.queued += len(self._devices)
            await asyncio.sleep(0.4)  # the pace of the load

    def stop(self) -> None:
        self._enough.set()

    async def sees_commands_flow(self) -> None:
        """Return after some more commands, and the welcome of a device that is mapped now."""
        before = len(self._fleet.heard)
        await eventually(lambda: len(self._fleet.heard) > before + FLOW, "commands that flow", 60)
        mac = f"NEW-{len(self.mapped)}"
        self.mapped.append(mac)
        await self._bench.database.all(
            "with d as (insert into public.devices (device_mac) values (%s) returning device_id)"
            " insert into public.device_site_assignments (device_id, site_id) select device_id, %s from d",
            mac, SITE,
        )  # fmt: skip
        await eventually(lambda: self.welcomes()[mac], f"the welcome of {mac}", 60)

    def welcomes(self) -> dict[str, int]:
        """How often each device that was mapped was sent a schedule."""
        heard = [message.topic_id for message in list(self._fleet.heard) if "next_wake" in message.body]
        return {mac: heard.count(mac) for mac in self.mapped}


@asynccontextmanager
async def operator(bench: Bench, fleet: Fleet) -> AsyncIterator[Operator]:
    devices = [row["device_id"] for row in await bench.database.add_active_devices(DEVICES)]
    made = Operator(bench, fleet, devices)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        made.stop()
        await task


async def taken_by_us(bench: Bench) -> int:
    return await bench.database.count("attempt > 0")


async def all_are_acknowledged(bench: Bench, expected: int) -> None:
    """Wait for it; a failure shows the rows that are not."""

    async def look() -> bool:
        return await bench.database.statuses() == {"acknowledged": expected}

    try:
        await eventually(look, f"{expected} acknowledged commands", 60)
    except AssertionError as error:
        for row in await bench.database.all(
            "select * from public.device_commands where status <> 'acknowledged'"
        ):
            error.add_note(str(row))
        raise


async def claims(worker: WorkerProcess) -> None:
    await worker.says(r"\[CommandQueue\] Processing \d+ pending command")


async def test_each_command_is_sent_once_while_the_owner_moves_over_and_back(bench: Bench) -> None:
    """Fails without `due_before` in fn_claim_commands: both services send what is pending.

    Ours keeps its MQTT client id: the broker holds answers that come during a handover.
    """
    port = bench.broker.port
    async with bench.devices() as fleet, operator(bench, fleet) as person:
        async with node_service(bench.stack, port, interval=INTERVAL) as node:
            await person.sees_commands_flow()
            async with bench.worker("ours", STANDBY=STANDBY) as beside:
                await person.sees_commands_flow()
                assert await taken_by_us(bench) == 0
                node.stop()
                await person.sees_commands_flow()
                assert await taken_by_us(bench) > 0
                await beside.stop(patience=10)
        async with bench.worker("ours") as alone:
            await claims(alone)
            await person.sees_commands_flow()
            await alone.stop(patience=10)
        before = await taken_by_us(bench)
        async with node_service(bench.stack, port, interval=INTERVAL):
            await person.sees_commands_flow()
            async with bench.worker("ours", STANDBY=STANDBY) as beside:
                await person.sees_commands_flow()
                await beside.stop(patience=10)
            await person.sees_commands_flow()
            person.stop()
            expected = person.queued + len(person.mapped)

            await all_are_acknowledged(bench, expected)
        assert await taken_by_us(bench) == before
        assert fleet.repeats() == 0
        assert len(fleet.heard) == expected
        assert person.welcomes() == dict.fromkeys(person.mapped, 1)
        report(commands=expected, ours=before)


async def test_a_stand_by_leaves_hellos_and_pictures_unanswered_and_writes_nothing(bench: Bench) -> None:
    """Fails without `standby` in InboundRouter: the device gets two answers."""
    async with bench.devices() as fleet, bench.worker("beside", STANDBY=STANDBY) as worker:
        [device] = await bench.database.add_active_devices(1)
        mac = device["device_mac"]
        await asyncio.to_thread(
            fleet.say(f"device/{mac}/status", {"device_id": mac, "status": "alive"}).wait_for_publish, 10
        )
        announced = {"device_id": mac, "image_name": "a.jpg", "total_chunks_count": 3}
        await asyncio.to_thread(fleet.say(f"ESP32CAM/{mac}/data", announced).wait_for_publish, 10)
        await eventually(lambda: _left(worker, 2), "two messages left to the other", 20)
        assert fleet.heard == []
        assert await bench.database.all("select from mqtt_private.visits") == []
        assert await bench.database.all("select from public.device_images") == []


async def _left(worker: WorkerProcess, count: int) -> bool:
    return await worker.metric('mqtt_service_dropped_messages_total{reason="standby"}') == count
