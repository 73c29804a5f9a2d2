"""Realtime's protocol frame by frame, where the official clients hide it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mqtt_service.devstack.faults import RealtimeFaults
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.devstack.realtime.server import PATH, RealtimeServer
from tests.integration.devstack.realtime.harness import DEADLINE_SECONDS, Stack, running_stack, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTES = {"event": "INSERT", "schema": "public", "table": "open_notes"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, server_of_stacks: type[EmbeddedPostgres]
) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("realtime"), server_of_stacks) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def no_faults(stack: Stack) -> AsyncIterator[None]:
    yield
    stack.faults.clear()


@asynccontextmanager
async def opened(url: str, **params: str) -> AsyncIterator[ClientConnection]:
    async with connect(f"{url.replace('http', 'ws')}{PATH}?{urlencode(params)}") as socket:
        yield socket


async def receive(socket: ClientConnection) -> Any:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return json.loads(await socket.recv())


async def test_a_join_in_version_2_is_answered_then_confirmed_then_synced(stack: Stack) -> None:
    config = {"postgres_changes": [NOTES], "presence": {"enabled": True}}
    async with opened(stack.url, apikey=stack.keys.anon_key, vsn="2.0.0") as socket:
        await socket.send(json.dumps(["4", "5", "realtime:room", "phx_join", {"config": config}]))
        answer = await receive(socket)
        binding = answer[4]["response"]["postgres_changes"][0]
        assert answer[:4] == ["4", "5", "realtime:room", "phx_reply"]
        assert binding == {**NOTES, "id": binding["id"]}
        assert await receive(socket) == [
            "4",
            None,
            "realtime:room",
            "system",
            {
                "extension": "postgres_changes",
                "status": "ok",
                "message": "Subscribed to PostgreSQL",
                "channel": "room",
            },
        ]
        assert await receive(socket) == ["4", None, "realtime:room", "presence_state", {}]
        await stack.sql("insert into public.open_notes values (11, 'a')")
        join_ref, ref, topic, event, payload = await receive(socket)
        assert (join_ref, ref, topic, event) == (None, None, "realtime:room", "postgres_changes")
        assert payload["ids"] == [binding["id"]]
        assert sorted(payload["data"]) == [
            "columns", "commit_timestamp", "errors", "record", "schema", "table", "type",
        ]  # fmt: skip


async def test_a_channel_without_changes_gets_no_system_message(stack: Stack) -> None:
    async with opened(stack.url, apikey=stack.keys.anon_key, vsn="2.0.0") as socket:
        await socket.send(json.dumps(["1", "1", "realtime:room", "phx_join", {"config": {}}]))
        assert (await receive(socket))[4]["response"] == {"postgres_changes": []}
        await socket.send(json.dumps([None, "2", "phoenix", "heartbeat", {}]))
        assert (await receive(socket))[2] == "phoenix"


async def test_version_1_is_spoken_unless_another_is_asked_for(stack: Stack) -> None:
    async with opened(stack.url, apikey=stack.keys.anon_key) as socket:
        await socket.send('{"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "7"}')
        assert await receive(socket) == {
            "topic": "phoenix",
            "event": "phx_reply",
            "payload": {"status": "ok", "response": {}},
            "ref": "7",
        }


async def test_leaving_is_answered_and_then_the_channel_is_closed(stack: Stack) -> None:
    async with opened(stack.url, apikey=stack.keys.anon_key, vsn="2.0.0") as socket:
        await socket.send(json.dumps(["1", "1", "realtime:room", "phx_join", {}]))
        await receive(socket)
        await socket.send(json.dumps(["1", "2", "realtime:room", "phx_leave", {}]))
        reply = {"status": "ok", "response": {}}
        assert await receive(socket) == ["1", "2", "realtime:room", "phx_reply", reply]
        assert await receive(socket) == ["1", "1", "realtime:room", "phx_close", {}]
        await socket.send(json.dumps(["1", "3", "realtime:room", "access_token", {"access_token": "x"}]))
        assert (await receive(socket))[4]["response"] == {"reason": "unmatched topic"}


async def test_joining_twice_closes_the_first_channel(stack: Stack) -> None:
    async with opened(stack.url, apikey=stack.keys.anon_key, vsn="2.0.0") as socket:
        for ref in ("1", "2"):
            await socket.send(json.dumps([ref, ref, "realtime:room", "phx_join", {}]))
        answers = [await receive(socket) for _ in range(3)]
        assert [(frame[0], frame[3]) for frame in answers] == [
            ("1", "phx_reply"),
            ("2", "phx_reply"),
            ("1", "phx_close"),
        ]


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, 401),
        ({"apikey": "sb_secret_wrong"}, 401),
        ({"apikey": "a.b.c"}, 401),
        ({"apikey": "the key", "vsn": "3.0.0"}, 403),
    ],
)
async def test_an_upgrade_without_a_good_key_or_version_is_refused(
    stack: Stack, params: dict[str, str], status: int
) -> None:
    given = {**params, "apikey": stack.keys.anon_key} if params.get("apikey") == "the key" else params
    with pytest.raises(InvalidStatus) as refused:
        async with opened(stack.url, **given):
            pass
    assert refused.value.response.status_code == status


async def test_a_users_token_is_no_api_key(stack: Stack) -> None:
    token = stack.user("00000000-0000-4000-8000-00000000000a")
    with pytest.raises(InvalidStatus):
        async with opened(stack.url, apikey=token):
            pass


async def test_a_frame_that_is_no_message_ends_the_connection(stack: Stack) -> None:
    async with opened(stack.url, apikey=stack.keys.anon_key, vsn="2.0.0") as socket:
        await socket.send('{"topic": "phoenix", "event": "heartbeat", "payload": {}}')
        with pytest.raises(ConnectionClosed):
            await receive(socket)


async def test_a_silent_server_keeps_the_connection_and_answers_nothing(stack: Stack) -> None:
    async with opened(stack.url, apikey=stack.keys.anon_key, vsn="2.0.0") as socket:
        stack.faults.realtime = RealtimeFaults(silent=True)
        await socket.send(json.dumps([None, "1", "phoenix", "heartbeat", {}]))
        await (await socket.ping())  # the server has read what came before
        stack.faults.clear()
        await socket.send(json.dumps([None, "2", "phoenix", "heartbeat", {}]))
        assert (await receive(socket))[1] == "2"


async def test_a_client_that_stops_reading_is_cut_off_and_the_others_hear_on(stack: Stack) -> None:
    server = RealtimeServer(stack.postgres.url, stack.keys, stack.faults, queue_length=4)
    join = json.dumps(["1", "1", "realtime:room", "phx_join", {"config": {"postgres_changes": [NOTES]}}])
    async with server, serving(server.routes()) as url:
        address = f"{url.replace('http', 'ws')}{PATH}?apikey={stack.keys.anon_key}&vsn=2.0.0"
        async with (
            connect(address, max_size=None, max_queue=1, compression=None) as slow,
            connect(address, max_size=None, compression=None) as quick,
        ):
            for socket in (slow, quick):
                await socket.send(join)
                assert (await receive(socket))[3] == "phx_reply"
                assert (await receive(socket))[3] == "system"
            for number in range(100, 130):
                await stack.sql("insert into public.open_notes values (%s, repeat('x', 500000))", number)
                assert (await receive(quick))[4]["data"]["record"]["id"] == number
            with pytest.raises(ConnectionClosed):
                await read_to_the_end(slow)


async def read_to_the_end(socket: ClientConnection) -> None:
    while True:
        await receive(socket)
