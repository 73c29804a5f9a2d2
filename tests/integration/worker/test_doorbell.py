"""How a worker hears of commands: one ring for a statement, or the rows where the database does not ring."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
import pytest_asyncio

from mqtt_service.adapters.supabase.command_bell import RingGateway
from mqtt_service.adapters.supabase.commands import Claim, CommandGateway
from mqtt_service.adapters.supabase.missed_events import MissedEvents
from mqtt_service.adapters.supabase.realtime import Doorbell
from mqtt_service.adapters.supabase.realtime_session import Listeners
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.devstack.realtime.messages_table import keep_partitions
from mqtt_service.devstack.stack import Stack, running_stack
from tests.integration.worker.harness import Rows, eventually, rows, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="session")

# One device's commands, each in a transaction of its own.
TRANSACTIONS = """
do $$
declare
  v_device constant uuid := (select device_id from public.devices where is_active limit 1);
begin
  for i in 1..999 loop
    insert into public.device_commands (device_id, command_type) values (v_device, 'ping');
    commit;
  end loop;
end
$$
"""

NOT_RUNG = "The database has not rung"
RINGS = "The database rings"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack of these tests' own: they break its Realtime."""
    async with running_stack(data_dir=tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def database(stack: Stack) -> AsyncIterator[Rows]:
    async with rows(stack) as view:
        await view.all("delete from public.device_commands")
        yield view
        await view.all("delete from public.device_commands")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "mqtt_service")
    return caplog


@asynccontextmanager
async def listening(stack: Stack) -> AsyncIterator[list[None]]:
    """A doorbell without a worker; each event that it hears is an entry of the list."""
    heard: list[None] = []
    client = await connect(stack.url, stack.keys.service_role_key)
    doorbell = Doorbell(
        stack.url,
        stack.keys.service_role_key,
        Listeners(lambda: heard.append(None), nobody_is_mapped, lambda: None),
        RingGateway(DatabaseFunctions(client)).ring,
    )
    task = asyncio.create_task(doorbell.run())
    try:
        await eventually(lambda: doorbell.status.connected, "the doorbell")
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.postgrest.aclose()


def nobody_is_mapped(_: UUID) -> None:
    """No test here maps a device."""


async def insert(database: Rows, count: int) -> None:
    """Queue so many commands in one statement."""
    (device,) = await database.add_active_devices(1)
    await database.all(
        "insert into public.device_commands (device_id, command_type)"
        " select %s, 'ping' from generate_series(1, %s)",
        device["device_id"], count,
    )  # fmt: skip


async def test_a_statement_of_5000_rows_is_one_event(
    stack: Stack, database: Rows, log: pytest.LogCaptureFixture
) -> None:
    async with listening(stack) as heard:
        await insert(database, 5_000)
        await eventually(lambda: heard, "a ring")
        await insert(database, 1)
        await eventually(lambda: len(heard) > 1, "the next ring")
        assert len(heard) == 2
    assert NOT_RUNG not in log.text


async def test_a_test_of_another_worker_wakes_nobody(stack: Stack, database: Rows) -> None:
    async with listening(stack) as heard:
        async with listening(stack):
            assert heard == []
        await insert(database, 1)
        await eventually(lambda: heard, "a ring")
        assert len(heard) == 1


async def test_where_the_database_cannot_ring_rows_are_heard_until_it_can(
    stack: Stack, database: Rows, log: pytest.LogCaptureFixture
) -> None:
    await database.all("alter function realtime.send rename to send_before")
    try:
        async with listening(stack) as heard:
            assert NOT_RUNG in log.text
            await insert(database, 3)
            await eventually(lambda: len(heard) == 3, "an event for each row")
            await database.all("alter function realtime.send_before rename to send")
            await insert(database, 1)
            await eventually(lambda: RINGS in log.text, "the first ring")
            heard.clear()
            await insert(database, 100)
            await insert(database, 1)
            await eventually(lambda: len(heard) >= 2, "two rings")
            assert len(heard) < 100, "rows are no longer listened to"
    finally:
        if await database.all("select from pg_proc where proname = 'send_before'"):
            await database.all("alter function realtime.send_before rename to send")


async def test_where_the_topic_cannot_be_joined_rows_are_heard(
    stack: Stack, database: Rows, log: pytest.LogCaptureFixture
) -> None:
    """As on a project whose Realtime did not make the partition of the day."""
    for row in await database.all(
        "select inhrelid::regclass::text as name from pg_inherits"
        " where inhparent = 'realtime.messages'::regclass"
    ):
        await database.all(f"drop table {row['name']}")
    try:
        async with listening(stack) as heard:
            assert NOT_RUNG in log.text
            await insert(database, 2)
            await eventually(lambda: len(heard) == 2, "an event for each row")
    finally:
        async with await psycopg.AsyncConnection.connect(stack.db_url, autocommit=True) as connection:
            await keep_partitions(connection)


async def test_a_thousand_rings_during_a_claim_cost_one_more_claim(
    stack: Stack, database: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[None] = []
    answered: list[None] = []
    rung: list[float] = []
    may_claim = asyncio.Event()
    claim, hear = CommandGateway.claim, MissedEvents.event_received

    def count_and_hear(missed: MissedEvents, now: float) -> bool:
        rung.append(now)
        return hear(missed, now)

    async def slow_claim(gateway: CommandGateway, **parameters: Any) -> Claim:
        claims.append(None)
        await may_claim.wait()
        found = await claim(gateway, **parameters)
        answered.append(None)
        return found

    async with running_worker(stack, poll_interval=600.0) as worker:
        await eventually(lambda: worker.snapshot().verdict == "healthy", "a healthy worker")
        monkeypatch.setattr(MissedEvents, "event_received", count_and_hear)
        await insert(database, 1)
        await eventually(lambda: rung, "the first ring")
        await eventually(lambda: all_sent(database), "a worker that has nothing to do")
        rung.clear()
        monkeypatch.setattr(CommandGateway, "claim", slow_claim)
        await insert(database, 1)
        await eventually(lambda: claims, "a claim that is under way")
        await database.all(TRANSACTIONS)
        await eventually(lambda: len(rung) == 1000, "a ring for each transaction", deadline=60)
        await database.all("delete from public.device_commands")
        may_claim.set()
        # Else that claim could find the next command too.
        await eventually(lambda: len(answered) == 2, "one more claim")
        await insert(database, 1)
        await eventually(lambda: all_sent(database), "the next command")
        assert len(claims) == 3


async def all_sent(database: Rows) -> bool:
    found = await database.all("select status from public.device_commands")
    return {row["status"] for row in found} == {"sent"}
