"""Readings without a picture: each message is one row, whoever brings it and however often."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.integration.database.existing_project import MAC as THEIRS
from tests.integration.database.existing_project import Project
from tests.integration.database.queue_calls import Queue, Row, about, copied, emptied

MAC = "AA:BB:CC:DD:EE:FF"
NOON = "2026-11-07T12:00:00+00:00"
SAID = {"topic_id": MAC, "temperature": 20.0, "metadata": {"temperature": 20.0}}
TIMED = {**SAID, "captured_at": NOON, "metadata": {"temperature": 20.0, "timestamp": NOON}}


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    made = Queue(emptied(shared))
    made.device(MAC)
    return made


@pytest.fixture
def project(server_url: str, adopted_template: str) -> Iterator[Project]:
    with copied(server_url, adopted_template) as connection:
        yield Project(connection)


def results(answers: list[Row]) -> list[str]:
    return [answer["result"] for answer in answers]


def kept(queue: Queue) -> list[Row]:
    return queue.rows("select * from device_telemetry order by captured_at, created_at")


def records(queue: Queue) -> int:
    [row] = queue.rows("select count(*)::int as n from mqtt_private.acknowledgements")
    n: int = row["n"]
    return n


def minutes_pass(queue: Queue, minutes: int) -> None:
    queue.connection.execute(
        "update mqtt_private.acknowledgements set received_at = received_at - make_interval(mins => %s)",
        (minutes,),
    )


# One message, one row


def test_readings_are_a_row_without_a_picture_at_their_time(queue: Queue) -> None:
    [told] = queue.readings({**TIMED, "humidity": 45.5, "pressure": 1010.0, "gas_resistance": 15.25})
    assert (told["result"], told["device_code"], told["warnings"]) == ("recorded", f"CODE-{MAC}", [])
    [row] = kept(queue)
    assert (row["temperature"], row["humidity"], row["pressure"], row["gas_resistance"]) == (
        20.0,
        45.5,
        1010.0,
        15.25,
    )
    assert (row["image_id"], row["captured_at"]) == (None, datetime(2026, 11, 7, 12, tzinfo=UTC))


def test_readings_without_a_time_are_of_when_they_were_received(queue: Queue) -> None:
    queue.readings({**SAID, "received_seconds_ago": 90})
    [row] = kept(queue)
    assert about(row["captured_at"], queue.now() - timedelta(seconds=90))


def test_no_visit_begins(queue: Queue) -> None:
    queue.readings(TIMED)
    assert queue.rows("select from mqtt_private.visits") == []


def test_many_are_answered_in_their_order(queue: Queue) -> None:
    said = [{**SAID, "ref": f"r{n}", "metadata": {"n": n}, "temperature": float(n)} for n in range(30)]
    answers = queue.readings(*said)
    assert [answer["ref"] for answer in answers] == [f"r{n}" for n in range(30)]
    assert {row["temperature"] for row in kept(queue)} == set(range(30))


def test_a_device_is_known_however_its_topic_spells_it(queue: Queue) -> None:
    queue.readings({**TIMED, "topic_id": "aabbccddeeff"}, TIMED)
    assert len(kept(queue)) == 1


# The same message again


def test_the_same_ref_gets_the_same_answer_and_no_row(queue: Queue) -> None:
    said = {**SAID, "ref": "one:a:readings1"}
    first, again = queue.readings(said), queue.readings(said)
    assert first == again
    assert len(kept(queue)) == 1


def test_a_delivery_that_the_next_process_gets_again_is_no_second_row(queue: Queue) -> None:
    said = {**SAID, "delivery": "one#900#abc"}
    queue.readings(said, worker="one:a")
    minutes_pass(queue, 30)
    again = queue.readings({**said, "redelivered": True}, worker="one:b")
    assert results(again) == ["duplicate"]
    assert len(kept(queue)) == 1


@pytest.mark.parametrize(
    "changes", [{"redelivered": False}, {"delivery": "one#901#abc"}, {"delivery": "two#900#abc"}]
)
def test_another_delivery_of_the_same_words_half_an_hour_later_is_a_row(queue: Queue, changes: Row) -> None:
    said = {**SAID, "delivery": "one#900#abc"}
    queue.readings(said, worker="one:a")
    minutes_pass(queue, 30)
    assert results(queue.readings({**said, "redelivered": True, **changes}, worker="one:b")) == ["recorded"]


def test_what_every_worker_receives_is_one_row(queue: Queue) -> None:
    told = [result for worker in ("one:a", "two:b", "three:c")
            for result in results(queue.readings(SAID, worker=worker))]  # fmt: skip
    assert told == ["recorded", "duplicate", "duplicate"]
    assert len(kept(queue)) == 1


def test_the_same_words_without_a_time_count_as_often_as_one_worker_hears_them(queue: Queue) -> None:
    for worker in ("one:a", "two:b"):
        queue.readings(SAID, SAID, worker=worker)
    assert len(kept(queue)) == 2


@pytest.mark.parametrize(("ago", "result"), [(5, "duplicate"), (30, "recorded")])
def test_a_session_that_began_a_moment_ago_may_have_heard_what_another_has(
    queue: Queue, ago: float, result: str
) -> None:
    """The worker reckons how old its session is, and the database looks at it later."""
    queue.readings({**SAID, "received_seconds_ago": ago}, worker="one:a")
    assert results(queue.readings({**SAID, "session_seconds": 0.1}, worker="two:b")) == [result]


def test_words_with_their_time_count_once_however_often_a_device_says_them(queue: Queue) -> None:
    assert results(queue.readings(TIMED, TIMED, worker="one:a")) == ["recorded", "duplicate"]
    assert results(queue.readings(TIMED, worker="two:b")) == ["duplicate"]
    assert results(queue.readings({**TIMED, "metadata": {"another": "time"}})) == ["recorded"]


def test_an_answer_and_readings_in_the_same_words_are_two_things(queue: Queue) -> None:
    queue.acknowledge({"topic_id": MAC, "response": SAID["metadata"]}, worker="two:b")
    assert results(queue.readings(SAID, worker="one:a")) == ["recorded"]


def test_two_workers_at_once_make_one_row(queue: Queue) -> None:
    with queue.another() as first, queue.another() as second, ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(caller.readings, SAID, worker=worker)
            for caller, worker in ((first, "one:a"), (second, "two:b"))
        ]
        told = [result for future in both for result in results(future.result(20))]
    assert sorted(told) == ["duplicate", "recorded"]
    assert len(kept(queue)) == 1


# What is not recorded


def test_an_unknown_device_registers_itself(queue: Queue) -> None:
    [told] = queue.readings({**SAID, "topic_id": "new-1"})
    assert told["result"] == "recorded"
    [device] = queue.rows("select * from devices where device_mac = 'new-1'")
    assert [row["device_id"] for row in kept(queue)] == [device["device_id"]]


def test_a_device_that_may_not_register_is_unknown_and_costs_the_others_nothing(queue: Queue) -> None:
    said = [{**SAID, "topic_id": "new-1"}, SAID]
    assert results(queue.readings(*said, p_register=False)) == ["unknown_device", "recorded"]
    assert len(kept(queue)) == 1
    assert records(queue) == 1


def test_registrations_are_bounded_as_for_a_hello(queue: Queue) -> None:
    told = queue.readings(*({**SAID, "topic_id": f"new-{n}"} for n in range(4)), p_registrations_per_minute=2)
    assert sorted(results(told)) == ["recorded", "recorded", "unknown_device", "unknown_device"]


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_no_other_role_may_record_readings(queue: Queue, role: str) -> None:
    queue.connection.execute(f"set role {role}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        queue.connection.execute("select fn_record_lone_readings('w1', '[]')")


# What is kept


def test_no_more_records_than_of_the_last_70_minutes_are_kept(queue: Queue) -> None:
    queue.readings({**SAID, "metadata": {"n": 1}})
    minutes_pass(queue, 69)
    queue.readings({**SAID, "metadata": {"n": 2}})
    assert records(queue) == 2
    minutes_pass(queue, 2)
    queue.readings({**SAID, "metadata": {"n": 3}})
    assert records(queue) == 2
    assert len(kept(queue)) == 3


def test_a_call_forgets_at_most_a_thousand(queue: Queue) -> None:
    queue.connection.execute(
        "insert into mqtt_private.acknowledgements (ref, worker, received_at)"
        " select 'old:' || n, 'old', now() - interval '2 h' from generate_series(1, 2500) n"
    )
    left = []
    for n in range(3):
        queue.readings({**SAID, "metadata": {"n": n}})
        left.append(records(queue) - n - 1)
    assert left == [1500, 500, 0]


# A project that had the table


def test_an_adopted_table_takes_what_it_has_columns_for(project: Project) -> None:
    assert results(project.readings({**TIMED, "topic_id": THEIRS, "humidity": 45.0})) == ["recorded"]
    row = project.one("select * from device_telemetry order by created_at desc limit 1")
    assert (row["captured_at"], row["temperature"], row["humidity"]) == (
        datetime(2026, 11, 7, 12, tzinfo=UTC),
        20,
        45,
    )


def test_one_reading_that_a_check_refuses_costs_that_reading_alone(project: Project) -> None:
    [told] = project.readings({**TIMED, "topic_id": THEIRS, "humidity": 120.0})
    assert told["result"] == "recorded"
    assert ["public.device_telemetry does not take humidity" in warning for warning in told["warnings"]] == [
        True
    ]
    row = project.one("select * from device_telemetry order by created_at desc limit 1")
    assert (row["temperature"], row["humidity"]) == (20, None)


def test_a_row_that_a_trigger_refuses_is_told_and_costs_the_others_nothing(project: Project) -> None:
    project.refuse("device_telemetry", "new.captured_at = '2026-11-07T12:00:00Z'", "raise exception 'not so'",
                   when="before insert")  # fmt: skip
    later = {**TIMED, "captured_at": "2026-11-07T13:00:00+00:00", "metadata": {"n": 2}}
    refused, taken = project.readings({**TIMED, "topic_id": THEIRS}, {**later, "topic_id": THEIRS})
    assert (refused["result"], taken["result"]) == ("refused", "recorded")
    assert "not so" in refused["error"]
    assert records(project) == 1


def test_a_fault_in_a_trigger_of_the_project_is_told_and_stops_no_call(project: Project) -> None:
    project.refuse("device_telemetry", "true", "perform no_such_column from devices", when="before insert")
    [told] = project.readings({**TIMED, "topic_id": THEIRS})
    assert told["result"] == "refused"
    assert "no_such_column" in told["error"]
