"""A transaction of the project holds a device's row, a forgotten one say: what is not about it goes on."""

import psycopg
import pytest

from tests.faults.bench.drills import report
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_locked_device_keeps_its_own_answers_and_commands_and_nothing_else(bench: Bench) -> None:
    """Take out RowLockedError in Batcher._write_batch: all answers and all commands wait for the lock."""
    locked, *free = await bench.database.add_active_devices(6)
    async with bench.devices(answering=False) as fleet, bench.worker(LEASE_DURATION="9") as worker:
        await bench.database.queue_each([locked["device_id"], *(device["device_id"] for device in free)], 1)

        async def sent() -> bool:
            return await bench.database.statuses() == {"sent": 6}

        await eventually(sent, "a command for each device")
        async with await psycopg.AsyncConnection.connect(bench.stack.db_url) as another:
            await another.execute(
                "update public.devices set device_name = 'held' where device_id = %s", [locked["device_id"]]
            )
            for heard in fleet.firsts():
                fleet.answer(heard)
            await worker.says(r"\[ACK\] .* met a row that another transaction .* holds: .*, the rest goes on")
            await bench.database.queue_each([device["device_id"] for device in free], 2)
            fleet.answering = True

            async def all_others() -> bool:
                counts = await bench.database.statuses()
                return counts == {"sent": 1, "acknowledged": 15}

            await eventually(all_others, "everything about the other devices", 40)
            assert (await worker.health())["status"] == "healthy"
            await another.rollback()

        async def everything() -> bool:
            return await bench.database.statuses() == {"acknowledged": 16}

        await eventually(everything, "the answer that the lock kept", 40)
        report(lines_about_it=len(worker.said("met a row that another transaction")))
    assert fleet.repeats() == 0
