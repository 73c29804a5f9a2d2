"""Two sessions, a step at a time: the second waits for the first transaction, then decides on its result."""

from collections.abc import Iterator

import pytest

from tests.integration.database.queue_calls import Queue, ids, waiting


@pytest.fixture
def other(queue: Queue) -> Iterator[Queue]:
    with queue.another() as other:
        yield other


def test_a_claim_that_waited_for_another_takes_what_was_queued_meanwhile(queue: Queue, other: Queue) -> None:
    """Fails when fn_claim_commands takes now() for its clock, or no advisory lock."""
    taken = queue.command(queue.device("d1"))
    device = queue.device("d2")
    queue.connection.execute("begin")
    assert ids(queue.claim("w1")["commands"]) == [taken]
    with waiting(other, lambda: other.claim("w2")) as claim, queue.another() as person:
        queued = person.command(device)
        queue.connection.execute("commit")
        assert ids(claim.result(timeout=10)["commands"]) == [queued]


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_an_answer_that_waited_for_a_persons_or_the_queues_move_obeys_it(
    queue: Queue, other: Queue, status: str
) -> None:
    """Fails when fn_acknowledge_command decides before the row is locked."""
    command = queue.command(queue.device("d1"))
    queue.claim()
    queue.connection.execute("begin")
    queue.change(command, f"status = '{status}'")
    ack = {"topic_id": "d1", "command_id": command, "outcome": "failed"}
    with waiting(other, lambda: other.acknowledge(ack)) as answer:
        queue.connection.execute("commit")
        assert answer.result(timeout=10)[0]["result"] == "ignored"
    assert queue.row(command)["status"] == status


def test_a_settling_that_waited_for_the_answer_leaves_it(queue: Queue, other: Queue) -> None:
    """Fails when fn_settle_commands does not look at the attempt again once the row is its own."""
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.connection.execute("begin")
    queue.acknowledge({"topic_id": "d1", "outcome": "failed"})
    with waiting(other, lambda: other.settle(claimed)) as settled:
        queue.connection.execute("commit")
        assert settled.result(timeout=10)[0]["result"] == "stale"
    assert queue.row(command)["status"] == "failed"


def test_an_answer_that_waited_for_the_settling_is_taken(queue: Queue, other: Queue) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.connection.execute("begin")
    queue.settle(claimed)
    with waiting(other, lambda: other.acknowledge({"topic_id": "d1"})) as answer:
        queue.connection.execute("commit")
        assert answer.result(timeout=10)[0]["result"] == "acknowledged"
    assert queue.row(command)["status"] == "acknowledged"


def test_a_claim_does_not_wait_for_an_answer_or_a_settling_under_way(queue: Queue, other: Queue) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim("w1")["commands"]
    queue.lapse(command)
    with queue.connection.transaction():
        queue.settle(claimed, worker="w1")
        assert other.claim_ids("w2") == []
    assert queue.row(command)["status"] == "sent"
