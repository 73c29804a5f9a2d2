"""What the functions for commands answer, as dataclasses; the real client library, a scripted transport."""

import json
from uuid import UUID

import pytest
import respx

from mqtt_service.adapters.supabase.commands import CommandGateway, RefusedCommand, Settlement
from tests.unit.adapters.supabase.claims import CLAIM, EMPTY, URL

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
    settled = await gateway.settle([Settlement(COMMAND_ID, 2, "sent", no_listener=True, notice="late")])
    assert settled[0].result == "settled"
    assert json.loads(route.calls.last.request.content)["p_results"] == [
        {"command_id": str(COMMAND_ID), "attempt": 2, "outcome": "sent", "error": None, "retry": True,
         "no_listener": True, "notice": "late"}
    ]  # fmt: skip
