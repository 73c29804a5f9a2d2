"""A worker that was stopped beyond its lease and goes on changes nothing that its successor claimed."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.bench.proxy import Proxy
from tests.faults.bench.rig import LEASE, Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_STALE = r"was settled elsewhere; its (sent|released) changed nothing"


@dataclass(frozen=True)
class Case:
    """How far the successor is when the old worker goes on: it has settled, or still holds its leases.

    `published` is what both have put on the wire by then: four commands the old one, the rest the successor.
    """

    settled: bool
    published: int

    def reached(self, rows: list[dict[str, Any]]) -> bool:
        if self.settled:
            return all(row["status"] == "acknowledged" for row in rows)
        return all((row["lease_worker"] or "").startswith("successor") for row in rows)


async def _commands(bench: Bench) -> list[dict[str, Any]]:
    return await bench.database.all("select * from public.device_commands order by issue_number")


@pytest.mark.parametrize(
    "case", [Case(settled=True, published=12), Case(settled=False, published=8)], ids=["settled", "holding"]
)
async def test_a_worker_that_slept_through_its_lease_changes_nothing_of_its_successors(
    bench: Bench, case: Case
) -> None:
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

        fleet.answering = case.settled
        async with bench.worker("successor", LEASE_DURATION=str(LEASE if case.settled else 60)) as successor:
            if not case.settled:
                bench.mqtt.black_hole("down")

            async def taken() -> bool:
                return len(fleet.heard) == case.published and case.reached(await _commands(bench))

            await eventually(taken, "the successor's claim", LEASE + 15)
            assert successor.said(r"8 command\(s\) of a worker that is gone")
            before = await _commands(bench)
            old.thaw()
            await old.says(_STALE, times=8)
            assert await _commands(bench) == before
            assert len(fleet.heard) == case.published
            bench.mqtt.flow()
            await old.becomes("healthy")
        fleet.answering = True
        last = await bench.database.queue(ids[0], "reboot")
        await bench.database.becomes(last, "acknowledged")
