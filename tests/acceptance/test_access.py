"""Who may do what over the API: an operator of company A, her neighbours of B, and nobody in particular."""

from collections.abc import Iterator

import httpx
import pytest
from postgrest.exceptions import APIError
from supabase import Client, create_client
from supabase.lib.client_options import SyncClientOptions

from mqtt_service.devstack.keys import JwtKeys
from tests.acceptance.conftest import Database

OPERATOR_A = ("a0000000-0000-4000-8000-0000000000e2", "operator.a@example.test")
DEVICE_A = "a0000000-0000-4000-8000-000000000031"
DEVICE_B = "b0000000-0000-4000-8000-000000000031"
TABLES = (
    "companies", "company_members", "pilot_programs", "sites", "devices", "device_site_assignments",
    "device_program_assignments", "device_commands", "device_history", "device_images", "device_telemetry",
)  # fmt: skip


@pytest.fixture
def anonymous(stack: dict[str, str]) -> Iterator[Client]:
    with httpx.Client() as http:
        options = SyncClientOptions(httpx_client=http)
        yield create_client(stack["SUPABASE_URL"], stack["SUPABASE_ANON_KEY"], options)


@pytest.fixture
def operator(stack: dict[str, str], anonymous: Client) -> Client:
    """A dashboard user's client after signing in."""
    anonymous.postgrest.auth(JwtKeys(stack["SUPABASE_JWT_SECRET"]).user_token(*OPERATOR_A))
    return anonymous


def test_an_operator_queues_a_command_for_a_device_of_her_company(operator: Client) -> None:
    inserted = (
        operator.table("device_commands")
        .insert({"device_id": DEVICE_A, "command_type": "capture_image", "status": "pending"})
        .execute()
    )
    (row,) = inserted.data
    assert isinstance(row, dict)
    assert (row["status"], row["created_by_user_id"]) == ("pending", OPERATOR_A[0])


def test_an_operator_neither_sees_nor_touches_the_other_company(operator: Client, database: Database) -> None:
    seen = operator.table("devices").select("device_id").execute().data
    assert {"device_id": DEVICE_A} in seen
    assert {"device_id": DEVICE_B} not in seen

    with pytest.raises(APIError) as refused:
        operator.table("device_commands").insert({"device_id": DEVICE_B, "command_type": "reboot"}).execute()
    assert refused.value.code == "42501"

    row = database.execute(
        "insert into device_commands (device_id, command_type, scheduled_for)"
        " values (%s, 'reboot', now() + '1 day') returning command_id",
        (DEVICE_B,),
    ).fetchone()
    assert row is not None
    changed = (
        operator.table("device_commands")
        .update({"status": "cancelled"})
        .eq("command_id", str(row[0]))
        .execute()
    )
    assert changed.data == []
    assert database.execute(
        "select status from device_commands where command_id = %s", (row[0],)
    ).fetchone() == ("pending",)


def test_an_operator_cancels_but_cannot_forge_an_answer(operator: Client) -> None:
    queued = (
        operator.table("device_commands")
        .insert({"device_id": DEVICE_A, "command_type": "reboot", "scheduled_for": "2999-01-01T00:00:00Z"})
        .execute()
    )
    assert isinstance(queued.data[0], dict)
    command_id = queued.data[0]["command_id"]
    with pytest.raises(APIError):
        operator.table("device_commands").update({"status": "acknowledged"}).eq(
            "command_id", command_id
        ).execute()
    cancelled = (
        operator.table("device_commands")
        .update({"status": "cancelled"})
        .eq("command_id", command_id)
        .execute()
    )
    assert isinstance(cancelled.data[0], dict)
    assert cancelled.data[0]["status"] == "cancelled"


@pytest.mark.parametrize("table", TABLES)
def test_anon_reads_no_table(anonymous: Client, table: str) -> None:
    with pytest.raises(APIError) as refused:
        anonymous.table(table).select("*").limit(1).execute()
    assert refused.value.code == "42501"


def test_anon_executes_no_function(anonymous: Client, database: Database) -> None:
    rows = database.execute(
        "select proname::text from pg_proc where pronamespace = 'public'::regnamespace and prokind = 'f'"
    ).fetchall()
    names = {str(row[0]) for row in rows}
    assert {"fn_claim_commands", "fn_calculate_next_wake"} <= names
    allowed = database.execute(
        "select proname from pg_proc where pronamespace in"
        " ('public'::regnamespace, 'mqtt_private'::regnamespace)"
        " and has_function_privilege('anon', oid, 'execute')"
    ).fetchall()
    assert allowed == []
    with pytest.raises(APIError) as refused:
        anonymous.rpc("fn_calculate_next_wake", {
            "p_cron_expression": "0 8 * * *", "p_from_timestamp": "2026-01-01T00:00:00Z",
        }).execute()  # fmt: skip
    assert refused.value.code == "42501"
