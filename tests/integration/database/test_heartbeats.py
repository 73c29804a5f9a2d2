"""What a HELLO writes, who is registered by it, and what it leaves alone."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import (
    Queue,
    Row,
    about,
    emptied,
    locked_devices,
    reseeded,
    waiting,
)

MAPPED = "a0000000-0000-4000-8000-000000000031"


@pytest.fixture
def sessions(queue: Queue) -> Iterator[Callable[[int], list[Queue]]]:
    """Makes that many queues, each on a connection of its own."""
    with ExitStack() as stack:
        yield lambda count: [stack.enter_context(queue.another()) for _ in range(count)]


def device_of(queue: Queue, answer: Row) -> Row:
    [row] = queue.rows("select * from devices where device_id = %s", UUID(answer["device_id"]))
    return row


def codes(queue: Queue) -> list[str]:
    return [row["device_code"] for row in queue.rows("select device_code from devices order by 1")]


# A device that is known


def test_a_hello_writes_when_and_how_the_device_was_heard(queue: Queue) -> None:
    device = queue.device("AA:BB:CC:DD:EE:FF")
    answer = queue.hello(
        "aabbccddeeff", topic_root="ESP32CAM", firmware_version="1.2", battery_voltage=3.71, wifi_rssi=-61,
        location="ward 4", ref="r7",
    )  # fmt: skip
    assert answer == {
        "ref": "r7", "result": "known", "device_id": str(device), "device_code": "CODE-AA:BB:CC:DD:EE:FF",
        "is_active": True, "holds_lease": True, "commands": 0, "redelivered": 0, "warnings": [],
        "next_wake_at": answer["next_wake_at"],
    }  # fmt: skip
    row = device_of(queue, answer)
    assert (row["mqtt_root"], row["mqtt_id"]) == ("ESP32CAM", "aabbccddeeff")
    assert (row["firmware_version"], float(row["battery_voltage"]), row["wifi_rssi"]) == ("1.2", 3.71, -61)
    assert row["reported_location"] == "ward 4"
    assert row["device_mac"] == "AA:BB:CC:DD:EE:FF"
    assert about(row["last_seen_at"], queue.now())
    assert row["last_wake_at"] == row["last_seen_at"]
    assert row["next_wake_at"] == datetime.fromisoformat(answer["next_wake_at"]) > queue.now()


def test_what_a_hello_leaves_out_keeps_its_old_value(queue: Queue) -> None:
    queue.device("d1")
    queue.hello("d1", topic_root="ESP32CAM", firmware_version="1.2", battery_voltage=3.7, wifi_rssi=-61)
    row = device_of(queue, queue.hello("d1", topic_root="ESP32CAM", wifi_rssi=None))
    assert (row["firmware_version"], float(row["battery_voltage"]), row["wifi_rssi"]) == ("1.2", 3.7, -61)


def test_a_hello_never_activates_a_device_and_never_owes_it_a_welcome(queue: Queue) -> None:
    queue.device("d1", active=False)
    answer = queue.hello("d1")
    row = device_of(queue, answer)
    assert answer["is_active"] is False
    assert (row["is_active"], row["provisioning_status"], row["welcome_due"]) == (
        False, "pending_mapping", False,
    )  # fmt: skip
    assert queue.claim()["welcome_due"] is False


def test_the_next_wake_is_by_the_schedule_of_the_site_in_its_time_zone(queue: Queue) -> None:
    reseeded(queue.connection)
    queue.connection.execute(
        "update sites set wake_schedule_cron = '30 5 * * *', timezone = 'America/New_York'"
    )
    mac = queue.rows("select device_mac from devices where device_id = %s", UUID(MAPPED))[0]["device_mac"]
    moment = queue.hello(mac)["next_wake_at"]
    assert queue.rows(
        "select %s = fn_calculate_next_wake('30 5 * * *', now(), 'America/New_York') as same", moment
    )[0]["same"]


def test_a_schedule_that_does_not_parse_gives_twelve_hours(queue: Queue) -> None:
    queue.device("d1")
    queue.connection.execute("update devices set wake_schedule_cron = 'every morning'")
    moment = datetime.fromisoformat(queue.hello("d1")["next_wake_at"])
    assert about(moment, queue.now() + timedelta(hours=12))


def test_answers_are_in_the_order_of_the_hellos_each_under_its_ref(queue: Queue) -> None:
    for number in range(5):
        queue.device(f"d{number}")
    names = ["d3", "new", "d0", "d4", "d3"]
    answers = queue.hellos(*({"topic_id": name, "ref": f"r{n}"} for n, name in enumerate(names)))
    assert [answer["ref"] for answer in answers] == [f"r{n}" for n in range(5)]
    assert [answer["result"] for answer in answers] == ["known", "created", "known", "known", "known"]
    assert [answer["device_code"] for answer in answers][:1] == ["CODE-d3"]


def test_no_hellos_are_no_answers(queue: Queue) -> None:
    assert queue.hellos() == []


def test_due_and_leased_commands_are_counted_and_others_are_not(queue: Queue) -> None:
    device = queue.device("d1")
    for _ in range(2):
        queue.command(device)
    queue.claim(limit=1)
    queue.command(device, scheduled_for=queue.now() + timedelta(hours=1))
    queue.command(device, status="acknowledged")
    queue.command(queue.device("d2"))
    assert queue.hello("d1")["commands"] == 2


def test_commands_of_a_device_that_is_not_active_are_not_announced_since_they_will_fail(queue: Queue) -> None:
    queue.command(queue.device("d1", active=False))
    assert queue.hello("d1")["commands"] == 0


def test_a_device_that_is_there_twice_is_the_one_that_is_spelled_alike(queue: Queue) -> None:
    queue.connection.execute("drop index devices_device_key_key")
    first, second = queue.device("AA:BB:CC:DD:EE:FF"), queue.device("aabbccddeeff")
    assert queue.hello("aabbccddeeff")["device_id"] == str(second)
    assert queue.hello("AA:BB:CC:DD:EE:FF")["device_id"] == str(first)
    assert queue.hello("AABBCCDDEEFF")["result"] == "known"
    queue.connection.execute("delete from devices")
    queue.connection.execute(
        "create unique index devices_device_key_key on devices (mqtt_private.fn_device_key(device_mac))"
    )


# A device that nobody knows


def test_an_unknown_device_is_registered_to_be_mapped_with_an_event(queue: Queue) -> None:
    answer = queue.hello("b8f862f9cfb8", topic_root="ESP32CAM", battery_voltage=3.9)
    assert (answer["result"], answer["is_active"], answer["holds_lease"]) == ("created", False, True)
    row = device_of(queue, answer)
    assert (row["device_mac"], row["mqtt_id"], row["mqtt_root"]) == ("b8f862f9cfb8",) * 2 + ("ESP32CAM",)
    assert (row["provisioning_status"], row["is_active"], row["welcome_due"]) == (
        "pending_mapping", False, False,
    )  # fmt: skip
    assert (row["device_code"], float(row["battery_voltage"])) == ("DEVICE-ESP32S3-001", 3.9)
    assert about(row["self_registered_at"], queue.now())
    [event] = queue.rows("select * from device_history")
    assert (event["event_type"], event["severity"], event["device_id"]) == (
        "self_registered", "info", row["device_id"],
    )  # fmt: skip
    assert "DEVICE-ESP32S3-001" in event["description"]


def test_the_next_hello_of_a_registered_device_in_another_spelling_finds_it(queue: Queue) -> None:
    first = queue.hello("B8:F8:62:F9:CF:B8")
    again = queue.hello("b8f862f9cfb8")
    assert (again["result"], again["device_id"]) == ("known", first["device_id"])


def test_a_device_twice_in_one_call_in_two_spellings_is_registered_once(queue: Queue) -> None:
    answers = queue.hellos({"topic_id": "b8f862f9cfb8"}, {"topic_id": "B8:F8:62:F9:CF:B8"})
    assert [answer["result"] for answer in answers] == ["created", "known"]
    assert len({answer["device_id"] for answer in answers}) == 1
    assert device_of(queue, answers[0])["mqtt_id"] == "B8:F8:62:F9:CF:B8"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([], "DEVICE-ESP32S3-001"),
        (["DEVICE-ESP32S3-001", "DEVICE-ESP32S3-002"], "DEVICE-ESP32S3-003"),
        (["DEVICE-ESP32S3-007"], "DEVICE-ESP32S3-008"),
        (["DEVICE-ESP32S3-999"], "DEVICE-ESP32S3-1000"),
        (["DEVICE-ESP32S3-1000", "DEVICE-ESP32S3-999"], "DEVICE-ESP32S3-1001"),
        (["DEVICE-ESP32S3-0009"], "DEVICE-ESP32S3-010"),
        (["OLD-1", "DEVICE-ESP32S3-x", "DEVICE-ESP32S3-4x", "device-esp32s3-9", ""], "DEVICE-ESP32S3-001"),
        (["DEVICE-ESP32S3-" + "9" * 30], "DEVICE-ESP32S3-001"),
    ],
)
def test_the_next_code_is_free_whatever_codes_stand_there(
    queue: Queue, there: list[str], expected: str
) -> None:
    for code in there:
        queue.insert("devices", "device_id", device_mac=f"mac {code}", device_code=code)
    assert queue.hello("new")["device_code"] == expected


def test_eight_sessions_that_hear_forty_new_devices_register_each_once(
    sessions: Callable[[int], list[Queue]],
) -> None:
    queues = sessions(8)
    barrier = threading.Barrier(8)
    macs = [f"{number:012x}" for number in range(40)]

    def hear(number: int) -> list[Row]:
        mine = macs[number * 5 :] + macs[: number * 5]
        answers = []
        barrier.wait(timeout=10)
        for start in range(0, 40, 10):
            part = [{"topic_id": mac.upper() if number % 2 else mac} for mac in mine[start : start + 10]]
            answers += queues[number].hellos(*part, worker=f"w{number}")
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for part in pool.map(hear, range(8), timeout=60) for answer in part]

    assert codes(queues[0]) == [f"DEVICE-ESP32S3-{number:03}" for number in range(1, 41)]
    assert queues[0].rows("select count(*) from device_history") == [{"count": 40}]
    assert sorted(answer["result"] for answer in answers) == ["created"] * 40 + ["known"] * 280
    spoken = [answer["device_id"] for answer in answers if answer["holds_lease"]]
    assert len(spoken) == len(set(spoken)) == 40


def test_a_worker_that_waited_for_a_registration_finds_the_device(queue: Queue) -> None:
    with queue.another() as other:
        queue.connection.execute("begin")
        assert queue.hello("new")["result"] == "created"
        with waiting(other, lambda: other.hello("new", worker="w2")) as hello:
            queue.connection.execute("commit")
            answer = hello.result(timeout=10)
    assert (answer["result"], answer["holds_lease"]) == ("known", False)
    assert codes(queue) == ["DEVICE-ESP32S3-001"]


def test_a_person_who_writes_the_same_device_or_code_this_moment_is_no_fault(queue: Queue) -> None:
    for column, value in (("device_mac", "new"), ("device_code", "DEVICE-ESP32S3-001")):
        emptied(queue.connection)
        with queue.another() as person:
            person.connection.execute("begin")
            person.insert("devices", "device_id", **{"device_mac": "another", column: value})
            with waiting(queue, lambda: queue.hello("new")) as hello:
                person.connection.execute("commit")
                answer = hello.result(timeout=10)
        assert answer["result"] == ("known" if column == "device_mac" else "created")
        assert answer["device_code"] == (None if column == "device_mac" else "DEVICE-ESP32S3-002")


def test_with_registration_off_nothing_is_written_and_the_device_is_told_when_to_come_back(
    queue: Queue,
) -> None:
    [answer] = queue.hellos({"topic_id": "new", "ref": "r1"}, p_register=False)
    assert answer.pop("next_wake_at") == _default_wake(queue)
    assert answer == {
        "ref": "r1", "result": "refused", "device_id": None, "device_code": None, "is_active": False,
        "holds_lease": False, "commands": 0, "redelivered": 0, "error": None, "warnings": [],
    }  # fmt: skip
    for table in ("devices", "device_history"):
        assert queue.rows(f"select from {table}") == []
    assert queue.rows("select from mqtt_private.visits") == []


def _default_wake(queue: Queue) -> str:
    [row] = queue.rows("select to_jsonb(fn_calculate_next_wake('0 8,16 * * *', now(), 'UTC')) as moment")
    moment: str = row["moment"]
    return moment


def test_more_new_devices_in_a_minute_than_the_limit_are_refused_over_all_workers(queue: Queue) -> None:
    def hear(worker: str, *names: str) -> list[str]:
        answers = queue.hellos(
            *({"topic_id": name} for name in names), worker=worker, p_registrations_per_minute=3
        )
        return [answer["result"] for answer in answers]

    assert hear("w1", "n1", "n2") == ["created", "created"]
    assert hear("w2", "n3", "n4", "n1") == ["created", "refused", "known"]
    assert hear("w1", "n5") == ["refused"]
    queue.pass_time("1 min")
    assert hear("w1", "n4", "n5", "n6", "n7") == ["created", "created", "created", "refused"]
    assert len(codes(queue)) == 6


def test_two_workers_that_register_at_once_keep_within_one_limit(queue: Queue) -> None:
    """Fails when fn_register_unknown_devices takes no advisory lock, or does not count again under it."""
    with queue.another() as other:
        queue.connection.execute("begin")
        queue.hellos({"topic_id": "n1"}, p_registrations_per_minute=1)
        hear = waiting(other, lambda: other.hellos({"topic_id": "n2"}, p_registrations_per_minute=1))
        with hear as hellos:
            queue.connection.execute("commit")
            [answer] = hellos.result(timeout=10)
    assert answer["result"] == "refused"
    assert codes(queue) == ["DEVICE-ESP32S3-001"]


def test_two_workers_that_register_at_once_take_two_codes_also_where_codes_are_not_unique(
    queue: Queue,
) -> None:
    """Fails when fn_register_unknown_devices takes no advisory lock."""
    queue.connection.execute("drop index devices_device_code_key")
    with queue.another() as other:
        queue.connection.execute("begin")
        queue.hello("n1")
        with waiting(other, lambda: other.hello("n2")) as hello:
            queue.connection.execute("commit")
            hello.result(timeout=10)
    queue.connection.execute("create unique index devices_device_code_key on devices (device_code)")
    assert codes(queue) == ["DEVICE-ESP32S3-001", "DEVICE-ESP32S3-002"]


def test_devices_that_a_person_writes_do_not_count_towards_the_limit(queue: Queue) -> None:
    for number in range(3):
        queue.device(f"d{number}")
    [answer] = queue.hellos({"topic_id": "new"}, p_registrations_per_minute=1)
    assert answer["result"] == "created"


def test_the_limit_is_looked_up_in_an_index(queue: Queue) -> None:
    queue.connection.execute(
        "insert into devices (device_mac) select 'd' || n from generate_series(1, 5000) n"
    )
    plan = queue.rows(
        "explain select count(*) from devices where self_registered_at > now() - interval '1 minute'"
    )
    assert "devices_self_registered_at_idx" in str(plan)


# What is hostile or refused


@pytest.mark.parametrize("topic_id", ["", None, 7, "a" * 256, "+/#", "' or 1=1 --", "😀", "%", "A A"])
def test_any_id_is_a_row_or_a_refusal_and_harms_no_other(queue: Queue, topic_id: object) -> None:
    queue.device("d1")
    answers = queue.hellos({"topic_id": topic_id}, {"topic_id": "d1"})
    assert answers[0]["result"] == ("refused" if topic_id in {"", None} else "created")
    assert answers[0]["next_wake_at"]
    assert answers[1]["result"] == "known"


def test_elements_that_are_no_objects_are_refused_in_their_place(queue: Queue) -> None:
    queue.device("d1")
    answer = queue.call(
        "fn_record_heartbeats", p_worker="w1", p_heartbeats=json.dumps([None, 3, [], {"topic_id": "d1"}])
    )
    assert [one["result"] for one in answer] == ["refused", "refused", "refused", "known"]


@pytest.mark.parametrize(
    "poison",
    [{"pending_count": "two"}, {"pending_count": 1e20}],
)
def test_a_hello_that_the_database_cannot_take_is_refused_alone_with_the_reason(
    queue: Queue, poison: Row
) -> None:
    for name in ("d1", "d2", "d3"):
        queue.device(name)
    answers = queue.hellos({"topic_id": "d1"}, {"topic_id": "d2", **poison}, {"topic_id": "d3"})
    assert [answer["result"] for answer in answers] == ["known", "refused", "known"]
    assert answers[1]["error"]
    assert (answers[1]["device_id"], answers[1]["holds_lease"]) == (None, False)
    heard = queue.rows("select device_mac from devices where last_seen_at is not null order by 1")
    assert [row["device_mac"] for row in heard] == ["d1", "d3"]


@pytest.mark.parametrize("poison", [{"battery_voltage": "much"}, {"wifi_rssi": 1e30}])
def test_a_value_that_its_column_cannot_hold_is_left_out_and_the_device_is_answered(
    queue: Queue, poison: Row
) -> None:
    queue.device("d1")
    answer = queue.hello("d1", firmware_version="1.2", **poison)
    assert (answer["result"], answer["holds_lease"]) == ("known", True)
    assert f"public.devices does not take {next(iter(poison))}: " in answer["warnings"][0]
    assert device_of(queue, answer)["firmware_version"] == "1.2"


def test_pending_names_of_any_shape_do_not_keep_a_device_from_its_answer(queue: Queue) -> None:
    queue.device("d1")
    for names in (None, "a.jpg", {"a": 1}, ["", None, 7, "a.jpg", "a.jpg"], ["x" * 10_000]):
        assert queue.hello("d1", pending_names=names)["result"] == "known"


@pytest.fixture
def strict(queue: Queue) -> Iterator[Queue]:
    """A project whose own rules refuse some rows."""
    queue.connection.execute(
        "alter table devices add constraint no_cats check (device_mac !~ 'cat');"
        " alter table devices add constraint no_leaks check (battery_voltage < 5)"
    )
    yield queue
    queue.connection.execute("alter table devices drop constraint no_cats, drop constraint no_leaks")


def test_a_projects_own_rule_refuses_one_row_and_no_other(strict: Queue) -> None:
    strict.device("d1")
    answers = strict.hellos(
        {"topic_id": "cat 1"}, {"topic_id": "n1"}, {"topic_id": "d1", "battery_voltage": 9},
        {"topic_id": "n2"}, {"topic_id": "d1"},
    )  # fmt: skip
    assert [answer["result"] for answer in answers] == [
        "refused", "created", "known", "created", "known",
    ]  # fmt: skip
    assert "no_cats" in answers[0]["error"]
    assert "does not take battery_voltage: constraint no_leaks" in answers[2]["warnings"][0]
    assert codes(strict) == ["CODE-d1", "DEVICE-ESP32S3-001", "DEVICE-ESP32S3-002"]


def test_a_worker_must_have_a_name(queue: Queue) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="p_worker"):
        queue.hello("d1", worker="")


# Locks


def test_devices_that_someone_holds_are_not_waited_for_without_end(queue: Queue) -> None:
    queue.device("d1")
    queue.device("d2")
    with locked_devices(queue), pytest.raises(psycopg.errors.LockNotAvailable):
        queue.hellos({"topic_id": "d1"}, {"topic_id": "d2"})
    assert queue.rows("select from mqtt_private.visits") == []


def test_a_device_whose_row_someone_holds_is_answered_when_its_hello_comes_alone(queue: Queue) -> None:
    queue.command(queue.device("d1"))
    queue.connection.execute("set statement_timeout = '20 s'")
    with queue.another() as person, person.connection.transaction():
        person.connection.execute("update devices set device_name = 'held'")
        answer = queue.hello("d1", battery_voltage=3.7)
        assert queue.hello("d1", worker="w2")["holds_lease"] is False
    queue.connection.execute("reset statement_timeout")
    assert (answer["result"], answer["holds_lease"], answer["commands"]) == ("known", True, 1)
    assert "another transaction of the project holds the row of this device" in answer["warnings"][0]
    assert device_of(queue, answer)["battery_voltage"] is None
    assert queue.hold("d1")[0]["holds_lease"]


def test_new_devices_heard_beside_locked_ones_end_in_no_deadlock(
    sessions: Callable[[int], list[Queue]],
) -> None:
    """Fails when fn_record_heartbeats locks devices before registrations, or not in one order."""
    queues = sessions(4)
    for number in range(30):
        queues[0].device(f"known-{number}")
    commands = [
        queues[0].command(row["device_id"]) for row in queues[0].rows("select device_id from devices")
    ]
    barrier = threading.Barrier(4)

    def hear(number: int) -> None:
        barrier.wait(timeout=10)
        names = [f"known-{n}" for n in range(30)]
        for turn in range(15):
            part = names[:: 1 if (number + turn) % 2 else -1]
            part.insert(turn % 30, f"new-{turn}")
            queues[number].hellos(
                *({"topic_id": name} for name in part), worker=f"w{number}", p_registrations_per_minute=1000
            )
            queues[number].hold(*part[::-1], worker=f"w{number}")

    def work() -> None:
        barrier.wait(timeout=10)
        for _ in range(15):
            queues[3].settle(queues[3].claim(limit=50)["commands"])
            queues[3].acknowledge(*({"topic_id": f"known-{n}"} for n in range(29, -1, -1)))
            queues[3].adopt("w9")

    with ThreadPoolExecutor(4) as pool:
        for future in [*(pool.submit(hear, n) for n in range(3)), pool.submit(work)]:
            future.result(timeout=60)
    assert len(codes(queues[0])) == 45
    assert all(queues[0].row(command)["status"] == "acknowledged" for command in commands)


def test_a_device_is_found_through_an_index_in_a_large_table(queue: Queue) -> None:
    queue.connection.execute(
        "insert into devices (device_mac) select lpad(to_hex(n), 12, '0') from generate_series(1, 5000) n"
    )
    with queue.another() as reader:
        scans = "select pg_stat_get_numscans('public.devices'::regclass) as scans"
        reader.connection.execute("select pg_stat_force_next_flush()")
        before = reader.rows(scans)[0]["scans"]
        reader.hellos(*({"topic_id": f"{n:012x}"} for n in range(1, 100)))
        reader.connection.execute("select pg_stat_force_next_flush()")
        reader.connection.execute("select pg_stat_clear_snapshot()")
        assert reader.rows(scans)[0]["scans"] == before
