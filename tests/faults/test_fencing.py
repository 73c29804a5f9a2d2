"""A worker that was stopped beyond its lease and goes on changes nothing that its successor claimed."""

from typing import Any

import pytest

from tests.faults.bench.proxy import Proxy
from tests.faults.bench.rig import LEASE, Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _commands(bench: Bench) -> list[dict[str, Any]]:
    return await bench.database.all("select * from public.device_commands order by issue_number")


async def test_a_worker_that_slept_through_its_lease_changes_nothing_of_its_successors(bench: Bench) -> None:
    """Take out, in fn_settle_commands, that the attempt and the lease's worker must be the reporter's."""
    devices = await bench.database.add_active_devices(4)
    ids = [device["device_id"] for device in devices]
    async with (
        Proxy(bench.broker.port) as old_link,
        bench.devices(answering=False) as fleet,
        bench.worker("old", MQTT_PORT=str(old_link.port)) as old,
    ):
        old_link.black_hole("down")  # it publishes, and hears of no PUBACK
        await bench.database.queue_each(ids, 2)
        await eventually(lambda: len(fleet.heard) == 4, "each device's first command from the old worker")
        old.freeze()
        old_link.flow()

        # The successor, too, is still waiting for the broker's word when the old one goes on.
        async with bench.worker("successor", LEASE_DURATION="60") as successor:
            bench.mqtt.black_hole("down")
            await eventually(lambda: len(fleet.heard) == 8, "the successor's", LEASE + 15)
            assert successor.said(r"8 command\(s\) of a worker that is gone \(old:\w+\) are taken over")
            before = await _commands(bench)
            assert {row["lease_worker"].split(":")[0] for row in before} == {"successor"}
            old.thaw()
            await old.says(
                r"was settled elsewhere already; the result (sent|released) is not written", times=8
            )
            assert await _commands(bench) == before
            assert len(fleet.heard) == 8
            await old.becomes("healthy")

            bench.mqtt.flow()
            for row in before:
                await bench.database.becomes(row["command_id"], "sent")
        assert await bench.database.count("attempt <> 2 or retry_count > 0") == 0
        fleet.answering = True
        last = await bench.database.queue(ids[0], "reboot")
        await bench.database.becomes(last, "acknowledged")
