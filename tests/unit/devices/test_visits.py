"""The devices that are awake: a visit that begins waits for the end of the one before."""

import asyncio
from collections.abc import Sequence
from typing import cast
from uuid import UUID

import pytest

from mqtt_service.adapters.supabase.devices import HeartbeatRecorded
from mqtt_service.adapters.supabase.visits import VisitGateway
from mqtt_service.devices.visits import Visits
from mqtt_service.metrics import REGISTRY
from mqtt_service.protocol.messages import Heartbeat
from tests.unit.devices.visit_fakes import DEVICE, DEVICE_ID, WAKE, bench, until


class Ends:
    """A database that takes its time to note that visits ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()

    async def end_visits(self, _: Sequence[UUID]) -> None:
        self.begun += 1
        await self.gate.wait()
        self.gate.clear()


def answered_hellos() -> float:
    return REGISTRY.get_sample_value("mqtt_service_hello_seconds_count") or 0.0


@pytest.mark.parametrize(("commands", "holds_lease", "measured"), [(0, True, 1), (3, True, 0), (0, False, 0)])
async def test_the_first_reply_to_a_hello_is_measured_by_the_worker_that_gives_it(
    commands: int, holds_lease: bool, measured: int
) -> None:
    async with bench(silence=0.05, command_patience=0.05) as parts:
        visits = Visits(
            cast("VisitGateway", Ends()),
            parts.link,
            parts.pictures,
            parts.replies,
            parts.options,
            lambda: None,
        )
        before = answered_hellos()
        recorded = HeartbeatRecorded(
            "r", "known", DEVICE_ID, "DEVICE-1",
            commands=commands, holds_lease=holds_lease, next_wake_at=WAKE,
        )  # fmt: skip
        heard = asyncio.get_running_loop().time()
        await visits.begin(Heartbeat("device", DEVICE), recorded, heard)
        assert answered_hellos() == before  # not before the broker has a reply
        if measured:
            await until(lambda: visits.find(DEVICE) is None)
            assert parts.link.told("next_wake")
        visit = visits.find(DEVICE)
        if visit is not None:
            visit.cancel()
        assert answered_hellos() == before + measured


async def test_a_hello_waits_until_each_end_of_a_former_visit_is_in_the_database() -> None:
    async with bench() as parts:
        database = Ends()
        visits = Visits(
            cast("VisitGateway", database),
            parts.link,
            parts.pictures,
            parts.replies,
            parts.options,
            lambda: None,
        )
        visits._look_for_lapsed = False
        task = asyncio.create_task(visits.run())
        heartbeat = Heartbeat("device", DEVICE)
        recorded = HeartbeatRecorded("r", "known", DEVICE_ID, "DEVICE-1", holds_lease=True, next_wake_at=WAKE)
        await visits.begin(heartbeat, recorded, 0.0)
        await until(lambda: database.begun == 1)
        await visits.begin(heartbeat, recorded, 0.0)  # its end comes while the first is being written
        await until(lambda: visits.find(DEVICE) is None)
        waiting = asyncio.create_task(visits.replace(DEVICE))
        database.gate.set()
        await until(lambda: database.begun == 2)
        assert not waiting.done()
        database.gate.set()
        await waiting
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_picture_right_behind_a_hello_waits_until_that_is_recorded() -> None:
    """Fails without `recording_heartbeat`: both calls wait in the database for the device's row."""
    async with bench() as parts:
        visits = Visits(
            cast("VisitGateway", Ends()),
            parts.link,
            parts.pictures,
            parts.replies,
            parts.options,
            lambda: None,
        )
        with visits.recording_heartbeat(DEVICE):
            picture = asyncio.create_task(visits.wait_for_beginning(DEVICE))
            await visits.wait_for_beginning("another device")
            await asyncio.sleep(0)
            assert not picture.done()
        await picture
        await visits.wait_for_beginning(DEVICE)
