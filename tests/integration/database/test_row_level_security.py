"""Who sees and does what, for machines without pgTAP; supabase/tests says more."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.applying import apply
from tests.integration.database.queue_calls import copied, reseeded

DEVICE_A = "a0000000-0000-4000-8000-000000000031"
DEVICE_B = "b0000000-0000-4000-8000-000000000031"
UNCLAIMED = "a0000000-0000-4000-8000-000000000032"
NORTH = "a0000000-0000-4000-8000-000000000021"
OPERATOR_A = "a0000000-0000-4000-8000-0000000000e2"
ADMIN_A = "a0000000-0000-4000-8000-0000000000e3"
ADMIN_B = "b0000000-0000-4000-8000-0000000000e3"
TABLES = (
    "companies", "company_members", "pilot_programs", "sites", "devices", "device_history", "device_commands",
    "device_site_assignments", "device_program_assignments", "device_images", "device_telemetry",
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def seeded(shared: psycopg.Connection) -> psycopg.Connection:
    return reseeded(shared)


@contextmanager
def acting_as(connection: psycopg.Connection, role: str, user: str | None = None) -> Iterator[None]:
    """One transaction as the API would run it for this role and user."""
    with connection.transaction():
        claims = json.dumps({"role": role, "sub": user})
        connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        connection.execute("select set_config('role', %s, true)", (role,))
        yield


def queue(connection: psycopg.Connection, device: str) -> str:
    row = connection.execute(
        "insert into device_commands (device_id, command_type) values (%s, 'reboot')"
        " returning command_id::text",
        (device,),
    ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("table", TABLES)
def test_anon_reads_nothing(seeded: psycopg.Connection, table: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(seeded, "anon"):
        seeded.execute(f"select 1 from {table}")


def test_an_operator_queues_and_cancels_for_her_companys_device(seeded: psycopg.Connection) -> None:
    with acting_as(seeded, "authenticated", OPERATOR_A):
        command = queue(seeded, DEVICE_A)
        changed = seeded.execute(
            "update device_commands set status = 'cancelled' where command_id = %s", (command,)
        )
    assert changed.rowcount == 1


@pytest.mark.parametrize("device", [DEVICE_B, UNCLAIMED])
def test_an_operator_queues_for_no_other_device(seeded: psycopg.Connection, device: str) -> None:
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        acting_as(seeded, "authenticated", OPERATOR_A),
    ):
        queue(seeded, device)


def test_an_operator_neither_sees_nor_changes_what_is_another_companys(seeded: psycopg.Connection) -> None:
    queue(seeded, DEVICE_B)
    with acting_as(seeded, "authenticated", OPERATOR_A):
        devices = seeded.execute("select device_id::text from devices").fetchall()
        commands = seeded.execute("select command_id from device_commands").fetchall()
        changed = seeded.execute("update device_commands set status = 'cancelled'")
    assert (devices, commands, changed.rowcount) == ([(DEVICE_A,)], [], 0)


def test_a_device_of_the_pool_is_the_first_admins_who_maps_it(seeded: psycopg.Connection) -> None:
    assign = "insert into device_site_assignments (device_id, site_id) values (%s, %s)"
    with acting_as(seeded, "authenticated", ADMIN_B):
        assert seeded.execute(
            "select 1 from devices where device_id = %s", (UNCLAIMED,)
        ).fetchone()  # it waits for either of them
    with acting_as(seeded, "authenticated", ADMIN_A):
        seeded.execute(assign, (UNCLAIMED, NORTH))
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(seeded, "authenticated", ADMIN_B):
        seeded.execute(assign, (UNCLAIMED, "b0000000-0000-4000-8000-000000000021"))
    row = seeded.execute(
        "select company_id::text, is_active from devices where device_id = %s", (UNCLAIMED,)
    ).fetchone()
    assert row == ("a0000000-0000-4000-8000-000000000001", True)


def test_service_role_may_call_what_the_worker_calls(seeded: psycopg.Connection) -> None:
    queue(seeded, DEVICE_A)
    with acting_as(seeded, "service_role"):
        row = seeded.execute("select public.fn_claim_commands('worker')").fetchone()
    assert row is not None
    assert len(row[0]["commands"]) == 1


def test_a_database_without_row_level_security_gives_people_no_grant(empty_database_url: str) -> None:
    """A table that the project left open to its own back end alone is not opened to everyone's clients."""

    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute("create table device_telemetry (device_id uuid, reading text)")
        apply(connection)
        granted = connection.execute(
            "select has_table_privilege('authenticated', 'device_telemetry', 'select')"
        ).fetchone()
    assert granted == (False,)
