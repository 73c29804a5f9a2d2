"""What members of two companies hear of the devices' tables, and what they must not hear."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from realtime import AsyncRealtimeClient
from realtime.types import RealtimePostgresChangesListenEvent as Listen
from supabase import acreate_client

from mqtt_service.devstack.postgres import EmbeddedPostgres
from tests.integration.devstack.realtime.harness import (
    DEVICE_A,
    DEVICE_B,
    Stack,
    listen_confirmed,
    running_stack,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPERATOR_A = "a0000000-0000-4000-8000-0000000000e2"
OPERATOR_B = "b0000000-0000-4000-8000-0000000000e2"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, server_of_stacks: type[EmbeddedPostgres]
) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("realtime"), server_of_stacks) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def operators(stack: Stack) -> AsyncIterator[tuple[AsyncRealtimeClient, AsyncRealtimeClient]]:
    """The clients of company A's and company B's operators."""
    clients = []
    for user in (OPERATOR_A, OPERATOR_B):
        client = (await acreate_client(stack.url, stack.keys.anon_key)).realtime
        await client.set_auth(stack.user(user))
        clients.append(client)
    yield clients[0], clients[1]
    for client in clients:
        await client.close()


async def queue_reboot(stack: Stack, device_id: str) -> str:
    cursor = await stack.database.execute(
        "insert into public.device_commands (device_id, command_type, command_payload)"
        " values (%s, 'reboot', %s) returning command_id::text",
        (device_id, json.dumps({"reboot": True})),
    )
    row = await cursor.fetchone()
    assert row is not None
    return str(row[0])


async def test_operators_hear_of_their_own_companys_commands_alone(
    stack: Stack, operators: tuple[AsyncRealtimeClient, AsyncRealtimeClient]
) -> None:
    hers = await listen_confirmed(operators[0], "device_commands", event=Listen.Insert)
    his = await listen_confirmed(operators[1], "device_commands", event=Listen.Insert)
    in_a, in_b = await queue_reboot(stack, DEVICE_A), await queue_reboot(stack, DEVICE_B)
    heard = (await hers.next_event())["record"]
    assert (heard["command_id"], heard["status"]) == (in_a, "pending")
    assert heard["command_payload"] == {"reboot": True}
    assert (await his.next_event())["record"]["command_id"] == in_b
    assert hers.events.empty()


async def test_a_dashboard_watches_the_status_of_one_command(
    stack: Stack, operators: tuple[AsyncRealtimeClient, AsyncRealtimeClient]
) -> None:
    mine, other = await queue_reboot(stack, DEVICE_A), await queue_reboot(stack, DEVICE_A)
    watched = await listen_confirmed(
        operators[0], "device_commands", event=Listen.Update, filter=f"command_id=eq.{mine}"
    )
    for command, status in ((other, "sent"), (mine, "sent"), (other, "acknowledged"), (mine, "acknowledged")):
        await stack.sql(
            "update public.device_commands set status = %s where command_id = %s", status, command
        )
    heard = [await watched.next_event() for _ in range(2)]
    assert [data["record"]["status"] for data in heard] == ["sent", "acknowledged"]
    assert [data["old_record"] for data in heard] == [{"command_id": mine}] * 2


async def test_members_hear_of_their_own_companys_devices_alone(
    stack: Stack, operators: tuple[AsyncRealtimeClient, AsyncRealtimeClient]
) -> None:
    hers = await listen_confirmed(operators[0], "devices")
    his = await listen_confirmed(operators[1], "devices")
    for device in (DEVICE_A, DEVICE_B):
        await stack.sql(
            "update public.devices set last_seen_at = '2026-03-01 10:00:00+00' where device_id = %s", device
        )
    heard = await hers.next_event()
    assert heard["record"]["last_seen_at"] == "2026-03-01T10:00:00+00:00"
    assert heard["record"]["device_id"] == DEVICE_A
    assert heard["old_record"] == {"device_id": DEVICE_A}
    assert (await his.next_event())["record"]["device_id"] == DEVICE_B
    assert hers.events.empty()
