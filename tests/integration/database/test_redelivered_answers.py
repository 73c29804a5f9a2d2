"""An answer that the broker delivers again to the next process of a session is the same answer, however late.

All but the last three fail without fn_find_redelivered_acknowledgement.
"""

from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, emptied

MAC = "AA:BB:CC:DD:EE:FF"
FIRST = {"topic_id": MAC, "delivery": "one#900#abc", "ref": "one:a:1"}
AGAIN = {**FIRST, "ref": "one:b:1", "redelivered": True}


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    made = Queue(emptied(shared))
    made.device(MAC)
    return made


def send(queue: Queue) -> UUID:
    """Queue a command for the device, and have it sent."""
    [device] = queue.rows("select device_id from devices")
    command = queue.command(device["device_id"])
    queue.settle(queue.claim(p_held=[])["commands"])
    return command


def minutes_pass(queue: Queue, minutes: int) -> None:
    queue.rows(
        "update mqtt_private.acknowledgements set received_at = received_at - make_interval(mins => %s)"
        " returning ref",
        minutes,
    )


def answered(queue: Queue, ack: Row, worker: str) -> Row:
    [told] = queue.acknowledge(ack, worker=worker, delay=0)
    return told


def test_it_does_not_count_for_the_command_that_was_sent_since(queue: Queue) -> None:
    first = send(queue)
    assert answered(queue, FIRST, "one:a")["result"] == "acknowledged"
    second = send(queue)
    told = answered(queue, AGAIN, "one:b")
    assert (told["result"], told["command_id"]) == ("duplicate", str(first))
    assert queue.row(second)["status"] == "sent"


def test_it_does_not_count_for_the_command_before_either_after_a_minute(queue: Queue) -> None:
    before = send(queue)
    send(queue)
    answered(queue, FIRST, "one:a")
    minutes_pass(queue, 30)
    assert answered(queue, AGAIN, "one:b")["result"] == "duplicate"
    assert queue.row(before)["status"] == "sent"


def test_a_failure_that_names_its_command_is_counted_once(queue: Queue) -> None:
    command = send(queue)
    failure = {"command_id": command, "outcome": "failed"}
    answered(queue, {**FIRST, **failure}, "one:a")
    queue.settle(queue.claim()["commands"])
    assert answered(queue, {**AGAIN, **failure}, "one:b")["result"] == "duplicate"
    row = queue.row(command)
    assert (row["status"], row["retry_count"]) == ("sent", 1)


def test_what_the_process_before_heard_after_another_worker_is_known_too(queue: Queue) -> None:
    first = send(queue)
    answered(queue, {"topic_id": MAC, "ref": "two:c:1", "delivery": "two#7#abc"}, "two:c")
    assert answered(queue, FIRST, "one:a")["result"] == "duplicate"
    second = send(queue)
    told = answered(queue, AGAIN, "one:b")
    assert (told["result"], told["command_id"]) == ("duplicate", str(first))
    assert queue.row(second)["status"] == "sent"


def test_the_device_may_say_the_same_again_afterwards(queue: Queue) -> None:
    before, _ = send(queue), send(queue)
    answered(queue, FIRST, "one:a")
    answered(queue, AGAIN, "one:b")
    fresh = {"topic_id": MAC, "ref": "one:b:2", "delivery": "one#901#abc"}
    assert answered(queue, fresh, "one:b")["result"] == "acknowledged"
    assert queue.row(before)["status"] == "acknowledged"


def test_one_that_nobody_recorded_counts(queue: Queue) -> None:
    command = send(queue)
    assert answered(queue, AGAIN, "one:b")["result"] == "acknowledged"
    assert queue.row(command)["status"] == "acknowledged"


@pytest.mark.parametrize(
    "changes",
    [{"redelivered": False}, {"delivery": "one#901#abc"}, {"delivery": "two#900#abc"}, {"delivery": None}],
)
def test_another_message_is_another_answer(queue: Queue, changes: Row) -> None:
    send(queue)
    answered(queue, FIRST, "one:a")
    send(queue)
    assert answered(queue, {**AGAIN, **changes}, "one:b")["result"] == "acknowledged"


def test_a_delivery_is_forgotten_after_an_hour(queue: Queue) -> None:
    send(queue)
    answered(queue, FIRST, "one:a")
    minutes_pass(queue, 61)
    send(queue)
    assert answered(queue, AGAIN, "one:b")["result"] == "acknowledged"
