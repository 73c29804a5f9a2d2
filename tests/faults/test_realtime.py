"""Realtime dead in every way we know of: commands flow at the pace of the poll, and the worker says so.

Within 30 s of its death /health says `degraded`; within 60 s of its return it says `healthy`. One line tells
what happened and what the service does about it. The short run has a quicker heartbeat; the drill of
MQTT_SERVICE_LONG_DRILLS=1 has the worker's own, and 5 minutes without Realtime.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from mqtt_service.devstack.faults import RealtimeAction, RealtimeFaults
from mqtt_service.devstack.stack import Stack
from mqtt_service.health import health_document
from mqtt_service.queue.command_queue import CommandQueueProcessor
from mqtt_service.service import Worker
from tests.faults.bench.drills import LONG, drill, report
from tests.faults.bench.fork import Fork
from tests.integration.worker.harness import SITE, Rows, eventually, rows, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEEN_WITHIN = 30.0
BACK_WITHIN = 60.0
DEAD = drill(short=1.0, long=300.0)
POLL = 0.5
QUICKER = {
    "adapters.supabase.realtime_session._HEARTBEAT": 0.5,
    "adapters.supabase.realtime_session._SUBSCRIBE_TIMEOUT": 3.0,
    "adapters.supabase.command_bell._ANSWER_TIMEOUT": 0.9,
    "adapters.supabase.missed_events._LATE": 1.0,
    "adapters.supabase.missed_events._GRACE": 0.5,
}

POLL_GOES_ON = "commands go on at the pace of the poll"

Lines = Callable[[str], list[str]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Lines:
    """The log's lines about Realtime that contain this."""
    for constant, short in () if LONG else QUICKER.items():
        monkeypatch.setattr(f"mqtt_service.{constant}", short)
    caplog.set_level("INFO", "mqtt_service")

    def containing(text: str) -> list[str]:
        about = (record.getMessage() for record in caplog.records)
        return [line for line in about if line.startswith("[REALTIME]") and text in line]

    return containing


@pytest_asyncio.fixture(loop_scope="session")
async def database(stack: Stack) -> AsyncIterator[Rows]:
    stack.faults.clear()
    async with rows(stack) as view:
        await view.all("delete from public.device_commands")
        yield view
    stack.faults.clear()


@asynccontextmanager
async def forked(stack: Stack) -> AsyncIterator[tuple[Worker, Fork]]:
    """A healthy worker whose Realtime can fail alone."""
    async with (
        Fork(int(stack.url.rsplit(":", 1)[1])) as fork,
        running_worker(stack, supabase_url=fork.url, poll_interval=POLL) as worker,
    ):
        await becomes(worker, "healthy", BACK_WITHIN)
        yield worker, fork


async def becomes(worker: Worker, status: str, deadline: float) -> None:
    await eventually(lambda: worker.snapshot().verdict == status, f"a worker that is {status}", deadline)


def error_of(worker: Worker) -> str:
    """What /health says of Realtime."""
    return str(health_document(worker.snapshot())["realtime"])


async def send_one(database: Rows) -> float:
    """Queue a command; returns the seconds until the broker had it."""
    device = (await database.add_active_devices(1))[0]["device_id"]
    row = await database.becomes(await database.queue(device, "reboot"), "sent")
    return float((row["delivered_at"] - row["issued_at"]).total_seconds())


async def map_one(database: Rows) -> None:
    """Map a device that was not active; returns when its welcome was sent."""
    device = (await database.add_active_devices(1))[0]["device_id"]
    await database.all("update public.devices set is_active = false where device_id = %s", device)
    await database.all(
        "insert into public.device_site_assignments (device_id, site_id) values (%s, %s)", device, SITE
    )

    async def welcomed() -> bool:
        found = await database.all("select status from public.device_commands where device_id = %s", device)
        return [row["status"] for row in found] == ["sent"]

    await eventually(welcomed, "the one welcome of a device that was mapped")


async def test_a_socket_that_goes_nowhere_and_a_server_that_is_away(
    stack: Stack, database: Rows, lines: Lines
) -> None:
    """Fails where realtime_session.py does not count unanswered heartbeats (the first is not seen), or where
    `Doorbell.run` does not subscribe anew (neither comes back).
    """
    async with forked(stack) as (holed, hole), forked(stack) as (away, gap):
        started = time.monotonic()
        hole.realtime.black_hole()
        await gap.realtime.refuse()
        await becomes(away, "degraded", SEEN_WITHIN)
        await becomes(holed, "degraded", SEEN_WITHIN)
        seen = time.monotonic() - started
        assert POLL_GOES_ON in lines("silent for")[0]
        assert "silent for" in error_of(holed)
        assert any(POLL_GOES_ON in line for line in lines("Realtime cannot be reached"))

        waits = [await send_one(database)]
        while time.monotonic() - started < seen + DEAD:
            waits.append(await send_one(database))
        await map_one(database)
        assert (holed.snapshot().verdict, away.snapshot().verdict) == ("degraded", "degraded")

        returned = time.monotonic()
        hole.realtime.flow()
        await gap.realtime.admit()
        await becomes(holed, "healthy", BACK_WITHIN)
        await becomes(away, "healthy", BACK_WITHIN)
        report(
            seen=f"{seen:.1f} s", back=f"{time.monotonic() - returned:.1f} s",
            slowest_command=f"{max(waits):.2f} s", commands=len(waits), poll=f"{POLL} s",
        )  # fmt: skip


@pytest.mark.parametrize("how", ["phx_close", "expire", "close_clean", "close_abrupt"])
async def test_a_channel_that_the_server_ends(
    stack: Stack, database: Rows, lines: Lines, how: RealtimeAction
) -> None:
    """Fails without `_on_state` in realtime_session.py: a channel that is closed stays closed."""
    async with forked(stack) as (worker, _):
        stack.faults.act(how)
        await eventually(lambda: lines(POLL_GOES_ON), "a line about the loss")
        await map_one(database)
        await becomes(worker, "healthy", BACK_WITHIN)
        report(line=lines(POLL_GOES_ON)[0])


async def test_a_channel_that_delivers_nothing(stack: Stack, database: Rows, lines: Lines) -> None:
    """Fails without missed_events.py: the channel itself says to the end that it is joined and well."""
    async with forked(stack) as (worker, _):

        async def after_a_command(status: str) -> bool:
            await send_one(database)
            return worker.snapshot().verdict == status

        stack.faults.realtime = RealtimeFaults(drop=True)
        started = time.monotonic()
        await eventually(lambda: after_a_command("degraded"), "the silence is seen", SEEN_WITHIN)
        seen = time.monotonic() - started
        assert POLL_GOES_ON in lines("did not announce commands that the poll found")[0]
        assert "did not announce" in error_of(worker)
        # A subscription that was silent is not believed because it is joined again.
        await eventually(lambda: len(lines("listener active")) > 1, "the next subscription")
        assert worker.snapshot().verdict == "degraded"

        stack.faults.clear()
        started = time.monotonic()
        await eventually(lambda: after_a_command("healthy"), "the events are heard again", BACK_WITHIN)
        assert lines("Events arrive again")
        report(seen=f"{seen:.1f} s", back=f"{time.monotonic() - started:.1f} s")


async def test_a_database_that_rings_when_it_is_asked_and_not_for_commands(
    stack: Stack, database: Rows, lines: Lines
) -> None:
    """Fails where `Doorbell` trusts the ring that it asked for: commands wait for the poll for ever."""
    async with forked(stack) as (worker, _):

        async def after_a_command(status: str) -> bool:
            await send_one(database)
            return worker.snapshot().verdict == status

        await database.all("alter table public.device_commands disable trigger mqtt_ring_insert")
        try:
            started = time.monotonic()
            await eventually(lambda: after_a_command("degraded"), "the silence is seen", SEEN_WITHIN)
            seen = time.monotonic() - started
            await eventually(lambda: after_a_command("healthy"), "another way to hear", BACK_WITHIN)
            assert lines("each new row is listened to")
        finally:
            await database.all("alter table public.device_commands enable trigger mqtt_ring_insert")
        await send_one(database)
        await eventually(lambda: lines("The database rings"), "the first ring")
        assert worker.snapshot().verdict == "healthy"
        report(seen=f"{seen:.1f} s")


async def test_an_event_whose_handling_raises(
    stack: Stack, database: Rows, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails without the `except` in `RealtimeSession._call`: the library ends its listener over a raise."""
    async with running_worker(stack, poll_interval=600.0) as worker:
        await becomes(worker, "healthy", BACK_WITHIN)
        # The link wakes the queue when it says this, which can be after /health knows of it.
        await eventually(lambda: "[MQTT] ✅ Connected" in caplog.text, "the link's word that it is up")
        subscribed = worker.doorbell.status.since
        wakes: list[None] = []

        def poll_now() -> None:
            wakes.append(None)
            if len(wakes) == 1:
                raise ValueError("a fault of ours")
            CommandQueueProcessor.poll_now(worker.queue)

        worker.queue.poll_now = poll_now  # type: ignore[method-assign]
        (device,) = await database.add_active_devices(1)
        await database.queue(device["device_id"], "reboot")
        fault = "An event could not be handled; the poll will find what it announced"
        await eventually(lambda: lines(fault), "the event whose handling raises")
        command = await database.queue(device["device_id"], "reboot")
        await database.becomes(command, "sent")
        assert worker.doorbell.status.since == subscribed
