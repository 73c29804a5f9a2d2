"""Pictures that fail for the same reason in visit after visit: counted, and given up as one chose."""

from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, emptied

MORNING = "2025-08-29T08:00:00Z"


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    queue = Queue(emptied(shared))
    queue.device("d1")
    return queue


def visit(queue: Queue, give_up: str = "keep", fault: str = "cut_off", **fields: Any) -> Row:
    """The device wakes, and its picture fails: the answer to its failing."""
    queue.hello("d1", pending_names=["a.jpg"], pending_count=1)
    return fail(queue, queue.image("d1", **fields), give_up, fault)


def fail(queue: Queue, image: Row, give_up: str = "keep", fault: str = "cut_off", **more: Any) -> Row:
    settling: dict[str, Any] = {
        "kind": fault,
        "error": "it is of no use",
        "give_up": give_up,
        "give_up_after": 3,
    }
    return queue.settle_image(image["image_id"], "failed", **settling, **more)


def row(queue: Queue, image_id: str) -> Row:
    [found] = queue.rows("select * from device_images where image_id = %s", UUID(image_id))
    return found


def events(queue: Queue) -> list[Row]:
    return queue.rows("select * from device_history where event_type = 'image_given_up'")


def test_a_picture_kept_after_three_visits_is_named_to_whoever_would_ask_for_it(queue: Queue) -> None:
    for _ in range(2):
        answer = visit(queue)
        assert "given_up" not in answer
        assert "given_up_names" not in queue.hello("d1", pending_names=["a.jpg"])
    answer = visit(queue)
    assert (answer["result"], answer["given_up"], answer["failed_visits"]) == ("failed", "keep", 3)
    given_up = row(queue, answer["image_id"])
    assert (given_up["status"], given_up["given_up"]) == ("failed", "keep")
    assert given_up["given_up_at"] is not None
    assert "given up after 3 visits: the device keeps it" in given_up["last_error"]
    assert queue.hello("d1", pending_names=["b.jpg", "a.jpg"])["given_up_names"] == ["a.jpg"]
    visit(queue)
    [event] = events(queue)
    assert (event["severity"], event["event_data"]["kind"]) == ("warning", "cut_off")
    assert (event["event_data"]["visits"], event["event_data"]["given_up"]) == (3, "keep")


def test_a_visit_counts_once_however_often_it_is_reported(queue: Queue) -> None:
    queue.hello("d1")
    for _ in range(4):
        image = queue.image("d1")
        for _ in range(2):
            assert "given_up" not in fail(queue, image)


def test_a_report_that_is_sent_again_gets_the_same_answer(queue: Queue) -> None:
    for _ in range(2):
        visit(queue)
    queue.hello("d1")
    image = queue.image("d1")
    assert fail(queue, image, "discard") == fail(queue, image, "discard")
    assert len(events(queue)) == 1


@pytest.mark.parametrize(
    "third",
    [
        {"fault": "too_large"},
        {"image_size": 4000},
    ],
)
def test_another_reason_or_another_size_is_counted_anew(queue: Queue, third: dict[str, Any]) -> None:
    for _ in range(2):
        visit(queue, image_size=5000)
    assert "given_up" not in visit(queue, **{"image_size": 5000, **third})


def test_chunks_count_as_missing_for_good_only_when_they_are_the_same_each_time(queue: Queue) -> None:
    for missing in ([1], [2], [3], [2]):
        queue.hello("d1")
        assert "given_up" not in fail(queue, queue.image("d1"), fault="missing_chunks", missing=missing)
    for missing in ([2], [2]):
        queue.hello("d1")
        answer = fail(queue, queue.image("d1"), fault="missing_chunks", missing=missing)
    assert answer["given_up"] == "keep"


def test_a_failure_that_may_pass_is_not_counted_and_forgets_nothing(queue: Queue) -> None:
    for _ in range(2):
        visit(queue)
    queue.hello("d1")
    queue.settle_image(queue.image("d1")["image_id"], "failed", error="Storage is away", give_up_after=3)
    assert visit(queue)["given_up"] == "keep"


def test_a_worker_that_does_not_hold_the_visit_gives_nothing_up(queue: Queue) -> None:
    for _ in range(2):
        visit(queue)
    queue.hello("d1")
    image = queue.image("d1")
    assert "given_up" not in fail(queue, image, "discard", worker="w2")
    assert row(queue, image["image_id"])["status"] == "receiving"
    assert fail(queue, image, "discard")["given_up"] == "discard"


def test_for_quarantine_the_row_says_so_only_once_the_bytes_are_safe(queue: Queue) -> None:
    for _ in range(2):
        visit(queue, "quarantine", captured_at=MORNING)
    answer = visit(queue, "quarantine", captured_at=MORNING)
    device = row(queue, answer["image_id"])["device_id"]
    assert answer["rejected_path"] == f"unassigned/rejected/{device}/{answer['image_id']}.jpg"
    assert row(queue, answer["image_id"])["given_up"] is None
    assert events(queue) == []
    for _ in range(2):
        safe = queue.settle_image(answer["image_id"], "quarantined", kind="cut_off", error="it is of no use")
        assert (safe["result"], safe["given_up"]) == ("failed", "quarantine")
    given_up = row(queue, answer["image_id"])
    assert (given_up["given_up"], given_up["rejected_path"]) == ("quarantine", answer["rejected_path"])
    assert len(events(queue)) == 1


@pytest.mark.parametrize("again", [None, MORNING])
def test_what_was_deleted_leaves_its_name_to_the_next_picture(queue: Queue, again: str | None) -> None:
    for _ in range(3):
        answer = visit(queue, "discard")
    assert answer["given_up"] == "discard"
    assert "given_up_names" not in queue.hello("d1", pending_names=["a.jpg"])
    following = queue.image("d1", captured_at=again)
    assert following["image_id"] != answer["image_id"]
    assert "given_up" not in fail(queue, following, "discard")


def test_a_picture_that_comes_whole_after_all_is_no_longer_given_up(queue: Queue) -> None:
    for _ in range(3):
        answer = visit(queue)
    queue.hello("d1")
    image = queue.image("d1")
    assert image["image_id"] == answer["image_id"]
    assert queue.settle_image(image["image_id"], "complete", image_size=9)["result"] == "complete"
    complete = row(queue, image["image_id"])
    assert (complete["status"], complete["given_up"], complete["last_error"]) == ("complete", None, None)
    assert queue.rows("select from mqtt_private.image_failures") == []


def test_a_worker_of_the_version_before_counts_nothing(queue: Queue) -> None:
    for _ in range(4):
        queue.hello("d1")
        answer = queue.settle_image(queue.image("d1")["image_id"], "failed", error="it is cut off")
        assert set(answer) == {"image_id", "result", "storage_path", "next_wake_at"}


def test_the_worker_that_takes_a_visit_over_does_not_expect_what_was_given_up(queue: Queue) -> None:
    for _ in range(3):
        visit(queue)
    queue.hello("d1", pending_count=3, pending_names=["b.jpg", "a.jpg"])
    [begun] = queue.rows("select pending_count, pending_names from mqtt_private.visits")
    assert (begun["pending_count"], begun["pending_names"]) == (2, ["b.jpg"])
