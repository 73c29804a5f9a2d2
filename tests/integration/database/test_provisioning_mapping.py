"""Assignments make devices active and inactive, whoever writes them; wrong ones are refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, about, copied, reseeded

COMPANY_A = UUID("a0000000-0000-4000-8000-000000000001")
PROGRAM_A = UUID("a0000000-0000-4000-8000-000000000011")
NORTH = UUID("a0000000-0000-4000-8000-000000000021")
SOUTH = UUID("a0000000-0000-4000-8000-000000000022")
MAPPED = UUID("a0000000-0000-4000-8000-000000000031")
WAITING = UUID("a0000000-0000-4000-8000-000000000032")
ADMIN_A = "a0000000-0000-4000-8000-0000000000e3"
PROGRAM_B = UUID("b0000000-0000-4000-8000-000000000011")
WARD = UUID("b0000000-0000-4000-8000-000000000021")


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(reseeded(shared))


def map_device(queue: Queue, device: UUID, site: UUID, **columns: object) -> UUID:
    return queue.insert("device_site_assignments", "assignment_id", device_id=device, site_id=site, **columns)


def device(queue: Queue, device_id: UUID) -> Row:
    return queue.rows("select * from devices where device_id = %s", device_id)[0]


def active(queue: Queue, table: str, device_id: UUID) -> list[Row]:
    return queue.rows(f"select * from {table} where device_id = %s and is_active", device_id)


def events(queue: Queue, device_id: UUID) -> list[str]:
    rows = queue.rows(
        "select event_type from device_history where device_id = %s order by created_at", device_id
    )
    return [row["event_type"] for row in rows]


@contextmanager
def admin(queue: Queue) -> Iterator[psycopg.Connection]:
    """A transaction as the dashboard of company A's admin runs it."""
    claims = json.dumps({"role": "authenticated", "sub": ADMIN_A})
    with queue.connection.transaction():
        queue.connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        queue.connection.execute("set local role authenticated")
        yield queue.connection


# Mapping


def test_a_mapped_device_is_active_with_its_lineage_and_its_next_wake(queue: Queue) -> None:
    assignment = map_device(queue, WAITING, NORTH)
    row = device(queue, WAITING)
    assert (row["is_active"], row["provisioning_status"]) == (True, "active")
    assert (row["site_id"], row["program_id"], row["company_id"]) == (NORTH, PROGRAM_A, COMPANY_A)
    [wake] = queue.rows("select fn_calculate_next_wake('0 8,16 * * *', now(), 'Europe/Berlin') as at")
    assert row["next_wake_at"] == wake["at"]
    assert about(row["mapped_at"], queue.now())
    assert row["welcome_due"] is True
    [event] = queue.rows("select * from device_history where device_id = %s", WAITING)
    assert (event["event_type"], event["description"]) == ("mapped", 'mapped to site "Alder North"')
    assert event["event_data"]["assignment_id"] == str(assignment)
    assert [row["program_id"] for row in active(queue, "device_program_assignments", WAITING)] == [PROGRAM_A]


def test_an_admin_maps_a_device_of_the_pool_over_the_api(queue: Queue) -> None:
    with admin(queue) as connection:
        connection.execute(
            "insert into device_site_assignments (device_id, site_id) values (%s, %s)", (WAITING, NORTH)
        )
    assert device(queue, WAITING)["is_active"] is True
    [row] = active(queue, "device_site_assignments", WAITING)
    assert (row["assigned_by_user_id"], row["program_id"]) == (UUID(ADMIN_A), PROGRAM_A)
    [event] = queue.rows("select created_by_user_id from device_history where device_id = %s", WAITING)
    assert event["created_by_user_id"] == UUID(ADMIN_A)


def test_an_inactive_assignment_maps_nothing(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH, is_active=False)
    assert device(queue, WAITING)["provisioning_status"] == "pending_mapping"


def test_the_schedule_of_the_device_goes_before_that_of_the_site(queue: Queue) -> None:
    queue.connection.execute(
        "update devices set wake_schedule_cron = '30 5 * * *' where device_id = %s", (WAITING,)
    )
    map_device(queue, WAITING, NORTH)
    [wake] = queue.rows("select fn_calculate_next_wake('30 5 * * *', now(), 'Europe/Berlin') as at")
    assert device(queue, WAITING)["next_wake_at"] == wake["at"]


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_without_a_schedule_it_is_eight_and_sixteen_oclock_at_the_site(
    queue: Queue, blank: str | None
) -> None:
    queue.connection.execute("update sites set wake_schedule_cron = %s where site_id = %s", (blank, SOUTH))
    map_device(queue, WAITING, SOUTH)
    [wake] = queue.rows("select fn_calculate_next_wake('0 8,16 * * *', now(), 'Australia/Lord_Howe') as at")
    assert device(queue, WAITING)["next_wake_at"] == wake["at"]


@pytest.mark.parametrize(
    "nonsense",
    [
        "wake_schedule_cron = 'every morning'",
        "timezone = 'Mars/Olympus'",
        "wake_schedule_cron = '0 0 30 2 *'",
        "wake_schedule_cron = '0 0 8 * * ?'",
        "wake_schedule_cron = repeat('0,', 10000) || '0 8 * * *'",
        "timezone = 'GMT+2'",
        "timezone = repeat('Europe/Berlin', 1000)",
    ],
)
def test_a_schedule_that_does_not_parse_gives_twelve_hours_and_an_event_that_says_why(
    queue: Queue, nonsense: str
) -> None:
    queue.connection.execute(f"update sites set {nonsense} where site_id = '{NORTH}'".encode())
    map_device(queue, WAITING, NORTH)
    row = device(queue, WAITING)
    assert row["is_active"] is True
    assert about(row["next_wake_at"], queue.now() + timedelta(hours=12))
    [event] = queue.rows("select * from device_history where event_type = 'wake_schedule_invalid'")
    assert (event["device_id"], event["severity"]) == (WAITING, "warning")
    assert event["event_data"]["error"] in event["description"]


def test_mapping_to_another_site_ends_the_old_assignment_and_moves_the_device(queue: Queue) -> None:
    map_device(queue, MAPPED, SOUTH)
    [row] = active(queue, "device_site_assignments", MAPPED)
    assert (row["site_id"], device(queue, MAPPED)["site_id"]) == (SOUTH, SOUTH)
    [old] = queue.rows(
        "select * from device_site_assignments where device_id = %s and site_id = %s", MAPPED, NORTH
    )
    assert about(old["unassigned_at"], queue.now())
    assert device(queue, MAPPED)["is_active"] is True
    assert events(queue, MAPPED) == ["mapped", "mapped"]


def test_an_assignment_whose_site_is_edited_moves_the_device(queue: Queue) -> None:
    queue.connection.execute(
        "update device_site_assignments set site_id = %s where device_id = %s", (SOUTH, MAPPED)
    )
    row = device(queue, MAPPED)
    assert (row["site_id"], row["is_active"], row["welcome_due"]) == (SOUTH, True, True)


def test_mapping_to_the_same_site_again_changes_nothing_for_the_device(queue: Queue) -> None:
    before = device(queue, MAPPED)
    map_device(queue, MAPPED, NORTH)
    assert device(queue, MAPPED) == before
    assert events(queue, MAPPED) == ["mapped"]
    assert len(active(queue, "device_site_assignments", MAPPED)) == 1


def test_a_note_on_an_assignment_changes_nothing_for_the_device(queue: Queue) -> None:
    before = device(queue, MAPPED)
    queue.connection.execute("update device_site_assignments set notes = 'by the door'")
    assert device(queue, MAPPED) == before


def test_moving_to_a_site_of_another_program_moves_the_program_assignment(queue: Queue) -> None:
    program = queue.insert("pilot_programs", "program_id", company_id=COMPANY_A, name="Second")
    site = queue.insert("sites", "site_id", company_id=COMPANY_A, program_id=program, name="East")
    map_device(queue, MAPPED, site)
    assert [row["program_id"] for row in active(queue, "device_program_assignments", MAPPED)] == [program]
    assert device(queue, MAPPED)["program_id"] == program


# Unmapping


@pytest.mark.parametrize(
    "statement",
    [
        "update device_site_assignments set is_active = false where device_id = %s",
        "delete from device_site_assignments where device_id = %s",
    ],
)
def test_ending_or_deleting_an_assignment_makes_the_device_inactive(queue: Queue, statement: str) -> None:
    queue.connection.execute(statement.encode(), (MAPPED,))
    row = device(queue, MAPPED)
    assert (row["is_active"], row["provisioning_status"]) == (False, "inactive")
    assert (row["site_id"], row["program_id"], row["next_wake_at"]) == (None, None, None)
    assert row["company_id"] == COMPANY_A  # still theirs to map again
    assert active(queue, "device_program_assignments", MAPPED) == []
    assert events(queue, MAPPED) == ["mapped", "unmapped"]


def test_an_admin_ends_an_assignment_over_the_api(queue: Queue) -> None:
    with admin(queue) as connection:
        connection.execute(
            "update device_site_assignments set is_active = false where device_id = %s", (MAPPED,)
        )
    assert device(queue, MAPPED)["is_active"] is False
    [row] = queue.rows("select * from device_site_assignments where device_id = %s", MAPPED)
    assert about(row["unassigned_at"], queue.now())
    assert row["unassigned_by_user_id"] == UUID(ADMIN_A)


def test_deleting_an_assignment_that_had_ended_leaves_the_device_mapped(queue: Queue) -> None:
    map_device(queue, MAPPED, SOUTH)
    queue.connection.execute("delete from device_site_assignments where site_id = %s", (NORTH,))
    assert device(queue, MAPPED)["site_id"] == SOUTH


def test_an_unmapped_device_can_be_mapped_again(queue: Queue) -> None:
    queue.connection.execute("update device_site_assignments set is_active = false")
    queue.connection.execute(
        "update device_site_assignments set is_active = true where device_id = %s", (MAPPED,)
    )
    row = device(queue, MAPPED)
    assert (row["is_active"], row["site_id"], row["welcome_due"]) == (True, NORTH, True)
    [assignment] = active(queue, "device_site_assignments", MAPPED)
    assert assignment["unassigned_at"] is None


def test_a_device_can_be_deleted_with_its_assignments(queue: Queue) -> None:
    queue.connection.execute("delete from devices where device_id = %s", (MAPPED,))
    assert queue.rows("select from device_site_assignments where device_id = %s", MAPPED) == []


# Refusals


def refused(queue: Queue, site: UUID, device_id: UUID = WAITING, **columns: object) -> str:
    """The reason for which this mapping is refused, after seeing that nothing of it was kept."""
    before = device(queue, device_id)
    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        map_device(queue, device_id, site, **columns)
    assert refusal.value.diag.message_hint
    assert device(queue, device_id) == before
    rows = queue.rows(
        "select from device_site_assignments where device_id = %s and site_id = %s", device_id, site
    )
    assert rows == []
    return str(refusal.value.diag.message_primary)


def test_a_site_of_another_program_is_refused(queue: Queue) -> None:
    reason = refused(queue, NORTH, program_id=PROGRAM_B)
    assert reason == f'mapping refused: site "Alder North" belongs to another program than {PROGRAM_B}'


def test_a_site_of_another_company_is_refused(queue: Queue) -> None:
    reason = refused(queue, WARD, MAPPED)
    assert reason == (
        'mapping refused: device DEVICE-ESP32S3-001 belongs to another company than site "Birch Ward 4"'
    )


def test_a_site_whose_program_is_another_companys_is_refused(queue: Queue) -> None:
    queue.connection.execute("update sites set program_id = %s where site_id = %s", (PROGRAM_B, NORTH))
    assert "belongs to another company than program" in refused(queue, NORTH)


def test_a_site_without_a_program_is_refused(queue: Queue) -> None:
    queue.connection.execute("update sites set program_id = null where site_id = %s", (NORTH,))
    assert refused(queue, NORTH) == 'mapping refused: site "Alder North" belongs to no program'


def test_a_site_without_a_company_belongs_to_its_programs(queue: Queue) -> None:
    queue.connection.execute("update sites set company_id = null where site_id = %s", (NORTH,))
    map_device(queue, WAITING, NORTH)
    assert device(queue, WAITING)["company_id"] == COMPANY_A


def test_a_device_of_another_company_is_not_taken_over_the_api(queue: Queue) -> None:
    with pytest.raises(psycopg.Error) as refusal, admin(queue) as connection:
        connection.execute(
            "insert into device_site_assignments (device_id, site_id) values (%s, %s)",
            ("b0000000-0000-4000-8000-000000000031", NORTH),
        )
    assert isinstance(refusal.value, psycopg.errors.InsufficientPrivilege | psycopg.errors.CheckViolation)


# As scripts call it


def initialize(queue: Queue, device_id: UUID, site: UUID, program: UUID | None = PROGRAM_A) -> dict[str, Any]:
    answer: dict[str, Any] = queue.call(
        "fn_initialize_device_after_mapping", p_device_id=device_id, p_site_id=site, p_program_id=program
    )
    return answer


@pytest.mark.parametrize("program", [PROGRAM_A, None])
def test_initializing_a_device_maps_it_and_records_the_assignment(queue: Queue, program: UUID | None) -> None:
    answer = initialize(queue, WAITING, NORTH, program)
    next_wake_at = device(queue, WAITING)["next_wake_at"]
    assert queue.rows("select %s::timestamptz as at", answer.pop("next_wake_at")) == [{"at": next_wake_at}]
    assert answer == {
        "success": True, "message": "the device is active", "device_id": str(WAITING),
        "device_code": "DEVICE-ESP32S3-002", "site_id": str(NORTH), "program_id": str(PROGRAM_A),
        "company_id": str(COMPANY_A), "welcome_due": True,
    }  # fmt: skip
    assert len(active(queue, "device_site_assignments", WAITING)) == 1


def test_initializing_twice_changes_nothing_more(queue: Queue) -> None:
    initialize(queue, WAITING, NORTH)
    before = device(queue, WAITING)
    assert initialize(queue, WAITING, NORTH)["success"] is True
    assert device(queue, WAITING) == before
    assert events(queue, WAITING) == ["mapped"]


def test_what_is_refused_comes_back_as_an_error(queue: Queue) -> None:
    answer = initialize(queue, WAITING, NORTH, PROGRAM_B)
    assert (answer["success"], answer["welcome_due"]) == (False, False)
    assert answer["error"].startswith('mapping refused: site "Alder North" belongs to another program')
    assert device(queue, WAITING)["is_active"] is False


@pytest.mark.parametrize("unknown", ["device", "site"])
def test_an_unknown_device_or_site_comes_back_as_an_error(queue: Queue, unknown: str) -> None:
    nobody = UUID(int=0)
    answer = initialize(queue, *((nobody, NORTH) if unknown == "device" else (WAITING, nobody)))
    assert answer["success"] is False
    assert answer["error"]
