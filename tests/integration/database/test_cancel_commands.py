"""fn_cancel_commands: what waits for a target, or of a recurring command, as whoever asks may."""

import json
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, copied, reseeded
from tests.integration.database.test_row_level_security import OPERATOR_A, acting_as

VIEWER_A = "a0000000-0000-4000-8000-0000000000e1"
_DEVICES = "select device_id, site_id, company_id from devices where is_active order by company_id, device_id"


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(reseeded(shared))


def cancel(queue: Queue, **parameters: object) -> Row:
    told: Row = queue.call("fn_cancel_commands", **{
        name: json.dumps(value) if isinstance(value, dict) else value for name, value in parameters.items()
    })  # fmt: skip
    return told


def statuses(queue: Queue) -> list[str]:
    return [row["status"] for row in queue.rows("select status from device_commands order by issue_number")]


def test_what_waits_for_a_site_is_cancelled_and_the_rest_stays(queue: Queue) -> None:
    queue.connection.execute("delete from device_commands")
    ours, theirs = queue.rows(_DEVICES)[0], queue.rows(_DEVICES)[-1]
    assert ours["company_id"] != theirs["company_id"]
    for device in (ours["device_id"], ours["device_id"], theirs["device_id"]):
        queue.command(device)
    retried, lost = queue.command(ours["device_id"]), queue.command(ours["device_id"])
    queue.change(retried, "status = 'failed', due_at = now() + interval '1 hour'")
    queue.change(lost, "status = 'failed', due_at = null")
    target = {"site": str(ours["site_id"])}
    assert cancel(queue, p_target=target, p_count_only=True) == {"found": 3, "cancelled": 0}
    assert cancel(queue, p_target=target, p_type="ping") == {"found": 0, "cancelled": 0}
    assert cancel(queue, p_target=target) == {"found": 3, "cancelled": 3}
    assert statuses(queue) == ["cancelled", "cancelled", "pending", "cancelled", "failed"]
    assert cancel(queue, p_target=target) == {"found": 0, "cancelled": 0}


def test_what_a_recurring_command_has_queued_is_cancelled(queue: Queue) -> None:
    queue.connection.execute("delete from device_commands")
    device = queue.rows(_DEVICES)[0]["device_id"]
    schedule = uuid4()
    for key in (f"schedule:{schedule}:1:x", f"schedule:{schedule}:2:x", f"schedule:{uuid4()}:1:x", None):
        queue.command(device, idempotency_key=key)
    assert cancel(queue, p_schedule_id=schedule) == {"found": 2, "cancelled": 2}
    assert statuses(queue) == ["cancelled", "cancelled", "pending", "pending"]


def test_it_must_be_said_which(queue: Queue) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="not said which"):
        cancel(queue, p_type="ping")


def test_people_cancel_what_row_level_security_lets_them(queue: Queue) -> None:
    queue.connection.execute("delete from device_commands")
    found = queue.rows(_DEVICES)
    for row in found:
        queue.command(row["device_id"])
    ids = [str(row["device_id"]) for row in found]
    query = "select fn_cancel_commands(%s)"
    told = []
    for user in (VIEWER_A, OPERATOR_A):
        with acting_as(queue.connection, "authenticated", user):
            [answer] = queue.rows(f"{query} as told", json.dumps({"devices": ids}))
            told.append(answer["told"]["cancelled"])
    ours = [row for row in found if row["company_id"] == found[0]["company_id"]]
    assert told == [0, len(ours)]
    assert sorted(statuses(queue)) == ["cancelled"] * len(ours) + ["pending"] * (len(found) - len(ours))


def test_people_may_set_the_timeout_and_nothing_that_the_device_says(queue: Queue) -> None:
    queue.connection.execute("delete from device_commands")
    device = queue.rows(_DEVICES)[0]["device_id"]
    queue.connection.execute("grant insert, update on device_commands to authenticated")
    with acting_as(queue.connection, "authenticated", OPERATOR_A):
        queue.command(
            device, execution_timeout="5 minutes", progress=100, progress_message="x", answer_due_at="now",
            progress_at="now", done_after_cancel_at="now",
        )  # fmt: skip
        queue.connection.execute("update device_commands set progress = 7, status = 'cancelled'")
    [row] = queue.rows("select * from device_commands")
    assert row["status"] == "cancelled"
    assert row["execution_timeout"].total_seconds() == 300
    for column in ("progress", "progress_message", "answer_due_at", "progress_at", "done_after_cancel_at"):
        assert row[column] is None
