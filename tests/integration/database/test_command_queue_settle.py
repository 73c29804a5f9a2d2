"""What becomes of claimed commands: sent, failed and tried again, or given back; and only by their holder."""

from datetime import timedelta

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, about, locked_devices


def test_a_sent_command_has_its_time_of_delivery_and_no_lease(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    [settled] = queue.settle(queue.claim()["commands"], no_listener=True)
    assert settled == {
        "command_id": str(command), "result": "settled", "status": "sent", "retry_count": 0, "final": False,
    }  # fmt: skip
    row = queue.row(command)
    assert (row["status"], row["due_at"], row["lease_worker"], row["lease_until"]) == (
        "sent",
        None,
        None,
        None,
    )
    assert about(row["delivered_at"], queue.now())
    assert row["no_listener"] is True


def test_a_notice_is_about_the_last_sending_and_no_error(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.settle(claimed, notice="it is past")
    row = queue.row(command)
    assert (row["delivery_notice"], row["last_error"]) == ("it is past", None)
    queue.connection.execute(
        "update device_commands set status = 'pending' where command_id = %s", (command,)
    )
    queue.settle(queue.claim()["commands"])
    assert queue.row(command)["delivery_notice"] is None


def test_a_notice_is_kept_where_the_answer_overtook_the_settling(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.acknowledge({"topic_id": "d1", "command_id": str(command)})
    assert queue.row(command)["status"] == "acknowledged"
    queue.settle(claimed, notice="it is past")
    assert queue.row(command)["delivery_notice"] == "it is past"


def test_a_failure_is_counted_and_tried_again_after_the_delay(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    [settled] = queue.settle(queue.claim()["commands"], "failed", error="broker said no", delay=45)
    assert (settled["status"], settled["retry_count"], settled["final"]) == ("failed", 1, False)
    row = queue.row(command)
    assert row["last_error"] == "broker said no"
    assert about(row["due_at"], queue.now() + timedelta(seconds=45))
    assert queue.claim_ids() == []


def test_after_three_failures_it_stays_failed(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    finals = [queue.settle(queue.claim()["commands"], "failed", delay=0)[0]["final"] for _ in range(3)]
    assert finals == [False, False, True]
    assert queue.claim_ids() == []
    row = queue.row(command)
    assert (row["status"], row["retry_count"], row["due_at"]) == ("failed", 3, None)


def test_a_failure_that_cannot_be_mended_is_final(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    [settled] = queue.settle(
        queue.claim()["commands"], "failed", retry=False, error="cannot be encoded", delay=0
    )
    assert (settled["final"], settled["retry_count"]) == (True, 1)
    assert queue.row(command)["due_at"] is None


def test_a_success_after_a_failure_clears_the_error(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.settle(queue.claim()["commands"], "failed", error="x", delay=0)
    queue.settle(queue.claim()["commands"])
    assert queue.row(command)["last_error"] is None


def test_a_released_command_is_not_counted_and_takes_its_old_place(queue: Queue) -> None:
    device = queue.device("d1")
    first = queue.command(device)
    claimed = queue.claim()["commands"]
    second = queue.command(device)
    [settled] = queue.settle(claimed, "released")
    assert (settled["status"], settled["retry_count"]) == ("pending", 0)
    again = queue.claim("w2")["commands"]
    assert [c["command_id"] for c in again] == [str(first), str(second)]
    assert again[0]["attempt"] == 2


@pytest.mark.parametrize("outcome", ["sent", "failed", "released"])
def test_a_settlement_whose_response_was_lost_is_settled_again_and_changes_nothing(
    queue: Queue, outcome: str
) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    first = queue.settle(claimed, outcome, delay=0)
    before = queue.row(command)
    assert queue.settle(claimed, outcome, delay=0) == first
    assert first[0]["result"] == "settled"
    assert queue.row(command) == before


@pytest.mark.parametrize(("outcome", "other"), [("sent", "failed"), ("failed", "sent"), ("released", "sent")])
def test_what_was_settled_otherwise_is_stale(queue: Queue, outcome: str, other: str) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.settle(claimed, outcome)
    before = queue.row(command)
    assert queue.settle(claimed, other)[0]["result"] == "stale"
    assert queue.row(command) == before


def test_the_same_command_twice_in_one_call_counts_once(queue: Queue) -> None:
    queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    settled = queue.settle(claimed * 2, "failed")
    assert [(s["result"], s["retry_count"]) for s in settled] == [("settled", 1), ("stale", 1)]


@pytest.mark.parametrize("outcome", ["sent", "failed", "released"])
def test_a_worker_that_lost_its_lease_changes_nothing_of_its_successors(queue: Queue, outcome: str) -> None:
    command = queue.command(queue.device("d1"))
    old = queue.claim("w1")["commands"]
    queue.lapse(command)
    queue.claim("w2")
    before = queue.row(command)
    assert queue.settle(old, outcome, "w1")[0]["result"] == "stale"
    assert queue.row(command) == before


def test_a_worker_that_lost_and_regained_a_command_cannot_settle_its_old_attempt(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    old = queue.claim("w1")["commands"]
    queue.lapse(command)
    new = queue.claim("w1")["commands"]
    assert queue.settle(old, "failed")[0]["result"] == "stale"
    assert queue.settle(new)[0]["result"] == "settled"


def test_a_lapsed_lease_that_nobody_took_can_still_be_settled(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.lapse(command)
    assert queue.settle(claimed)[0]["result"] == "settled"


@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_what_a_person_decided_while_a_command_was_published_stands(queue: Queue, status: str) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.change(command, f"status = '{status}', due_at = null")
    [settled] = queue.settle(claimed)
    assert (settled["result"], settled["status"], settled["final"]) == ("stale", status, True)
    assert queue.row(command)["status"] == status


def test_a_worker_cannot_settle_what_another_holds(queue: Queue) -> None:
    queue.command(queue.device("d1"))
    claimed = queue.claim("w1")["commands"]
    assert queue.settle(claimed, worker="w2")[0]["result"] == "stale"


def test_a_command_that_was_given_back_cannot_be_settled_afterwards(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.settle(claimed, "released")
    assert queue.settle(claimed)[0]["result"] == "stale"
    assert queue.row(command)["status"] == "pending"


def test_an_answer_that_came_before_the_settling_stands(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    queue.acknowledge({"topic_id": "d1", "command_id": command})
    before = queue.row(command)
    [settled] = queue.settle(claimed)
    assert (settled["result"], settled["status"], settled["final"]) == ("settled", "acknowledged", True)
    assert queue.row(command) == before
    assert before["delivered_at"] is not None


def test_results_come_back_in_the_order_given(queue: Queue) -> None:
    device = queue.device("d1")
    for _ in range(50):
        queue.command(device)
    claimed = queue.claim()["commands"][::-1]
    assert [s["command_id"] for s in queue.settle(claimed)] == [c["command_id"] for c in claimed]


def test_nothing_to_settle_is_no_fault(queue: Queue) -> None:
    assert queue.settle([]) == []


def test_an_unknown_command_is_stale(queue: Queue) -> None:
    unknown = {"command_id": "00000000-0000-4000-8000-000000000000", "attempt": 1}
    [settled] = queue.settle([unknown])
    assert (settled["result"], settled["status"]) == ("stale", None)


def test_a_locked_device_is_not_waited_for_without_end(queue: Queue) -> None:
    queue.command(queue.device("d1"))
    claimed = queue.claim()["commands"]
    with locked_devices(queue), pytest.raises(psycopg.errors.LockNotAvailable):
        queue.settle(claimed)
    assert queue.settle(claimed)[0]["result"] == "settled"
