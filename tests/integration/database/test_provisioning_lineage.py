"""What devices lack of their lineage, one by one and in a list."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, copied, reseeded

PROGRAM_A = UUID("a0000000-0000-4000-8000-000000000011")
NORTH = UUID("a0000000-0000-4000-8000-000000000021")
SOUTH = UUID("a0000000-0000-4000-8000-000000000022")
MAPPED = UUID("a0000000-0000-4000-8000-000000000031")
WAITING = UUID("a0000000-0000-4000-8000-000000000032")


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(reseeded(shared))


def incomplete(queue: Queue, device: UUID) -> list[Row]:
    return queue.rows("select * from fn_find_devices_with_incomplete_lineage() where device_id = %s", device)


def validate(queue: Queue, device: UUID) -> dict[str, Any]:
    answer: dict[str, Any] = queue.call("fn_validate_device_provisioning", p_device_id=device)
    return answer


def test_a_mapped_device_is_valid_and_not_listed(queue: Queue) -> None:
    assert validate(queue, MAPPED) == {"valid": True, "device_id": str(MAPPED), "issues": []}
    assert incomplete(queue, MAPPED) == []


def test_a_device_that_waits_for_its_mapping_is_listed_as_not_fixable(queue: Queue) -> None:
    [row] = incomplete(queue, WAITING)
    assert (row["issue"], row["fixable"], row["assignment_id"]) == ("no_active_assignment", False, None)
    assert validate(queue, WAITING)["issues"] == ["no_active_assignment"]


def test_a_device_that_was_unmapped_on_purpose_is_not_listed(queue: Queue) -> None:
    queue.connection.execute("update device_site_assignments set is_active = false")
    assert incomplete(queue, MAPPED) == []
    assert validate(queue, MAPPED)["valid"] is False


def test_an_unknown_device_is_not_valid(queue: Queue) -> None:
    assert validate(queue, UUID(int=0)) == {
        "valid": False, "device_id": str(UUID(int=0)), "issues": ["unknown_device"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "issue"),
    [
        ("company_id = null", "missing_company"),
        ("program_id = null", "missing_program"),
        ("site_id = null", "missing_site"),
        ("is_active = false", "not_active"),
        ("provisioning_status = 'mapped'", "not_active"),
        ("next_wake_at = null", "missing_next_wake"),
        (f"site_id = '{SOUTH}'", "site_mismatch"),
        ("program_id = 'b0000000-0000-4000-8000-000000000011'", "program_mismatch"),
    ],
)
def test_each_damage_is_named_and_mended_by_initializing_the_device(
    queue: Queue, damage: str, issue: str
) -> None:
    queue.connection.execute(f"update devices set {damage} where device_id = '{MAPPED}'".encode())
    [row] = incomplete(queue, MAPPED)
    assert (row["issue"], row["fixable"]) == (issue, True)
    assert (row["assigned_site_id"], row["assigned_program_id"]) == (NORTH, PROGRAM_A)
    assert validate(queue, MAPPED)["issues"] == [issue]
    queue.call(
        "fn_initialize_device_after_mapping", p_device_id=MAPPED, p_site_id=NORTH, p_program_id=PROGRAM_A
    )
    assert validate(queue, MAPPED)["issues"] == []


def test_a_device_of_another_company_than_its_site_is_not_fixable(queue: Queue) -> None:
    queue.connection.execute(
        "update devices set company_id = 'b0000000-0000-4000-8000-000000000001' where device_id = %s",
        (MAPPED,),
    )
    [row] = incomplete(queue, MAPPED)
    assert (row["issue"], row["fixable"]) == ("company_mismatch", False)


def test_a_device_with_several_faults_is_listed_once_with_the_first_and_validated_with_all(
    queue: Queue,
) -> None:
    queue.connection.execute(
        "update devices set company_id = null, site_id = null, next_wake_at = null where device_id = %s",
        (MAPPED,),
    )
    [row] = incomplete(queue, MAPPED)
    assert row["issue"] == "missing_company"
    assert validate(queue, MAPPED)["issues"] == ["missing_company", "missing_site", "missing_next_wake"]


def test_the_list_is_in_the_order_of_the_ids_so_that_it_can_be_paged(queue: Queue) -> None:
    queue.connection.execute(
        "insert into devices (device_mac) select 'cam-' || n from generate_series(1, 1500) n"
    )
    listed = queue.rows("select device_id from fn_find_devices_with_incomplete_lineage()")
    assert len(listed) == 1501
    assert listed == sorted(listed, key=lambda row: str(row["device_id"]))


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_people_may_call_none_of_it(queue: Queue, role: str) -> None:
    calls = [
        "fn_find_devices_with_incomplete_lineage()", "fn_queue_welcome_commands()", "fn_claim_commands('w')",
        "fn_validate_device_provisioning(gen_random_uuid())", "fn_settle_commands('w', '[]')",
        "fn_acknowledge_commands('[]')",
        "fn_initialize_device_after_mapping(gen_random_uuid(), gen_random_uuid(), null)",
    ]  # fmt: skip
    queue.connection.execute(f"set role {role}".encode())
    for call in calls:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            queue.connection.execute(f"select public.{call}".encode())
