"""An answer is used once: whether its call is repeated, or two workers hear it."""

from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, locked_devices

MAC = "AA:BB:CC:DD:EE:FF"


def sent(queue: Queue, count: int) -> list[UUID]:
    """Commands of one device, sent one after the other."""
    device = queue.device(MAC)
    commands = []
    for _ in range(count):
        commands.append(queue.command(device))
        queue.settle(queue.claim()["commands"])
    return commands


def heard(queue: Queue, ref: str, worker: str | None, **ack: object) -> Row:
    [answer] = queue.acknowledge({"ref": ref, "topic_id": MAC, **ack}, worker=worker)
    return answer


def acknowledged(queue: Queue) -> int:
    return len(queue.rows("select from device_commands where status = 'acknowledged'"))


def answers(queue: Queue) -> list[str]:
    return [row["ref"] for row in queue.rows("select ref from mqtt_private.acknowledgements order by ref")]


@pytest.mark.parametrize("worker", ["a", None])
def test_a_call_whose_response_was_lost_gets_the_same_answer_and_changes_nothing(
    queue: Queue, worker: str | None
) -> None:
    sent(queue, 2)
    first = heard(queue, "a:1", worker)
    assert heard(queue, "a:1", worker) == first
    assert first["result"] == "acknowledged"
    assert acknowledged(queue) == 1


def test_the_same_ref_twice_in_one_call_is_used_once(queue: Queue) -> None:
    sent(queue, 2)
    ack = {"ref": "a:1", "topic_id": MAC}
    first, second = queue.acknowledge(ack, ack)
    assert first == second
    assert acknowledged(queue) == 1


def test_a_failure_is_counted_once_even_if_the_command_was_sent_again_meanwhile(queue: Queue) -> None:
    [command] = sent(queue, 1)
    ack = {"ref": "a:1", "topic_id": MAC, "command_id": command, "outcome": "failed"}
    first = queue.acknowledge(ack, delay=0)
    queue.settle(queue.claim()["commands"])
    assert queue.acknowledge(ack, delay=0) == first
    row = queue.row(command)
    assert (row["status"], row["retry_count"]) == ("sent", 1)


def test_one_message_that_two_workers_hear_acknowledges_one_command(queue: Queue) -> None:
    sent(queue, 2)
    first = heard(queue, "a:1", "a")
    assert heard(queue, "b:1", "b") == {**first, "ref": "b:1", "result": "duplicate"}
    assert acknowledged(queue) == 1
    again = heard(queue, "b:1", "b")
    assert again["result"] == "duplicate"


def test_the_same_words_for_each_command_acknowledge_each_whoever_is_first(queue: Queue) -> None:
    sent(queue, 4)
    order = [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("a", 4), ("b", 3), ("b", 4)]
    results = [heard(queue, f"{worker}:{n}", worker)["result"] for worker, n in order]
    assert results == ["acknowledged", "duplicate"] * 2 + ["acknowledged"] * 2 + ["duplicate"] * 2
    assert acknowledged(queue) == 4


def test_a_third_worker_brings_nothing_new_either(queue: Queue) -> None:
    sent(queue, 3)
    for n in (1, 2):
        assert heard(queue, f"a:{n}", "a")["result"] == "acknowledged"
        assert heard(queue, f"b:{n}", "b")["result"] == "duplicate"
        assert heard(queue, f"c:{n}", "c")["result"] == "duplicate"
    assert acknowledged(queue) == 2


def test_one_worker_that_hears_the_same_words_twice_heard_two_answers(queue: Queue) -> None:
    sent(queue, 2)
    assert [heard(queue, f"a:{n}", "a")["result"] for n in (1, 2)] == ["acknowledged"] * 2


def test_other_words_are_another_answer(queue: Queue) -> None:
    sent(queue, 2)
    heard(queue, "a:1", "a", response={"status": "ok", "n": 1})
    assert heard(queue, "b:1", "b", response={"status": "ok", "n": 2})["result"] == "acknowledged"


def test_what_a_shared_subscription_brings_was_heard_by_no_other_worker(queue: Queue) -> None:
    sent(queue, 2)
    heard(queue, "a:1", "a", shared=True)
    assert heard(queue, "b:1", "b", shared=True)["result"] == "acknowledged"


def time_passes(queue: Queue, minutes: int, where: str = "true") -> None:
    """Since what was answered so far."""
    queue.connection.execute(
        f"update mqtt_private.acknowledgements set received_at = received_at - interval '{minutes} min'"
        f" where {where}"
    )


def another_is_sent(queue: Queue) -> UUID:
    [row] = queue.rows("select device_id from devices")
    command = queue.command(row["device_id"])
    queue.settle(queue.claim()["commands"])
    return command


def test_what_a_session_kept_for_an_hour_does_not_count_for_what_was_sent_since(queue: Queue) -> None:
    """Fails where an echo is known for a minute alone, or only while nothing else was sent."""
    sent(queue, 1)
    heard(queue, "a:x:1", "a:x")
    time_passes(queue, 60)
    fresh = another_is_sent(queue)
    assert heard(queue, "b:y:1", "b:y")["result"] == "duplicate"
    assert queue.row(fresh)["status"] == "sent"
    assert heard(queue, "b:y:2", "b:y")["result"] == "acknowledged"


def test_after_what_a_session_can_keep_the_same_words_are_a_new_answer(queue: Queue) -> None:
    sent(queue, 2)
    heard(queue, "a:1", "a")
    time_passes(queue, 71)
    assert heard(queue, "b:1", "b")["result"] == "acknowledged"


def test_a_time_that_ends_between_two_workers_loses_no_answer(queue: Queue) -> None:
    sent(queue, 2)
    heard(queue, "a:1", "a")
    heard(queue, "b:1", "b")
    time_passes(queue, 71, "worker = 'a'")
    assert heard(queue, "a:2", "a")["result"] == "acknowledged"
    assert heard(queue, "b:2", "b")["result"] == "duplicate"


def test_a_process_goes_on_in_its_predecessors_session(queue: Queue) -> None:
    """Fails where a process counts instead of a session: the new one takes news for a known answer."""
    commands = sent(queue, 3)
    assert heard(queue, "a:x:1", "a:x")["result"] == "acknowledged"
    assert heard(queue, "b:y:1", "b:y")["result"] == "duplicate"
    assert heard(queue, "b:z:1", "b:z")["result"] == "acknowledged"
    assert heard(queue, "a:x:2", "a:x")["result"] == "duplicate"
    assert [queue.row(command)["status"] for command in commands] == ["sent", "acknowledged", "acknowledged"]


def test_what_the_predecessor_recorded_as_anothers_answer_stays_that_when_it_comes_again(
    queue: Queue,
) -> None:
    sent(queue, 3)
    heard(queue, "a:x:1", "a:x")
    heard(queue, "b:y:1", "b:y")
    assert heard(queue, "b:z:1", "b:z", redelivered=True)["result"] == "duplicate"
    assert acknowledged(queue) == 1


def test_what_the_predecessor_recorded_itself_stays_that_when_it_comes_again(queue: Queue) -> None:
    sent(queue, 2)
    heard(queue, "a:x:1", "a:x")
    assert heard(queue, "a:z:1", "a:z", redelivered=True)["result"] == "duplicate"
    assert acknowledged(queue) == 1


def test_a_new_session_did_not_hear_what_was_answered_before_it_began(queue: Queue) -> None:
    """Fails without session_seconds: a new worker's first answer would be taken for an older one."""
    sent(queue, 2)
    heard(queue, "old:x:1", "old:x")
    time_passes(queue, 1)
    assert heard(queue, "new:y:1", "new:y", session_seconds=30)["result"] == "acknowledged"
    assert acknowledged(queue) == 2


def test_what_was_heard_before_a_session_began_is_no_answer_of_it_though_recorded_later(queue: Queue) -> None:
    sent(queue, 2)
    heard(queue, "old:x:1", "old:x", received_seconds_ago=40)
    assert heard(queue, "new:y:1", "new:y", session_seconds=30)["result"] == "acknowledged"
    heard(queue, "old:x:2", "old:x", received_seconds_ago=20)
    assert acknowledged(queue) == 2


def test_two_workers_at_once_use_one_answer(queue: Queue) -> None:
    sent(queue, 2)
    with queue.another() as other, queue.connection.transaction():
        other.connection.execute("set statement_timeout = '20 s'")  # else it might wait for this very test
        heard(queue, "a:1", "a")
        with pytest.raises(psycopg.errors.LockNotAvailable):  # it waits for the first
            heard(other, "b:1", "b")
    assert heard(queue, "b:1", "b")["result"] == "duplicate"


def test_answers_are_forgotten_after_what_a_session_can_keep(queue: Queue) -> None:
    sent(queue, 1)
    for n in (1, 2):
        heard(queue, f"a:{n}", "a")
    queue.connection.execute(
        "update mqtt_private.acknowledgements set received_at = now() - interval '71 min' where ref = 'a:1'"
    )
    heard(queue, "a:3", "a")
    assert answers(queue) == ["a:2", "a:3"]


def test_a_call_forgets_no_more_than_a_thousand(queue: Queue) -> None:
    queue.connection.execute(
        "insert into mqtt_private.acknowledgements (ref, worker, received_at)"
        " select n, 'a', now() - interval '2 h' from generate_series(1, 1500) n"
    )
    queue.acknowledge()
    assert len(answers(queue)) == 500


def test_a_locked_device_is_not_waited_for_without_end(queue: Queue) -> None:
    sent(queue, 1)
    with locked_devices(queue), pytest.raises(psycopg.errors.LockNotAvailable):
        heard(queue, "a:1", "a")
    assert heard(queue, "a:1", "a")["result"] == "acknowledged"


def test_people_cannot_look_at_the_answers(queue: Queue) -> None:
    table = "mqtt_private.acknowledgements"
    for role in ("anon", "authenticated"):
        [row] = queue.rows(
            f"select has_table_privilege('{role}', '{table}', 'select, insert, delete') as may"
        )
        assert row["may"] is False


def test_the_function_of_an_earlier_version_is_gone(queue: Queue) -> None:
    rows = queue.rows("select oid::regprocedure::text from pg_proc where proname = 'fn_acknowledge_commands'")
    assert rows == [{"oid": "fn_acknowledge_commands(jsonb,integer,double precision,text)"}]


def test_a_failure_that_another_worker_hears_late_is_counted_once_though_it_names_its_command(
    queue: Queue,
) -> None:
    """Fails where only answers without an id have echoes: the command, sent again, would fail once more."""
    [command] = sent(queue, 1)
    failure = {"command_id": command, "outcome": "failed", "response": {"command_id": str(command)}}
    queue.acknowledge({"ref": "a:x:1", "topic_id": MAC, **failure}, worker="a:x", delay=0)
    queue.settle(queue.claim()["commands"])
    assert heard(queue, "b:y:1", "b:y", **failure)["result"] == "duplicate"
    assert (queue.row(command)["status"], queue.row(command)["retry_count"]) == ("sent", 1)
    queue.acknowledge({"ref": "a:x:2", "topic_id": MAC, **failure}, worker="a:x", delay=0)
    assert queue.row(command)["retry_count"] == 2
