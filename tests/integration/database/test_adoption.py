"""A project that already has the tables gets what is missing and loses nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import Diagnostic

from tests.integration.database.applying import apply
from tests.integration.database.catalog import Facts, columns_of, grants, rows, structure
from tests.integration.database.queue_calls import Queue, copied, ids

OLD_PROJECT = Path(__file__).parents[2] / "fixtures/adopted_schema.sql"
DEVICE = "d0000000-0000-4000-8000-000000000031"
MAC = "11:11:11:11:11:01"
WAITING = "d0000000-0000-4000-8000-0000000000c1"
OLD_USER = "d0000000-0000-4000-8000-0000000000e1"


@dataclass
class Adopted:
    """The old project after the migrations, and what it was before."""

    connection: psycopg.Connection
    structure: Facts
    grants: Facts
    columns: dict[str, list[str]]
    rows: dict[str, list[Any]]
    warnings: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def first(server_url: str) -> Iterator[Adopted]:
    """The one to which the migrations were applied; no test changes it."""
    with copied(server_url, "platform") as connection:
        connection.execute(OLD_PROJECT.read_bytes())
        columns = columns_of(connection)
        project = Adopted(
            connection, structure(connection), grants(connection), columns, rows(connection, columns)
        )

        def hear(notice: Diagnostic) -> None:
            if notice.severity == "WARNING":
                project.warnings.append(f"{notice.message_primary} {notice.message_hint}")

        connection.add_notice_handler(hear)
        apply(connection)
        connection.remove_notice_handler(hear)
        yield project


@pytest.fixture
def adopted(first: Adopted) -> Iterator[Adopted]:
    """What a test changes is undone after it."""
    with first.connection.transaction(force_rollback=True):
        yield first


def test_no_table_column_check_index_policy_or_trigger_is_lost(adopted: Adopted) -> None:
    assert adopted.structure - structure(adopted.connection) == set()


def test_no_grant_is_lost(adopted: Adopted) -> None:
    assert adopted.grants - grants(adopted.connection) == set()


def test_no_value_is_changed_and_no_row_added(adopted: Adopted) -> None:
    assert rows(adopted.connection, adopted.columns) == adopted.rows


def test_it_can_be_applied_again(adopted: Adopted) -> None:
    before = structure(adopted.connection), grants(adopted.connection)
    apply(adopted.connection)
    assert (structure(adopted.connection), grants(adopted.connection)) == before
    assert rows(adopted.connection, adopted.columns) == adopted.rows


def test_a_table_without_row_level_security_is_named_with_what_to_run(adopted: Adopted) -> None:
    (warning,) = [text for text in adopted.warnings if "row-level security" in text.split("The policies")[0]]
    assert warning.startswith("public.device_history was there before without row-level security")
    assert "alter table public.device_history enable row level security;" in warning


def test_repeated_macs_are_named_and_kept(adopted: Adopted) -> None:
    assert any("devices_device_key_key is not unique" in text for text in adopted.warnings)


def test_words_of_the_old_project_stay_allowed_and_ours_are_added(adopted: Adopted) -> None:
    adopted.connection.execute("update devices set provisioning_status = 'decommissioned'")
    adopted.connection.execute("update devices set provisioning_status = 'inactive'")
    with pytest.raises(psycopg.errors.CheckViolation), adopted.connection.transaction():
        adopted.connection.execute("update devices set provisioning_status = 'lost'")
    adopted.connection.execute("update device_commands set status = 'queued' where status = 'pending'")
    adopted.connection.execute("update device_commands set status = 'cancelled' where status = 'queued'")


def test_every_old_row_can_still_be_updated(adopted: Adopted) -> None:
    for table in adopted.columns:
        key = adopted.columns[table][-1]
        changed = adopted.connection.execute(f"update public.{table} set {key} = {key}")
        assert changed.rowcount == len(adopted.rows[table])


def test_the_old_projects_user_sees_what_she_saw_and_queues_as_before(adopted: Adopted) -> None:
    with adopted.connection.transaction():
        claims = f'{{"role": "authenticated", "sub": "{OLD_USER}"}}'
        adopted.connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        adopted.connection.execute("set local role authenticated")
        assert adopted.connection.execute("select device_code from devices").fetchall() == [("OLD-1",)]
        adopted.connection.execute(
            "insert into device_commands (device_id, command_type, notes) values (%s, 'reboot', 'as ever')",
            (DEVICE,),
        )


def test_a_command_that_waited_is_claimed(adopted: Adopted) -> None:
    row = adopted.connection.execute("select public.fn_claim_commands('worker')").fetchone()
    assert row is not None
    assert [command["command_id"] for command in row[0]["commands"]] == [WAITING]


def test_nobody_is_welcomed_for_a_mapping_of_before(adopted: Adopted) -> None:
    row = adopted.connection.execute("select public.fn_queue_welcome_commands()").fetchone()
    assert row == ([],)


def test_a_device_of_the_old_project_is_mapped_to_its_site(adopted: Adopted) -> None:
    adopted.connection.execute(
        "insert into device_site_assignments (device_id, site_id) values (%s, %s)",
        ("d0000000-0000-4000-8000-000000000032", "d0000000-0000-4000-8000-000000000022"),
    )
    row = adopted.connection.execute(
        "select provisioning_status, is_active, company_id::text, next_wake_at is not null"
        " from devices where device_id = 'd0000000-0000-4000-8000-000000000032'"
    ).fetchone()
    assert row == ("active", True, "d0000000-0000-4000-8000-000000000001", True)


OTHER_TYPES = """
alter table device_commands drop constraint known_status,
  alter column issued_at type timestamp using issued_at at time zone 'UTC',
  alter column delivered_at type timestamp, alter column updated_at type timestamp;
alter table devices alter column created_at type timestamp, alter column updated_at type timestamp;
alter table device_images alter column received_at type timestamp,
  add column captured_at timestamp, add column updated_at timestamp;
alter table device_telemetry add column captured_at timestamp not null default now();
alter table device_commands drop constraint device_commands_command_type_check;
create type command_kind as enum ('capture_image', 'send_image', 'reboot', 'ping');
alter table device_commands alter column command_type type command_kind using command_type::command_kind;
create type member_role as enum ('admin', 'reader');
create table company_members (
  company_id uuid not null references companies, user_id uuid not null references auth.users,
  role member_role not null, primary key (company_id, user_id));
insert into company_members select company_id, user_id, 'admin' from user_profiles;
"""


def test_times_without_a_zone_and_enums_of_the_project_stop_neither_migration_nor_claim(
    platform_url: str,
) -> None:
    with psycopg.connect(platform_url, autocommit=True) as connection:
        connection.execute(OLD_PROJECT.read_bytes())
        connection.execute(OTHER_TYPES)
        for _ in range(2):
            apply(connection)
        queue = Queue(connection)
        late = queue.command(UUID(DEVICE), "reboot", issued_at="2026-01-01")
        claim = queue.claim()
        assert (ids(claim["commands"]), ids(claim["expired"])) == ([UUID(WAITING)], [late])
        assert queue.settle(claim["commands"])[0]["result"] == "settled"
        [answer] = queue.acknowledge({"topic_id": MAC, "command_id": WAITING})
        assert answer["result"] == "acknowledged"
        assert queue.hello(MAC)["result"] == "known"
        claims = f'{{"role": "authenticated", "sub": "{OLD_USER}"}}'
        connection.execute("select set_config('request.jwt.claims', %s, false)", (claims,))
        connection.execute("set role authenticated")
        companies = connection.execute("select mqtt_private.fn_my_companies('operator')").fetchall()
        assert len(companies) == 1
