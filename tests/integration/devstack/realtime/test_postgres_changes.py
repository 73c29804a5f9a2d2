"""What supabase-py hears from Realtime."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import jwt
import pytest
import pytest_asyncio
from realtime import AsyncRealtimeClient
from realtime.types import RealtimePostgresChangesListenEvent as Listen
from supabase import acreate_client

from mqtt_service.devstack.faults import RealtimeAction, RealtimeFaults
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.devstack.realtime.feed import ChangeFeed
from mqtt_service.devstack.realtime.server import RealtimeServer
from mqtt_service.devstack.realtime.subscriptions import parse_binding
from tests.integration.devstack.realtime.harness import (
    DEADLINE_SECONDS,
    Stack,
    listen,
    listen_confirmed,
    running_stack,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA, BEN = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, server_of_stacks: type[EmbeddedPostgres]
) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("realtime"), server_of_stacks) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def clean_tables(stack: Stack) -> AsyncIterator[None]:
    yield
    stack.faults.clear()
    await stack.sql("delete from public.notes")
    await stack.sql("delete from public.open_notes")


@asynccontextmanager
async def client_of(stack: Stack, key: str, token: str | None = None) -> AsyncIterator[AsyncRealtimeClient]:
    """A supabase-py client's Realtime; `token` is what a signed-in user's session sets."""
    client = await acreate_client(stack.url, key)
    if token is not None:
        await client.realtime.set_auth(token)
    try:
        yield client.realtime
    finally:
        await client.realtime.close()


@pytest_asyncio.fixture(loop_scope="module")
async def worker(stack: Stack) -> AsyncIterator[AsyncRealtimeClient]:
    async with client_of(stack, stack.keys.service_role_key) as client:
        yield client


async def test_an_insert_is_told_with_its_values_as_json(stack: Stack, worker: AsyncRealtimeClient) -> None:
    notes = await listen_confirmed(worker, "notes")
    await stack.sql(
        "insert into public.notes values (1, 'a', 's', 3, 4.25, true, '{x,\"y z\",null}',"
        " '{\"k\": [1, null]}', %s, '2026-02-28 12:00:00.5+01', '2026-02-28 12:00:00')",
        ADA,
    )
    data = await notes.next_event()
    assert (data["schema"], data["table"], data["type"]) == ("public", "notes", "INSERT")
    assert data["errors"] is None
    assert data["record"] == {
        "id": 1,
        "body": "a",
        "secret": "s",
        "counter": 3,
        "price": 4.25,
        "done": True,
        "tags": ["x", "y z", None],
        "doc": {"k": [1, None]},
        "owner": ADA,
        "at": "2026-02-28T11:00:00.5+00:00",
        "local": "2026-02-28T12:00:00",
    }
    assert data["columns"][0] == {"name": "id", "type": "int4"}
    assert "old_record" not in data


async def test_an_update_on_a_table_with_row_security_carries_only_the_old_key(
    stack: Stack, worker: AsyncRealtimeClient
) -> None:
    await stack.sql("insert into public.notes (id, body) values (1, 'a'), (2, 'a')")
    await stack.sql("alter table public.notes replica identity full")
    notes = await listen_confirmed(worker, "notes", event=Listen.Update)
    await stack.sql("update public.notes set body = 'b' where id = 1")
    await stack.sql("alter table public.notes replica identity default")
    await stack.sql("update public.notes set body = 'c' where id = 2")
    for id_, body in ((1, "b"), (2, "c")):
        data = await notes.next_event()
        assert (data["record"]["body"], data["old_record"]) == (body, {"id": id_})


async def test_a_table_without_row_security_shows_the_old_row_if_its_identity_is_full(
    stack: Stack, worker: AsyncRealtimeClient
) -> None:
    await stack.sql("insert into public.open_notes values (1, 'a')")
    async with client_of(stack, stack.keys.anon_key) as anybody:
        notes = await listen_confirmed(anybody, "open_notes")
        await stack.sql("update public.open_notes set body = 'b'")
        assert (await notes.next_event())["old_record"] == {"id": 1, "body": "a"}
        await stack.sql("delete from public.open_notes")
        data = await notes.next_event()
        assert (data["type"], data["old_record"]) == ("DELETE", {"id": 1, "body": "b"})
        assert "record" not in data


async def test_a_filter_lets_through_what_fits_and_nothing_else(
    stack: Stack, worker: AsyncRealtimeClient
) -> None:
    few = await listen_confirmed(worker, "notes", filter="counter=gte.2,body=in.(a,b)")
    for id_, counter, body in ((1, 1, "a"), (2, 2, "z"), (3, 3, "b")):
        await stack.sql(
            "insert into public.notes (id, counter, body) values (%s, %s, %s)", id_, counter, body
        )
    assert (await few.next_event())["record"]["id"] == 3
    assert few.events.empty()


async def test_a_user_sees_only_rows_the_policies_show_and_columns_that_are_granted(stack: Stack) -> None:
    async with (
        client_of(stack, stack.keys.anon_key, stack.user(ADA)) as ada,
        client_of(stack, stack.keys.anon_key, stack.user(BEN)) as ben,
    ):
        hers, his = await listen_confirmed(ada, "notes"), await listen_confirmed(ben, "notes")
        await stack.sql("insert into public.notes (id, owner, secret) values (1, %s, 'x')", ADA)
        await stack.sql("insert into public.notes (id, owner, secret) values (2, %s, 'x')", BEN)
        seen = await hers.next_event()
        assert seen["record"]["id"] == 1
        assert "secret" not in seen["record"]
        assert "secret" not in {column["name"] for column in seen["columns"]}
        assert (await his.next_event())["record"]["id"] == 2
        assert hers.events.empty()


async def test_a_delete_is_told_to_everybody_but_shows_only_the_key(stack: Stack) -> None:
    await stack.sql("insert into public.notes (id, owner, body) values (1, %s, 'x')", ADA)
    async with client_of(stack, stack.keys.anon_key, stack.user(BEN)) as ben:
        his = await listen_confirmed(ben, "notes")
        await stack.sql("delete from public.notes")
        assert (await his.next_event())["old_record"] == {"id": 1}


async def test_a_role_without_any_grant_is_told_that_it_is_unauthorized(stack: Stack) -> None:
    async with client_of(stack, stack.keys.anon_key) as anybody:
        notes = await listen_confirmed(anybody, "notes")
        await stack.sql("insert into public.notes (id, body) values (1, 'x')")
        data = await notes.next_event()
        assert (data["errors"], data["record"]) == (["Error 401: Unauthorized"], {})


async def test_selected_columns_come_with_the_key(stack: Stack, worker: AsyncRealtimeClient) -> None:
    notes = await listen_confirmed(worker, "notes", select=["body"])
    await stack.sql("insert into public.notes (id, body, counter) values (1, 'x', 5)")
    assert (await notes.next_event())["record"] == {"id": 1, "body": "x"}


async def test_a_table_outside_the_publication_is_silent_until_it_is_added(
    stack: Stack, worker: AsyncRealtimeClient
) -> None:
    notes = await listen(worker, "unpublished")
    assert await notes.next_state() == "SUBSCRIBED"
    assert "Please check Realtime is enabled" in await notes.next_state()
    await stack.sql("insert into public.unpublished values (1, 'a')")
    await stack.sql("alter publication supabase_realtime add table public.unpublished")
    again = await listen_confirmed(worker, "unpublished", event=Listen.Insert)
    await stack.sql("insert into public.unpublished values (2, 'b')")
    assert (await again.next_event())["record"] == {"id": 2, "body": "b"}
    assert notes.events.empty()


@pytest.mark.parametrize(
    ("filter_", "reason"),
    [
        ("nothing=eq.1", "invalid column for filter nothing"),
        ("counter=eq.many", "invalid input syntax for type int4"),
        ("counter=about.3", "Error parsing `filter` params"),
    ],
)
async def test_a_filter_that_cannot_work_is_refused(
    stack: Stack, worker: AsyncRealtimeClient, filter_: str, reason: str
) -> None:
    notes = await listen(worker, "notes", filter=filter_)
    assert await notes.next_state() == "SUBSCRIBED"
    assert reason in await notes.next_state()


async def test_a_new_token_decides_what_is_heard_from_then_on(stack: Stack) -> None:
    async with client_of(stack, stack.keys.anon_key, stack.user(ADA)) as client:
        notes = await listen_confirmed(client, "notes")
        await client.set_auth(stack.user(BEN))
        assert await notes.next_note() == "Subscribed to PostgreSQL"
        await stack.sql("insert into public.notes (id, owner) values (1, %s), (2, %s)", ADA, BEN)
        assert (await notes.next_event())["record"]["id"] == 2
        assert notes.events.empty()


async def test_a_token_that_expires_ends_the_channel_with_the_reason(stack: Stack) -> None:
    token = stack.keys.user_token(ADA, "ada@example.test", seconds=2)
    async with client_of(stack, stack.keys.anon_key, token) as client:
        notes = await listen_confirmed(client, "notes")
        assert "Token has expired" in await notes.next_state()
        assert await notes.next_state() == "CLOSED"


async def test_a_join_with_an_expired_token_is_refused(stack: Stack) -> None:
    token = stack.keys.user_token(ADA, "ada@example.test", seconds=-60)
    async with client_of(stack, stack.keys.anon_key, token) as client:
        notes = await listen(client, "notes")
        assert "InvalidJWTToken: Token has expired 60 seconds ago" in await notes.next_state()


async def test_an_opaque_secret_key_hears_what_the_service_role_hears(stack: Stack) -> None:
    async with client_of(stack, stack.keys.secret_key) as client:
        notes = await listen_confirmed(client, "notes")
        await stack.sql("insert into public.notes (id, owner) values (1, %s)", ADA)
        assert (await notes.next_event())["record"]["id"] == 1


async def test_dropped_events_are_lost_and_doubled_ones_come_twice(
    stack: Stack, worker: AsyncRealtimeClient
) -> None:
    notes = await listen_confirmed(worker, "open_notes")
    stack.faults.realtime = RealtimeFaults(drop=True)
    await stack.sql("insert into public.open_notes values (1, 'lost')")
    await listen_confirmed(worker, "notes")  # whoever is confirmed, is so after the slot was read
    stack.faults.realtime = RealtimeFaults(duplicate=True)
    await stack.sql("insert into public.open_notes values (2, 'doubled')")
    await stack.sql("insert into public.open_notes values (3, 'doubled')")
    heard = [(await notes.next_event())["record"]["id"] for _ in range(4)]
    assert heard == [2, 2, 3, 3]


async def test_delayed_events_come_later_and_in_order(stack: Stack, worker: AsyncRealtimeClient) -> None:
    notes = await listen_confirmed(worker, "open_notes")
    stack.faults.realtime = RealtimeFaults(delay_seconds=0.5)
    began = time.monotonic()
    await stack.sql("insert into public.open_notes values (1, 'a'), (2, 'b')")
    heard = [(await notes.next_event())["record"]["id"] for _ in range(2)]
    assert heard == [1, 2]
    assert time.monotonic() - began >= 0.5


# The client reads deprecated attributes when it logs why a connection was lost.
@pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated:DeprecationWarning")
@pytest.mark.parametrize("action", ["close_clean", "close_abrupt"])
async def test_after_its_socket_was_closed_a_client_joins_again_and_hears_on(
    stack: Stack, worker: AsyncRealtimeClient, action: RealtimeAction
) -> None:
    notes = await listen_confirmed(worker, "open_notes")
    stack.faults.act(action)
    assert (await notes.next_state()).startswith("CHANNEL_ERROR")
    await notes.confirmed()
    await stack.sql("insert into public.open_notes values (1, 'a')")
    assert (await notes.next_event())["record"]["id"] == 1


async def test_a_channel_that_the_server_closes_stays_closed(
    stack: Stack, worker: AsyncRealtimeClient
) -> None:
    notes = await listen_confirmed(worker, "open_notes")
    stack.faults.act("phx_close")
    assert await notes.next_state() == "CLOSED"


async def test_a_restart_of_postgres_interrupts_and_the_channel_is_confirmed_again(
    stack: Stack, worker: AsyncRealtimeClient, caplog: pytest.LogCaptureFixture
) -> None:
    notes = await listen_confirmed(worker, "open_notes")
    await stack.restart_postgres()
    assert await notes.next_note() == "Subscribed to PostgreSQL"
    await stack.sql("insert into public.open_notes values (1, 'a')")
    assert (await notes.next_event())["record"]["id"] == 1
    assert "Realtime lost the database" in caplog.text


class Stumbling:
    """A subscriber that breaks its promise not to raise, once."""

    claims: ClassVar[dict[str, str]] = {"role": "service_role"}
    bindings = (parse_binding({"schema": "public", "table": "open_notes"}),)

    def __init__(self) -> None:
        self.confirmations = 0
        self.heard: list[int] = []

    def confirm(self) -> None:
        self.confirmations += 1

    def refuse(self, reason: str) -> None:
        raise AssertionError(reason)

    def deliver(self, ids: list[int], data: Mapping[str, Any]) -> None:
        self.heard.append(data["record"]["id"])
        if self.heard == [1]:
            raise LookupError("stumbled over a row")


async def test_a_feed_that_fails_says_so_and_starts_afresh(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    feed, subscriber = ChangeFeed(stack.postgres.url), Stumbling()
    feed.subscribe(subscriber)
    reading = asyncio.create_task(feed.run())
    await until(lambda: subscriber.confirmations == 1)
    await stack.sql("insert into public.open_notes values (1, 'a')")
    await until(lambda: subscriber.confirmations == 2)
    await stack.sql("insert into public.open_notes values (2, 'b')")
    await until(lambda: subscriber.heard == [1, 2])
    assert "stumbled over a row" in caplog.text
    reading.cancel()


async def test_a_role_that_does_not_exist_is_refused(stack: Stack) -> None:
    token = jwt.encode({"role": "nobody", "exp": time.time() + 60}, stack.keys.secret)
    async with client_of(stack, stack.keys.anon_key, token) as client:
        notes = await listen(client, "notes")
        assert await notes.next_state() == "SUBSCRIBED"
        assert 'role \\"nobody\\" does not exist' in await notes.next_state()


async def test_a_slot_is_left_behind_by_nobody(stack: Stack) -> None:
    async with RealtimeServer(stack.postgres.url, stack.keys, stack.faults):
        await until_slots(stack, 4)  # one for changes and one for messages, of each server
    await until_slots(stack, 2)


async def until_slots(stack: Stack, count: int) -> None:
    """Wait until so many replication slots exist."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            cursor = await stack.database.execute("select count(*) from pg_replication_slots")
            if await cursor.fetchone() == (count,):
                return
            await asyncio.sleep(0.02)
