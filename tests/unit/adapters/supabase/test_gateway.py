"""The gateway against HTTP's edge cases; the real client library, a scripted transport."""

import json
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
import respx
from supabase import AsyncClient

from mqtt_service.adapters.supabase.commands import CommandGateway, RefusedCommand, RetryPolicy, Settlement
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.errors import (
    MigrationMissingError,
    PermanentError,
    ProjectMisconfiguredError,
    SupabaseUnavailableError,
)

URL = "http://supabase.test"
CLAIM = f"{URL}/rest/v1/rpc/fn_claim_commands"
COMMAND_ID = UUID("00000000-0000-4000-8000-000000000001")
ROW: dict[str, object] = {
    "command_id": str(COMMAND_ID),
    "device_id": "00000000-0000-4000-8000-0000000000d1",
    "device_code": "DEVICE-1",
    "device_name": None,
    "device_mac": "AA:BB:CC:DD:EE:FF",
    "topic_root": "device",
    "topic_id": "AA:BB:CC:DD:EE:FF",
    "command_type": "reboot",
    "command_payload": {},
    "attempt": 1,
    "retry_count": 0,
    "issued_at": "2026-01-02T03:04:05+00:00",
    "seconds_to_expiry": 86400,
    "next_wake_at": None,
}
EMPTY: dict[str, object] = {
    "now": "2026-01-02T03:04:05+00:00",
    "commands": [],
    "failed": [],
    "expired": [],
    "welcome_due": False,
    "more": False,
    "seconds_to_next_due": None,
}


def gateway_of(client: AsyncClient) -> CommandGateway:
    policy = RetryPolicy(max_retries=3, retry_delay=30, command_ttl=86400)
    return CommandGateway(DatabaseFunctions(client), "w1", policy)


@pytest.fixture
async def gateway() -> AsyncIterator[CommandGateway]:
    client = await connect(URL, "sb_secret_test")
    yield gateway_of(client)
    await client.postgrest.aclose()


async def claim(gateway: CommandGateway) -> object:
    return await gateway.claim(limit=10, lease=30, held=[])


@respx.mock
async def test_a_claim_becomes_dataclasses(gateway: CommandGateway) -> None:
    route = respx.post(CLAIM).respond(json={**EMPTY, "commands": [ROW], "welcome_due": True})
    claimed = await gateway.claim(limit=10, lease=30, held=[COMMAND_ID])
    assert [command.command_type for command in claimed.commands] == ["reboot"]
    assert claimed.welcome_due
    sent = json.loads(route.calls.last.request.content)
    assert (sent["p_worker"], sent["p_held"], sent["p_max_retries"]) == ("w1", [str(COMMAND_ID)], 3)


@respx.mock
async def test_a_claim_tells_how_old_the_newest_command_is_that_nobody_had_before(
    gateway: CommandGateway,
) -> None:
    issued = ["2026-01-02T03:04:01+00:00", "2026-01-02T03:04:02.5+00:00"]
    rows = [{**ROW, "issued_at": moment} for moment in issued]
    respx.post(CLAIM).respond(json={**EMPTY, "commands": [*rows, {**ROW, "attempt": 2}]})
    claimed = await gateway.claim(limit=10, lease=30, held=[])
    assert claimed.newest_age == 2.5


@respx.mock
@pytest.mark.parametrize("issued", ["yesterday", None, "2026-01-02T03:04:05"])
async def test_a_claim_without_readable_times_tells_no_age(gateway: CommandGateway, issued: object) -> None:
    respx.post(CLAIM).respond(json={**EMPTY, "commands": [{**ROW, "issued_at": issued}]})
    claimed = await gateway.claim(limit=10, lease=30, held=[])
    assert (len(claimed.commands), claimed.newest_age) == (1, None)


@respx.mock
async def test_a_row_of_the_wrong_shape_is_set_apart_from_the_rest(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(json={**EMPTY, "commands": [{**ROW, "command_payload": "text"}, ROW]})
    claimed = await gateway.claim(limit=10, lease=30, held=[])
    assert len(claimed.commands) == 1
    assert [(row.command_id, row.attempt) for row in claimed.unreadable] == [(COMMAND_ID, 1)]
    assert "payload" in claimed.unreadable[0].reason


@respx.mock
async def test_what_the_database_refuses_to_change_is_named(gateway: CommandGateway) -> None:
    row = {"command_id": str(COMMAND_ID), "device_code": None, "error": "not this one"}
    respx.post(CLAIM).respond(json={**EMPTY, "refused": [row]})
    claimed = await gateway.claim(limit=10, lease=30, held=[])
    assert claimed.refused == [RefusedCommand(COMMAND_ID, None, "not this one")]


@respx.mock
async def test_a_claim_of_older_migrations_names_nothing_refused(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(json=EMPTY)
    claimed = await gateway.claim(limit=10, lease=30, held=[])
    assert claimed.refused == []


@respx.mock
@pytest.mark.parametrize("body", ['{"n": %s}' % ("7" * 5000), "[" * 100_000 + "]" * 100_000])
async def test_an_answer_that_cannot_be_read_is_no_answer(gateway: CommandGateway, body: str) -> None:
    respx.post(CLAIM).respond(text=body)
    with pytest.raises(SupabaseUnavailableError, match="cannot be read"):
        await claim(gateway)


async def test_a_question_that_cannot_be_asked_is_refused_for_good(gateway: CommandGateway) -> None:
    with pytest.raises(PermanentError, match="cannot be asked"):
        await gateway.claim(limit=10, lease=float("nan"), held=[])


@respx.mock
async def test_503_carries_the_wish_of_the_server_to_wait(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(503, headers={"Retry-After": "7"}, json={"message": "busy"})
    with pytest.raises(SupabaseUnavailableError) as caught:
        await claim(gateway)
    assert caught.value.retry_after == 7


@respx.mock
@pytest.mark.parametrize(
    "fault",
    [
        httpx.ReadTimeout("no answer"),
        httpx.RemoteProtocolError("Server disconnected"),
        httpx.ConnectError("refused"),
    ],
)
async def test_a_lost_response_is_an_unknown_outcome_that_waiting_can_mend(
    gateway: CommandGateway, fault: httpx.HTTPError
) -> None:
    respx.post(CLAIM).mock(side_effect=fault)
    with pytest.raises(SupabaseUnavailableError, match="fn_claim_commands"):
        await claim(gateway)


async def test_a_header_that_cannot_be_sent_does_not_show_the_key() -> None:
    client = await connect(URL, "se\ncret")
    gateway = gateway_of(client)
    with pytest.raises(SupabaseUnavailableError) as caught:
        await claim(gateway)
    assert "cret" not in str(caught.value)
    await client.postgrest.aclose()


@respx.mock
@pytest.mark.parametrize("body", ["<html>gateway</html>", '{"commands": [', "[]", "null", '{"commands": 5}'])
async def test_an_answer_that_is_not_the_agreed_one_counts_as_lost(
    gateway: CommandGateway, body: str
) -> None:
    respx.post(CLAIM).respond(200, text=body)
    with pytest.raises(SupabaseUnavailableError, match="not what it should be"):
        await claim(gateway)


@respx.mock
@pytest.mark.parametrize(
    ("status", "code", "expected", "says"),
    [
        (404, "PGRST202", MigrationMissingError, "supabase/migrations"),
        (403, "42501", ProjectMisconfiguredError, "SUPABASE_SECRET_KEY"),
        (400, "22P02", PermanentError, "22P02"),
        (400, "P0001", PermanentError, "P0001"),
        (400, "AB123", PermanentError, "AB123"),
        (400, "54000", PermanentError, "54000"),
        (500, "XX000", ProjectMisconfiguredError, "XX000"),
        (400, "3F000", ProjectMisconfiguredError, "3F000"),
        (500, "57014", SupabaseUnavailableError, "57014"),
        (409, "40001", SupabaseUnavailableError, "40001"),
    ],
)
async def test_an_api_error_says_whether_waiting_helps_and_what_to_do(
    gateway: CommandGateway, status: int, code: str, expected: type[Exception], says: str
) -> None:
    respx.post(CLAIM).respond(status, json={"code": code, "message": "m", "details": None, "hint": None})
    with pytest.raises(expected, match=says):
        await claim(gateway)


@respx.mock
async def test_a_wrong_key_is_permanent_and_names_the_setting(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(401, json={"message": "Invalid API key"})
    with pytest.raises(ProjectMisconfiguredError, match="SUPABASE_SECRET_KEY"):
        await claim(gateway)


@respx.mock
async def test_settlements_are_sent_as_the_function_takes_them(gateway: CommandGateway) -> None:
    route = respx.post(f"{URL}/rest/v1/rpc/fn_settle_commands").respond(
        json=[
            {
                "command_id": str(COMMAND_ID),
                "result": "settled",
                "status": "sent",
                "retry_count": 0,
                "final": False,
            }
        ]
    )
    settled = await gateway.settle([Settlement(COMMAND_ID, 2, "sent", no_listener=True)])
    assert settled[0].result == "settled"
    assert json.loads(route.calls.last.request.content)["p_results"] == [
        {"command_id": str(COMMAND_ID), "attempt": 2, "outcome": "sent", "error": None, "retry": True,
         "no_listener": True}
    ]  # fmt: skip
