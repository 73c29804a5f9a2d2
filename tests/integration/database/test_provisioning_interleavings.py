"""Two people or scripts who map one device at the same time."""

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, copied, reseeded, waiting

NORTH = UUID("a0000000-0000-4000-8000-000000000021")
SOUTH = UUID("a0000000-0000-4000-8000-000000000022")
WAITING = UUID("a0000000-0000-4000-8000-000000000032")


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(reseeded(shared))


@pytest.fixture
def other(queue: Queue) -> Iterator[Queue]:
    with queue.another() as other:
        yield other


def assignments(queue: Queue) -> list[Row]:
    return queue.rows(
        "select site_id, is_active from device_site_assignments where device_id = %s order by assigned_at",
        WAITING,
    )


def map_device(queue: Queue, site: UUID) -> UUID:
    return queue.insert("device_site_assignments", "assignment_id", device_id=WAITING, site_id=site)


def initialize(queue: Queue) -> Row:
    answer: Row = queue.call(
        "fn_initialize_device_after_mapping", p_device_id=WAITING, p_site_id=NORTH, p_program_id=None
    )
    return answer


def test_the_later_of_two_mappings_stands_alone(queue: Queue, other: Queue) -> None:
    """Fails when fn_apply_assignment does not lock the device before it looks for other assignments."""
    queue.connection.execute("begin")
    map_device(queue, NORTH)
    with waiting(other, lambda: map_device(other, SOUTH)) as mapping:
        queue.connection.execute("commit")
        mapping.result(timeout=10)
    assert [row["site_id"] for row in assignments(queue) if row["is_active"]] == [SOUTH]
    assert queue.rows("select site_id from devices where device_id = %s", WAITING) == [{"site_id": SOUTH}]


def test_two_scripts_record_one_assignment(queue: Queue, other: Queue) -> None:
    """Fails when fn_initialize_device_after_mapping does not lock the device first."""
    queue.connection.execute("begin")
    initialize(queue)
    with waiting(other, lambda: initialize(other)) as answer:
        queue.connection.execute("commit")
        assert answer.result(timeout=10)["success"] is True
    assert assignments(queue) == [{"site_id": NORTH, "is_active": True}]


def test_unmapping_while_another_maps_leaves_the_device_mapped(queue: Queue, other: Queue) -> None:
    first = map_device(queue, NORTH)
    queue.connection.execute("begin")
    map_device(queue, SOUTH)

    def end() -> None:
        other.connection.execute("delete from device_site_assignments where assignment_id = %s", (first,))

    with waiting(other, end) as ending:
        queue.connection.execute("commit")
        ending.result(timeout=10)
    assert queue.rows("select site_id, is_active from devices where device_id = %s", WAITING) == [
        {"site_id": SOUTH, "is_active": True}
    ]
