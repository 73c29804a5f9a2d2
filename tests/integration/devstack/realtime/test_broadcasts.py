"""Broadcasts from the database: who hears what `realtime.send` sends, and who may join a private channel."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from supabase import acreate_client
from websockets.asyncio.client import connect

from mqtt_service.adapters.supabase.realtime import Doorbell
from mqtt_service.adapters.supabase.realtime_session import Listeners
from mqtt_service.devstack.faults import RealtimeFaults
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.devstack.realtime.messages_table import keep_partitions
from mqtt_service.devstack.realtime.server import PATH, RealtimeServer
from tests.integration.devstack.realtime.harness import (
    DEADLINE_SECONDS,
    DEVICE_A,
    Stack,
    running_stack,
    serving,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = "00000000-0000-4000-8000-00000000000a"
READ_OWN_ROOM = """
create policy own_room on realtime.messages for select to authenticated using (
  realtime.topic() = 'room:' || auth.uid() and extension in ('broadcast', 'presence'))
"""
READ_PRESENCE = """
create policy presence on realtime.messages for select to authenticated using (extension = 'presence')
"""
REFUSED = "Unauthorized: You do not have permissions to read from this Channel topic: "


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, server_of_stacks: type[EmbeddedPostgres]
) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("realtime"), server_of_stacks) as running:
        await messages_flow(running)
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def clean(stack: Stack) -> AsyncIterator[None]:
    yield
    stack.faults.clear()
    for policy in ("own_room", "presence"):
        await stack.sql(f"drop policy if exists {policy} on realtime.messages")
    await keep_partitions(stack.database)


async def messages_flow(stack: Stack) -> None:
    """Wait for the two slots."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await one(stack, "select count(*) from pg_replication_slots") != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def one(stack: Stack, query: str) -> Any:
    row = await (await stack.database.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


@asynccontextmanager
async def client_of(stack: Stack, key: str, token: str | None = None) -> AsyncIterator[AsyncRealtimeClient]:
    client = (await acreate_client(stack.url, key)).realtime
    if token is not None:
        await client.set_auth(token)
    try:
        yield client
    finally:
        await client.close()


@dataclass
class Heard:
    """A channel and what came on it."""

    channel: AsyncRealtimeChannel
    messages: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    states: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def next(self) -> Any:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.messages.get()

    async def next_state(self) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.states.get()


async def join(client: AsyncRealtimeClient, topic: str, *, private: bool, presence: bool = False) -> Heard:
    """Join, and wait for the answer."""
    heard = Heard(
        client.channel(
            topic,
            {
                "config": {
                    "broadcast": {"ack": False, "self": False},
                    "presence": {"key": "", "enabled": presence},
                    "private": private,
                }
            },
        )
    )
    heard.channel.on_broadcast("*", heard.messages.put_nowait)
    await heard.channel.subscribe(
        lambda state, error: heard.states.put_nowait(f"{state.value}: {error}" if error else state.value)
    )
    return heard


async def send(stack: Stack, topic: str, event: str = "note", *, private: bool = True) -> None:
    await stack.sql("select realtime.send(%s::jsonb, %s, %s, %s)", '{"a": 1}', event, topic, private)


async def test_service_role_hears_a_private_topic_with_the_payload_and_the_id(stack: Stack) -> None:
    async with client_of(stack, stack.keys.service_role_key) as client:
        heard = await join(client, "room:1", private=True)
        assert await heard.next_state() == "SUBSCRIBED"
        await send(stack, "room:2")
        await send(stack, "room:1", "first")
        await send(stack, "room:1", "second")
        messages = [await heard.next() for _ in range(2)]
    assert [message["event"] for message in messages] == ["first", "second"]
    key = str(await one(stack, "select id from realtime.messages where event = 'first'"))
    assert messages[0]["payload"] == {"a": 1, "id": key}
    assert messages[0]["meta"] == {"id": key}


async def test_a_payload_keeps_its_own_id(stack: Stack) -> None:
    async with client_of(stack, stack.keys.service_role_key) as client:
        heard = await join(client, "room:1", private=True)
        await stack.sql("""select realtime.send('{"id": 7}', 'note', 'room:1')""")
        assert (await heard.next())["payload"] == {"id": 7}


async def test_private_and_public_channels_of_one_name_hear_their_own_alone(stack: Stack) -> None:
    async with (
        client_of(stack, stack.keys.anon_key) as anybody,
        client_of(stack, stack.keys.service_role_key) as worker,
    ):
        public = await join(anybody, "room:1", private=False)
        private = await join(worker, "room:1", private=True)
        for event, is_private in (("secret", True), ("open", False), ("last secret", True)):
            await send(stack, "room:1", event, private=is_private)
        assert [(await private.next())["event"] for _ in range(2)] == ["secret", "last secret"]
        assert (await public.next())["event"] == "open"
        assert public.messages.empty()


async def test_what_is_rolled_back_is_not_heard(stack: Stack) -> None:
    async with client_of(stack, stack.keys.service_role_key) as client:
        heard = await join(client, "room:1", private=True)
        async with stack.database.transaction(force_rollback=True):
            await send(stack, "room:1", "never")
        await send(stack, "room:1", "committed")
        assert (await heard.next())["event"] == "committed"


async def test_without_a_policy_a_signed_in_user_is_refused(stack: Stack) -> None:
    async with client_of(stack, stack.keys.anon_key, stack.user(ADA)) as client:
        heard = await join(client, "mqtt-service:commands", private=True)
        assert REFUSED + "mqtt-service:commands" in await heard.next_state()


async def test_a_policy_on_the_topic_lets_in_to_that_topic_alone(stack: Stack) -> None:
    await stack.sql(READ_OWN_ROOM)
    async with client_of(stack, stack.keys.anon_key, stack.user(ADA)) as client:
        mine = await join(client, f"room:{ADA}", private=True)
        theirs = await join(client, "room:other", private=True)
        assert await mine.next_state() == "SUBSCRIBED"
        assert REFUSED + "room:other" in await theirs.next_state()
        await send(stack, f"room:{ADA}", "for Ada")
        assert (await mine.next())["event"] == "for Ada"


async def test_who_may_read_presence_alone_joins_and_hears_no_message(stack: Stack) -> None:
    await stack.sql(READ_PRESENCE)
    async with (
        client_of(stack, stack.keys.anon_key, stack.user(ADA)) as client,
        client_of(stack, stack.keys.service_role_key) as worker,
    ):
        deaf = await join(client, "room:1", private=True, presence=True)
        hearing = await join(worker, "room:1", private=True)
        assert await deaf.next_state() == "SUBSCRIBED"
        await send(stack, "room:1")
        await hearing.next()
        assert deaf.messages.empty()
        without_presence = await join(client, "room:2", private=True)
        assert REFUSED + "room:2" in await without_presence.next_state()


async def test_a_new_token_that_may_not_read_ends_the_channel(stack: Stack) -> None:
    await stack.sql(READ_OWN_ROOM)
    async with client_of(stack, stack.keys.anon_key, stack.user(ADA)) as client:
        mine = await join(client, f"room:{ADA}", private=True)
        assert await mine.next_state() == "SUBSCRIBED"
        await client.set_auth(stack.user("00000000-0000-4000-8000-00000000000b"))
        assert f"You do not have permissions to read from this Channel topic: room:{ADA}" in (
            await mine.next_state()
        )


async def test_a_policy_that_raises_refuses(stack: Stack) -> None:
    await stack.sql(
        "create policy own_room on realtime.messages for select to authenticated"
        " using ((1 / (length(topic) - length(topic))) = 1)"
    )
    async with client_of(stack, stack.keys.anon_key, stack.user(ADA)) as client:
        assert REFUSED in await (await join(client, "room:1", private=True)).next_state()


async def test_without_the_partition_of_the_day_nothing_is_sent_and_nobody_joins(stack: Stack) -> None:
    for name in await partitions(stack):
        await stack.sql(f"drop table realtime.{name}")
    warnings: list[str] = []
    stack.database.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    await send(stack, "room:1")
    assert 'WarnSendingBroadcastMessage: no partition of relation "messages" found for row' in warnings
    async with client_of(stack, stack.keys.service_role_key) as client:
        refused = await join(client, "room:1", private=True)
        assert "MissingPartition" in await refused.next_state()


async def test_partitions_reach_three_days_ahead_and_old_ones_go_with_their_messages(stack: Stack) -> None:
    today = datetime.now(UTC)
    await keep_partitions(stack.database, today + timedelta(days=10))
    days = [today.date() + timedelta(days=days) for days in range(9, 14)]
    assert await partitions(stack) == [f"messages_{day:%Y_%m_%d}" for day in days]
    assert await one(stack, "select count(*) from realtime.messages") == 0


async def partitions(stack: Stack) -> list[str]:
    cursor = await stack.database.execute(
        "select inhrelid::regclass::text from pg_inherits"
        " where inhparent = 'realtime.messages'::regclass order by 1"
    )
    return [str(row[0]).removeprefix("realtime.") for row in await cursor.fetchall()]


async def test_messages_are_lost_and_doubled_on_demand(stack: Stack) -> None:
    async with client_of(stack, stack.keys.service_role_key) as client:
        heard = await join(client, "room:1", private=True)
        stack.faults.realtime = RealtimeFaults(drop=True)
        await send(stack, "room:1", "lost")
        await read_to_the_end(stack)
        stack.faults.realtime = RealtimeFaults(duplicate=True)
        await send(stack, "room:1", "doubled")
        assert [(await heard.next())["event"] for _ in range(2)] == ["doubled", "doubled"]


async def read_to_the_end(stack: Stack) -> None:
    """Wait until every slot has been read up to now."""
    behind = "select count(*) from pg_replication_slots where confirmed_flush_lsn < %s::pg_lsn"
    end = await one(stack, "select pg_current_wal_insert_lsn()")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            row = await (await stack.database.execute(behind, (end,))).fetchone()
            if row == (0,):
                return
            await stack.sql(
                "select pg_logical_emit_message(true, 'test', '')"
            )  # so that there is more to read
            await asyncio.sleep(0.02)


async def test_version_2_sends_a_message_as_a_binary_frame(stack: Stack) -> None:
    address = f"{stack.url.replace('http', 'ws')}{PATH}?apikey={stack.keys.service_role_key}&vsn=2.0.0"
    join_frame = ["1", "1", "realtime:room:1", "phx_join", {"config": {"private": True}}]
    async with connect(address) as socket, asyncio.timeout(DEADLINE_SECONDS):
        await socket.send(json.dumps(join_frame))
        assert json.loads(await socket.recv())[4]["status"] == "ok"
        await send(stack, "room:1", "note")
        frame = await socket.recv()
    assert isinstance(frame, bytes)
    assert frame[:5] == bytes([4, len("realtime:room:1"), len("note"), len(f'{{"id":"{ADA}"}}'), 1])
    assert frame[5:24] == b"realtime:room:1note"
    assert json.loads(frame[24 + frame[3] :])["a"] == 1


async def test_a_message_that_another_role_may_not_write_is_a_warning(stack: Stack) -> None:
    """`realtime.send` has the rights of whoever calls it, and the table has row-level security."""
    async with await psycopg.AsyncConnection.connect(stack.postgres.url, autocommit=True) as person:
        warnings: list[str] = []
        person.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        await person.execute("set role authenticated")
        await person.execute("select realtime.send('{}', 'note', 'room:1')")
    assert "row-level security" in warnings[0]


async def test_a_worker_is_let_in_where_public_channels_are_not(stack: Stack) -> None:
    """Fails where `RealtimeSession` joins its channels as public ones."""
    heard = asyncio.Event()
    server = RealtimeServer(stack.postgres.url, stack.keys, stack.faults, private_only=True)

    async def ring() -> bool:
        return bool(await one(stack, "select fn_ring_workers()"))

    async with server, serving(server.routes()) as url:
        async with client_of(stack, stack.keys.anon_key) as client:
            client.url = client.url.replace(stack.url.removeprefix("http"), url.removeprefix("http"))
            public = await join(client, "room:1", private=False)
            assert "PrivateOnly: This project only allows private channels" in await public.next_state()
        listeners = Listeners(heard.set, lambda _: None, lambda: None)
        doorbell = Doorbell(url, stack.keys.service_role_key, listeners, ring)
        task = asyncio.create_task(doorbell.run())
        try:
            await until(lambda: doorbell.status.connected)
            await stack.sql(
                "insert into device_commands (device_id, command_type) values (%s, 'ping')", DEVICE_A
            )
            async with asyncio.timeout(DEADLINE_SECONDS):
                await heard.wait()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
