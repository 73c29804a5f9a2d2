"""A command's second clock, what devices say while they are at it, and a cancelled command's last word."""

import json
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, about, copied, emptied

MAC = "AA:BB:CC:DD:EE:FF"


@pytest.fixture(scope="module")
def shared(server_url: str, migrated_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, migrated_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(emptied(shared))


def sent(queue: Queue, device: UUID, command_type: str = "reboot", **columns: object) -> UUID:
    command = queue.command(device, command_type, **columns)
    queue.settle(queue.claim()["commands"])
    return command


def say(queue: Queue, command: UUID | None, progress: object = 40, **more: object) -> Row:
    [answer] = queue.acknowledge(
        {"topic_id": MAC, "outcome": "in_progress", "command_id": command, "progress": progress,
         "response": {"progress": progress}, **more}
    )  # fmt: skip
    return answer


def run_out(queue: Queue, command: UUID) -> Row:
    """Let the command's clock run out, and a worker look."""
    queue.change(
        command, "delivered_at = now() - interval '1 day', progress_at = progress_at - interval '1 day'"
    )
    queue.claim()
    return queue.row(command)


# The clock


def test_the_clock_runs_from_when_the_command_was_sent(queue: Queue) -> None:
    command = queue.command(queue.device(MAC), execution_timeout=timedelta(minutes=10))
    assert queue.row(command)["answer_due_at"] is None
    queue.settle(queue.claim()["commands"])
    assert about(queue.row(command)["answer_due_at"], queue.now() + timedelta(minutes=10))


def test_a_row_says_more_than_its_type_and_built_in_types_say_nothing(queue: Queue) -> None:
    queue.connection.execute(
        "insert into device_command_types (command_type, execution_timeout) values ('drill', '1 hour')"
    )
    device = queue.device(MAC)
    assert about(queue.row(sent(queue, device, "drill"))["answer_due_at"], queue.now() + timedelta(hours=1))
    own = sent(queue, device, "drill", execution_timeout=timedelta(minutes=1))
    assert about(queue.row(own)["answer_due_at"], queue.now() + timedelta(minutes=1))
    assert queue.row(sent(queue, device))["answer_due_at"] is None


def test_a_device_that_was_not_listening_has_no_clock(queue: Queue) -> None:
    command = queue.command(queue.device(MAC), execution_timeout=timedelta(minutes=1))
    queue.settle(queue.claim()["commands"], no_listener=True)
    assert queue.row(command)["answer_due_at"] is None
    say(queue, command)
    row = queue.row(command)
    assert (row["no_listener"], row["answer_due_at"] is not None) == (False, True)


def test_a_device_that_is_silent_for_too_long_has_failed_and_nothing_is_done_twice(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC), execution_timeout=timedelta(minutes=90))
    queue.change(command, "delivered_at = now() - interval '1 day'")
    [failed] = queue.claim()["failed"]
    assert failed == {
        "command_id": str(command), "device_id": str(queue.row(command)["device_id"]),
        "device_code": f"CODE-{MAC}", "command_type": "reboot", "retry_count": 1, "final": True,
        "error": "the device has said nothing for 1 hour 30 mins, since it was sent this",
    }  # fmt: skip
    row = queue.row(command)
    assert (row["status"], row["due_at"], row["answer_due_at"]) == ("failed", None, None)
    assert queue.claim()["failed"] == []


def test_a_type_that_may_be_done_twice_is_tried_again(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC), "update_config", execution_timeout=timedelta(minutes=1))
    row = run_out(queue, command)
    assert (row["status"], row["retry_count"]) == ("failed", 1)
    assert about(row["due_at"], queue.now() + timedelta(seconds=30))
    queue.change(command, "due_at = now()")
    queue.settle(queue.claim()["commands"])
    assert about(queue.row(command)["answer_due_at"], queue.now() + timedelta(minutes=1))


def test_a_success_after_the_clock_ran_out_still_counts(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC), execution_timeout=timedelta(minutes=1))
    run_out(queue, command)
    queue.acknowledge({"topic_id": MAC, "command_id": command})
    assert queue.row(command)["status"] == "acknowledged"


def test_a_timeout_may_be_set_on_what_is_under_way(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    queue.change(command, "execution_timeout = '5 minutes'")
    assert about(queue.row(command)["answer_due_at"], queue.now() + timedelta(minutes=5))


@pytest.mark.parametrize("timeout", ["0", "-1 hour", "367 days"])
def test_a_timeout_that_makes_no_sense_is_refused(queue: Queue, timeout: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.command(queue.device(MAC), execution_timeout=timeout)


# Progress


def test_progress_is_shown_keeps_the_command_alive_and_is_no_answer(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC), execution_timeout=timedelta(minutes=10))
    queue.change(command, "delivered_at = now() - interval '9 minutes'")
    answer = say(queue, command, 40, message="writing")
    assert (answer["result"], answer["status"]) == ("in_progress", "sent")
    row = queue.row(command)
    assert (row["progress"], row["progress_message"], row["response"]) == (40, "writing", None)
    assert about(row["progress_at"], queue.now())
    assert about(row["answer_due_at"], queue.now() + timedelta(minutes=10))
    say(queue, command, None)
    row = queue.row(command)
    assert (row["progress"], row["progress_message"]) == (40, None)
    queue.acknowledge({"topic_id": MAC, "command_id": command})
    row = queue.row(command)
    assert (row["status"], row["progress"], row["answer_due_at"]) == ("acknowledged", 40, None)


def test_progress_without_an_id_is_for_the_command_sent_last_and_never_for_a_reply(queue: Queue) -> None:
    device = queue.device(MAC)
    command = sent(queue, device)
    reply = {"reply_id": str(uuid4()), "device_id": str(device), "reply_type": "next_wake"}
    queue.call("fn_record_replies", p_worker="w1", p_replies=json.dumps([reply]))
    assert say(queue, None)["command_id"] == str(command)
    assert queue.acknowledge({"topic_id": MAC})[0]["result"] == "reply"
    assert queue.row(command)["status"] == "sent"


def test_a_device_is_faster_than_its_worker(queue: Queue) -> None:
    command = queue.command(queue.device(MAC))
    claimed = queue.claim()["commands"]
    assert say(queue, command)["status"] == "sent"
    assert queue.settle(claimed)[0]["result"] == "settled"
    assert (queue.row(command)["status"], queue.row(command)["progress"]) == ("sent", 40)


def test_progress_withdraws_a_retry_that_waits(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC), "update_config", execution_timeout=timedelta(minutes=1))
    run_out(queue, command)
    say(queue, command, 90)
    row = queue.row(command)
    assert (row["status"], row["due_at"], row["last_error"], row["progress"]) == ("sent", None, None, 90)


def test_progress_is_not_carried_over_to_the_next_time_it_is_sent(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC), "update_config")
    say(queue, command, 90)
    queue.change(command, "status = 'pending', due_at = now()")
    queue.settle(queue.claim()["commands"])
    row = queue.row(command)
    assert (row["progress"], row["progress_at"]) == (None, None)


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_progress_after_an_end_is_noted_and_moves_nothing(queue: Queue, status: str) -> None:
    command = queue.command(queue.device(MAC))
    queue.claim()
    queue.change(command, f"status = '{status}', due_at = null")
    answer = say(queue, command)
    assert (answer["result"], answer["status"]) == ("in_progress", status)
    assert (queue.row(command)["status"], queue.row(command)["progress"]) == (status, 40)


@pytest.mark.parametrize("word", ["success", "rejected"])
def test_progress_after_the_devices_last_word_is_ignored(queue: Queue, word: str) -> None:
    command = sent(queue, queue.device(MAC))
    queue.acknowledge({"topic_id": MAC, "command_id": command, "outcome": word})
    assert say(queue, command)["result"] == "ignored"
    assert queue.row(command)["progress"] is None


def test_progress_that_was_never_sent_for_is_ignored(queue: Queue) -> None:
    command = queue.command(queue.device(MAC))
    assert say(queue, command)["result"] == "ignored"
    assert queue.row(command)["status"] == "pending"


def test_each_word_counts_once_however_many_workers_bring_it(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    word = {"topic_id": MAC, "outcome": "in_progress", "command_id": command, "response": {"progress": 25}}
    first, *_ = queue.acknowledge({**word, "progress": 25}, worker="a:1")
    say(queue, command, 50)
    late, *_ = queue.acknowledge({**word, "progress": 25}, worker="b:1")
    assert (first["result"], late["result"]) == ("in_progress", "duplicate")
    assert queue.row(command)["progress"] == 50


def test_many_devices_words_in_one_call_do_what_each_would_do_alone(queue: Queue) -> None:
    macs = [f"d{number}" for number in range(4)]
    commands = {mac: queue.command(queue.device(mac)) for mac in macs}
    queue.settle(queue.claim()["commands"])
    said: list[Row] = [
        {"topic_id": macs[0], "outcome": "in_progress", "progress": 20, "message": "half of it"},
        {"topic_id": macs[1], "outcome": "success"},
        {"topic_id": macs[2], "outcome": "in_progress"},
        {"topic_id": macs[3], "outcome": "in_progress", "progress": 5},
        {"topic_id": macs[3], "outcome": "failed"},
    ]
    answers = queue.acknowledge(
        *(
            {**one, "command_id": commands[one["topic_id"]], "response": {"n": n}}
            for n, one in enumerate(said)
        )
    )
    assert [answer["result"] for answer in answers] == [
        "in_progress", "acknowledged", "in_progress", "in_progress", "failed"
    ]  # fmt: skip
    rows = [queue.row(command) for command in commands.values()]
    assert [(row["status"], row["progress"]) for row in rows] == [
        ("sent", 20), ("acknowledged", None), ("sent", None), ("failed", 5)
    ]  # fmt: skip
    assert rows[0]["progress_message"] == "half of it"


def test_a_device_that_wakes_in_the_middle_is_not_sent_it_again_before_its_time(
    queue: Queue,
) -> None:
    command = sent(queue, queue.device(MAC), "update_config", execution_timeout=timedelta(hours=1))
    queue.change(command, "delivered_at = now() - interval '1 minute'")
    say(queue, command)
    queue.hello(MAC)
    assert queue.row(command)["status"] == "sent"
    queue.change(command, "execution_timeout = null")
    queue.hello(MAC)
    assert queue.row(command)["status"] == "pending"


# A cancelled command's last word


def test_a_cancelled_command_says_that_the_device_did_it_all_the_same(queue: Queue) -> None:
    device = queue.device(MAC)
    command = queue.command(device)
    queue.claim()
    queue.change(command, "status = 'cancelled'")
    [answer] = queue.acknowledge({"topic_id": MAC, "command_id": command, "response": {"it": "is done"}})
    assert (answer["result"], answer["status"]) == ("ignored", "cancelled")
    row = queue.row(command)
    assert (row["status"], row["response"], row["due_at"]) == ("cancelled", {"it": "is done"}, None)
    assert about(row["done_after_cancel_at"], queue.now())


def test_what_a_device_could_not_do_of_a_cancelled_command_is_kept_too(queue: Queue) -> None:
    command = queue.command(queue.device(MAC))
    queue.claim()
    queue.change(command, "status = 'cancelled'")
    queue.acknowledge({"topic_id": MAC, "command_id": command, "outcome": "failed", "response": {"no": 1}})
    row = queue.row(command)
    assert (row["status"], row["response"], row["done_after_cancel_at"]) == ("cancelled", {"no": 1}, None)


def test_an_answer_without_an_id_after_that_is_for_the_command_before(queue: Queue) -> None:
    device = queue.device(MAC)
    before, cancelled = sent(queue, device), sent(queue, device)
    queue.change(cancelled, "status = 'pending', due_at = now()")
    queue.change(cancelled, "status = 'cancelled'")
    assert [queue.acknowledge({"topic_id": MAC})[0]["command_id"] for _ in range(2)] == [
        str(cancelled), str(before)
    ]  # fmt: skip


def test_what_was_acknowledged_may_turn_out_to_have_failed(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    queue.acknowledge({"topic_id": MAC, "command_id": command})
    queue.change(command, "status = 'failed', last_error = 'the old version is back'")
    row = queue.row(command)
    assert (row["status"], row["due_at"]) == ("failed", None)
    assert queue.claim()["commands"] == []
