"""An answer without an id is for what the device was sent last, be it a command or a reply without a row."""

from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.integration.database.queue_calls import Queue, Row, emptied

MAC = "AA:BB:CC:DD:EE:FF"


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    made = Queue(emptied(shared))
    made.device(MAC)
    return made


def device_of(queue: Queue) -> UUID:
    [row] = queue.rows("select device_id from devices")
    device: UUID = row["device_id"]
    return device


def sent(queue: Queue, command_type: str = "capture_image") -> UUID:
    command = queue.command(device_of(queue), command_type)
    queue.settle(queue.claim()["commands"])
    return command


def said(queue: Queue, reply_type: str = "set_wake_schedule", reply_id: UUID | None = None) -> int:
    """How many replies were noted by this call."""
    reply = {
        "reply_id": str(reply_id or uuid4()),
        "device_id": str(device_of(queue)),
        "reply_type": reply_type,
    }
    answer = queue.call("fn_record_replies", p_worker="a:x", p_replies=Jsonb([reply]))
    noted: int = answer["recorded"]
    return noted


def answered(queue: Queue, worker: str = "a:x", **ack: object) -> Row:
    [answer] = queue.acknowledge({"topic_id": MAC, **ack}, worker=worker)
    return answer


def replies(queue: Queue) -> list[str]:
    return [
        row["reply_type"]
        for row in queue.rows("select reply_type from mqtt_private.replies order by sent_at")
    ]


def test_an_answer_after_a_reply_is_for_the_reply(queue: Queue) -> None:
    """Fails without fn_find_acknowledged_reply: a command that is not done becomes acknowledged."""
    command = sent(queue)
    said(queue)
    answer = answered(queue)
    assert (answer["result"], answer["command_id"], answer["command_type"]) == (
        "reply",
        None,
        "set_wake_schedule",
    )
    assert queue.row(command)["status"] == "sent"
    assert answered(queue)["command_id"] == str(command)


def test_whichever_worker_hears_it_and_all_of_them_once(queue: Queue) -> None:
    command = sent(queue)
    said(queue)
    said(queue, "send_image")
    results = [answered(queue, worker)["result"] for worker in ("b:y", "a:x", "c:z") * 2]
    assert results == ["reply", "duplicate", "duplicate"] * 2
    assert queue.row(command)["status"] == "sent"


def test_an_answer_after_a_command_is_for_the_command(queue: Queue) -> None:
    said(queue)
    command = sent(queue)
    assert answered(queue)["command_id"] == str(command)
    assert answered(queue)["result"] == "reply"


def test_a_type_names_which_of_them_is_meant(queue: Queue) -> None:
    command = sent(queue, command_type="reboot")
    said(queue, "send_image")
    assert answered(queue, command_type="reboot")["command_id"] == str(command)
    assert answered(queue, command_type="capture_image")["result"] == "unknown_command"
    assert answered(queue, command_type="send_image")["result"] == "reply"


def test_an_id_never_means_a_reply(queue: Queue) -> None:
    command = sent(queue)
    said(queue)
    assert answered(queue, command_id=str(command))["result"] == "acknowledged"
    assert replies(queue) == ["set_wake_schedule"]


def test_a_command_that_may_never_arrive_makes_way_for_a_reply(queue: Queue) -> None:
    """The device was told to sleep, and this worker is about to publish: the answer is not to that."""
    said(queue)
    command = queue.command(device_of(queue))
    queue.claim("a:x")
    assert answered(queue)["result"] == "reply"
    assert queue.row(command)["status"] == "pending"
    assert answered(queue)["command_id"] == str(command)


def test_while_another_worker_is_sending_an_answer_is_asked_about_again(queue: Queue) -> None:
    """Fails without fn_is_early: what the device was sent before would be taken for done."""
    before, command = sent(queue), queue.command(device_of(queue))
    claimed = queue.claim("b:y")["commands"]
    assert answered(queue, ref="a:x:1")["result"] == "early"
    assert answered(queue, command_id=str(before), outcome="failed")["result"] == "failed"
    queue.settle(claimed, worker="b:y")
    assert answered(queue, ref="a:x:1")["command_id"] == str(command)


def test_that_is_not_asked_for_longer_than_a_sending_takes(queue: Queue) -> None:
    command = queue.command(device_of(queue))
    queue.claim("b:y")
    assert answered(queue, received_seconds_ago=6)["command_id"] == str(command)


def test_an_answer_to_what_is_due_again_is_for_that_and_not_for_an_older_command(queue: Queue) -> None:
    """Fails where only what is `sent` can be meant: the device woke before its answer was heard."""
    sent(queue)
    newer = sent(queue)
    queue.change(newer, "status = 'pending'")
    assert answered(queue)["command_id"] == str(newer)
    assert queue.row(newer)["status"] == "acknowledged"


def test_an_answer_to_what_was_given_back_is_for_that(queue: Queue) -> None:
    """The broker's word for it did not come, and the device has it."""
    command = queue.command(device_of(queue))
    queue.settle(queue.claim()["commands"], "released")
    assert answered(queue)["command_id"] == str(command)


def test_an_answer_to_what_was_cancelled_is_for_no_older_command(queue: Queue) -> None:
    older, newer = sent(queue), sent(queue)
    queue.change(newer, "status = 'pending'")
    queue.change(newer, "status = 'cancelled'")
    assert answered(queue)["result"] == "ignored"
    assert queue.row(older)["status"] == "sent"


def age(queue: Queue, seconds: int) -> None:
    """Make it so long ago that something was said."""
    queue.connection.execute(
        "update mqtt_private.replies set sent_at = sent_at - make_interval(secs => %s)", [seconds]
    )


def test_a_reply_that_was_lost_does_not_keep_a_quick_answer_from_its_command(queue: Queue) -> None:
    """Fails where any old reply goes before a command that is being sent: its answer would be lost."""
    said(queue)
    age(queue, 10)
    command = queue.command(device_of(queue))
    queue.claim("a:x")
    assert answered(queue)["command_id"] == str(command)


def test_what_was_said_long_ago_or_only_afterwards_is_not_what_is_answered(queue: Queue) -> None:
    said(queue)
    assert answered(queue, received_seconds_ago=60)["result"] == "unknown_command"
    age(queue, 100)
    assert answered(queue)["result"] == "unknown_command"
    assert answered(queue, received_seconds_ago=60)["result"] == "reply"


def test_a_call_that_is_repeated_notes_nothing_new(queue: Queue) -> None:
    reply_id = uuid4()
    assert [said(queue, reply_id=reply_id) for _ in range(2)] == [1, 0]
    assert len(replies(queue)) == 1


def test_a_device_that_is_gone_is_passed_over(queue: Queue) -> None:
    reply = {"reply_id": str(uuid4()), "device_id": str(uuid4()), "reply_type": "reboot"}
    answer = queue.call("fn_record_replies", p_worker="a:x", p_replies=Jsonb([reply]))
    assert answer == {"recorded": 0}


def test_what_nobody_answered_is_forgotten_after_what_a_session_can_keep(queue: Queue) -> None:
    for kind in ("send_image", "capture_image"):
        said(queue, kind)
    queue.connection.execute(
        "update mqtt_private.replies set sent_at = now() - interval '71 min' where reply_type = 'send_image'"
    )
    said(queue)
    assert replies(queue) == ["capture_image", "set_wake_schedule"]


def test_people_cannot_look_at_replies_or_note_any(queue: Queue) -> None:
    for role in ("anon", "authenticated"):
        [row] = queue.rows(
            f"select has_table_privilege('{role}', 'mqtt_private.replies', 'select, insert, delete') as look,"
            f" has_function_privilege('{role}', 'public.fn_record_replies(text, jsonb)', 'execute') as note"
        )
        assert row == {"look": False, "note": False}


def over(queue: Queue, command: UUID, status: str) -> None:
    """The command failed for good, or expired, after it was sent."""
    if status == "expired":
        queue.connection.execute(
            "update device_commands set expires_at = now() where command_id = %s", [command]
        )
        queue.claim()
    else:
        failure = {"topic_id": MAC, "command_id": str(command), "outcome": "failed", "response": {"id": 1}}
        queue.acknowledge(failure, delay=3600)
    assert queue.row(command)["status"] == status


@pytest.mark.parametrize("status", ["expired", "failed"])
def test_a_late_answer_without_an_id_is_for_what_was_sent_last(queue: Queue, status: str) -> None:
    """Fails without the last step of fn_find_command_sent_last: what the device did stays expired."""
    command = sent(queue)
    over(queue, command, status)
    answer = answered(queue)
    assert (answer["result"], answer["command_id"]) == ("acknowledged", str(command))
    assert queue.row(command)["status"] == "acknowledged"


def test_one_that_was_answered_since_has_had_its_answer(queue: Queue) -> None:
    expired = sent(queue)
    over(queue, expired, "expired")
    last = sent(queue)
    assert answered(queue)["command_id"] == str(last)
    assert answered(queue)["result"] == "unknown_command"
    assert queue.row(expired)["status"] == "expired"


def test_a_late_answer_is_for_what_expired_and_not_for_an_older_command(queue: Queue) -> None:
    waiting, later = sent(queue), sent(queue)
    over(queue, later, "expired")
    assert answered(queue)["command_id"] == str(later)
    assert answered(queue)["command_id"] == str(waiting)


def test_what_was_not_said_after_all_takes_no_answer(queue: Queue) -> None:
    reply_id = uuid4()
    said(queue, reply_id=reply_id)
    reply = {
        "reply_id": str(reply_id), "device_id": str(device_of(queue)), "reply_type": "x", "withdrawn": True
    }  # fmt: skip
    for _ in range(2):
        queue.call("fn_record_replies", p_worker="a:x", p_replies=Jsonb([reply]))
    assert answered(queue)["result"] == "unknown_command"
