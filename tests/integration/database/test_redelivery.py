"""What a device did not answer is delivered again when it wakes: what, when, how often, and what stays."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, emptied, ids, waiting

PAYLOADS = {
    "capture_image": "{}",
    "send_image": '{"image_name": "a.jpg"}',
    "set_wake_schedule": '{"wake_schedule_cron": "@daily"}',
    "update_config": '{"brightness": 3}',
    "reboot": "{}",
    "ping": "{}",
    "water_plants": '{"litres": 2}',
    "set_lamp": '{"lamp": "on"}',
    "update_firmware": '{"firmware_url": "https://files.example.com/firmware.bin"}',
}
# The project lists water_plants and set_lamp.
REPEATABLE = ["send_image", "set_wake_schedule", "update_config", "set_lamp"]
ONCE = ["capture_image", "reboot", "update_firmware", "ping", "water_plants"]


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    emptied(shared).execute(
        "insert into device_command_types (command_type, repeatable)"
        " values ('water_plants', false), ('set_lamp', true)"
    )
    return Queue(shared)


@pytest.fixture
def device(queue: Queue) -> UUID:
    return queue.device("d1")


def sent(queue: Queue, device: UUID, command_type: str = "update_config", **outcome: Any) -> UUID:
    """A command that the broker took and nobody answered."""
    command = queue.command(device, command_type, command_payload=PAYLOADS[command_type])
    queue.settle(queue.claim()["commands"], **outcome)
    assert queue.row(command)["status"] == "sent"
    return command


def asleep(queue: Queue) -> None:
    """The device's next HELLO is that of its next wake."""
    queue.pass_time("1 h")


def test_an_older_schedule_never_comes_after_a_newer_one(queue: Queue, device: UUID) -> None:
    older = sent(queue, device, "set_wake_schedule")
    asleep(queue)
    newer = sent(queue, device, "set_wake_schedule")
    asleep(queue)
    queue.hello("d1")
    assert queue.row(older)["status"] == "sent"
    assert queue.row(newer)["status"] == "pending"


def test_an_older_configuration_never_undoes_one_that_the_device_has_acknowledged(
    queue: Queue, device: UUID
) -> None:
    """Fails without fn_is_outdated: the device would go back to it, and the newer row say acknowledged."""
    older = sent(queue, device)
    newer = sent(queue, device)
    other_keys = queue.command(device, "update_config", command_payload='{"contrast": 1}')
    queue.settle(queue.claim()["commands"])
    queue.acknowledge({"topic_id": "d1", "command_id": str(newer)})
    asleep(queue)
    queue.hello("d1")
    assert [queue.row(command)["status"] for command in (older, newer, other_keys)] == [
        "sent", "acknowledged", "pending",
    ]  # fmt: skip


def test_of_two_schedules_of_one_transaction_the_later_stays(queue: Queue, device: UUID) -> None:
    with queue.connection.transaction():
        older, newer = (
            queue.command(device, "set_wake_schedule", command_payload=PAYLOADS["set_wake_schedule"])
            for _ in range(2)
        )
    queue.settle(queue.claim()["commands"])
    queue.acknowledge({"topic_id": "d1", "command_id": str(newer)})
    asleep(queue)
    queue.hello("d1")
    assert queue.row(older)["status"] == "sent"


@pytest.mark.parametrize("command_type", REPEATABLE)
def test_what_can_be_repeated_without_harm_is_delivered_again_under_its_id(
    queue: Queue, device: UUID, command_type: str
) -> None:
    command = sent(queue, device, command_type)
    asleep(queue)
    before = queue.row(command)
    queue.command(device, "reboot")
    hello = queue.hello("d1")
    assert (hello["commands"], hello["redelivered"]) == (2, 1)
    after = queue.row(command)
    changed = {column for column in after if after[column] != before[column]}
    assert changed == {"status", "due_at", "redelivery_count", "updated_at"}
    assert (after["status"], after["redelivery_count"], after["retry_count"]) == ("pending", 1, 0)
    handed = queue.claim()["commands"][0]
    assert (handed["command_id"], handed["attempt"]) == (str(command), 2)


@pytest.mark.parametrize("command_type", ONCE)
def test_what_could_do_harm_twice_is_never_delivered_again(
    queue: Queue, device: UUID, command_type: str
) -> None:
    command = sent(queue, device, command_type)
    asleep(queue)
    before = queue.row(command)
    assert queue.hello("d1")["commands"] == 0
    assert queue.row(command) == before


@pytest.mark.parametrize("command_type", ONCE + REPEATABLE)
def test_what_nobody_was_subscribed_to_hear_is_delivered_again_at_once(
    queue: Queue, device: UUID, command_type: str
) -> None:
    command = sent(queue, device, command_type, no_listener=True)
    assert queue.hello("d1")["commands"] == 1
    assert queue.row(command)["redelivery_count"] == 1
    queue.settle(queue.claim()["commands"])
    assert queue.row(command)["no_listener"] is False
    asleep(queue)
    assert queue.hello("d1")["commands"] == (command_type in REPEATABLE)


def test_what_was_sent_a_moment_ago_may_still_be_answered(queue: Queue, device: UUID) -> None:
    """A device that says HELLO while its command is on the way would otherwise get it twice."""
    command = sent(queue, device)
    queue.connection.execute("update device_commands set delivered_at = now() - interval '8 s'")
    queue.hello("d1")
    assert queue.row(command)["status"] == "sent"
    queue.connection.execute("update device_commands set delivered_at = now() - interval '11 s'")
    queue.hello("d1")
    assert queue.row(command)["status"] == "pending"


def test_a_command_is_delivered_again_as_often_as_the_limit_and_then_waits_for_its_answer(
    queue: Queue, device: UUID
) -> None:
    command = sent(queue, device)
    for count in (1, 2):
        asleep(queue)
        [answer] = queue.hellos({"topic_id": "d1"}, p_redelivery_limit=2)
        assert (answer["commands"], queue.row(command)["redelivery_count"]) == (1, count)
        queue.settle(queue.claim()["commands"])
    asleep(queue)
    [answer] = queue.hellos({"topic_id": "d1"}, p_redelivery_limit=2)
    assert (answer["commands"], queue.row(command)["status"]) == (0, "sent")
    queue.acknowledge({"topic_id": "d1"})
    assert queue.row(command)["status"] == "acknowledged"


def test_a_limit_of_nothing_turns_delivery_on_wake_off(queue: Queue, device: UUID) -> None:
    sent(queue, device)
    sent(queue, device, "reboot", no_listener=True)
    asleep(queue)
    [answer] = queue.hellos({"topic_id": "d1"}, p_redelivery_limit=0)
    assert answer["commands"] == 0


@pytest.mark.parametrize("outcome", ["success", "failed", "rejected"])
def test_what_was_answered_is_not_delivered_again(queue: Queue, device: UUID, outcome: str) -> None:
    command = sent(queue, device)
    queue.acknowledge({"topic_id": "d1", "outcome": outcome})
    queue.change(command, "due_at = null")
    asleep(queue)
    before = queue.row(command)
    assert queue.hello("d1")["commands"] == 0
    assert queue.row(command) == before


def test_commands_that_come_again_keep_their_place_before_new_ones(queue: Queue, device: UUID) -> None:
    first, second = sent(queue, device), sent(queue, device)
    new = queue.command(device)
    asleep(queue)
    assert queue.hello("d1")["commands"] == 3
    assert queue.claim_ids() == [first, second, new]


def test_a_device_that_is_not_active_gets_nothing_again(queue: Queue, device: UUID) -> None:
    command = sent(queue, device)
    queue.connection.execute("update devices set is_active = false")
    asleep(queue)
    queue.hello("d1")
    assert queue.row(command)["status"] == "sent"


def test_other_devices_commands_stay(queue: Queue, device: UUID) -> None:
    sent(queue, device)
    other = sent(queue, queue.device("d2"))
    asleep(queue)
    queue.hello("d1")
    assert queue.row(other)["status"] == "sent"


def test_one_wake_that_two_workers_hear_delivers_again_once(queue: Queue, device: UUID) -> None:
    command = sent(queue, device)
    asleep(queue)
    queue.hello("d1", "w1")
    queue.settle(queue.claim()["commands"])
    queue.pass_time("11 s")
    assert queue.hello("d1", "w2")["commands"] == 0
    assert (queue.row(command)["status"], queue.row(command)["redelivery_count"]) == ("sent", 1)


def test_a_hello_that_is_sent_again_after_a_lost_response_delivers_nothing_twice(
    queue: Queue, device: UUID
) -> None:
    command = sent(queue, device)
    asleep(queue)
    answers = [queue.hello("d1", ref="r1"), queue.hello("d1", ref="r1")]
    queue.settle(queue.claim()["commands"])
    answers.append(queue.hello("d1", ref="r1"))
    assert [(answer["holds_lease"], answer["commands"]) for answer in answers] == [
        (True, 1), (True, 1), (True, 0),
    ]  # fmt: skip
    assert (queue.row(command)["status"], queue.row(command)["redelivery_count"]) == ("sent", 1)


def test_a_command_whose_time_is_over_expires_and_is_not_published_again(queue: Queue, device: UUID) -> None:
    command = sent(queue, device)
    asleep(queue)
    queue.change(command, "issued_at = now() - interval '25 h'")
    queue.hello("d1")
    claimed = queue.claim()
    assert (claimed["commands"], ids(claimed["expired"])) == ([], [command])


def test_a_late_settlement_of_the_first_delivery_is_stale(queue: Queue, device: UUID) -> None:
    queue.command(device, "update_config")
    claimed = queue.claim()["commands"]
    queue.settle(claimed)
    asleep(queue)
    queue.hello("d1")
    [handed] = queue.claim("w2")["commands"]
    assert [row["result"] for row in queue.settle(claimed, "failed", error="no PUBACK")] == ["stale"]
    assert [row["result"] for row in queue.settle([handed], worker="w2")] == ["settled"]


def test_a_late_answer_of_the_first_delivery_ends_the_second(queue: Queue, device: UUID) -> None:
    command = sent(queue, device)
    asleep(queue)
    queue.hello("d1")
    queue.acknowledge({"topic_id": "d1", "command_id": command})
    assert queue.row(command)["status"] == "acknowledged"
    assert queue.claim()["commands"] == []


# Two sessions


@pytest.fixture
def other(queue: Queue) -> Iterator[Queue]:
    with queue.another() as other:
        yield other


def answered_row(queue: Queue, command: UUID) -> Row:
    row = queue.row(command)
    return {column: row[column] for column in ("status", "redelivery_count")}


def test_a_hello_that_waited_for_the_answer_leaves_the_command_done(
    queue: Queue, other: Queue, device: UUID
) -> None:
    command = sent(queue, device)
    asleep(queue)
    queue.connection.execute("begin")
    queue.acknowledge({"topic_id": "d1"})
    with waiting(other, lambda: other.hello("d1")) as hello:
        queue.connection.execute("commit")
        assert hello.result(timeout=10)["commands"] == 0
    assert answered_row(queue, command) == {"status": "acknowledged", "redelivery_count": 0}


def test_an_answer_that_waited_for_the_hello_is_taken(queue: Queue, other: Queue, device: UUID) -> None:
    command = sent(queue, device)
    asleep(queue)
    queue.connection.execute("begin")
    queue.hello("d1")
    ack = {"topic_id": "d1", "command_id": command}
    with waiting(other, lambda: other.acknowledge(ack)) as answer:
        queue.connection.execute("commit")
        assert answer.result(timeout=10)[0]["result"] == "acknowledged"
    assert answered_row(queue, command) == {"status": "acknowledged", "redelivery_count": 1}


def test_a_hello_that_waited_for_the_settling_counts_what_is_on_its_way_as_sent(
    queue: Queue, other: Queue, device: UUID
) -> None:
    command = queue.command(device, "update_config")
    claimed = queue.claim()["commands"]
    queue.connection.execute("begin")
    queue.settle(claimed)
    with waiting(other, lambda: other.hello("d1")) as hello:
        queue.connection.execute("commit")
        assert hello.result(timeout=10)["commands"] == 0
    assert answered_row(queue, command) == {"status": "sent", "redelivery_count": 0}


def test_a_claim_waits_for_no_hello_and_a_hello_for_no_claim(
    queue: Queue, other: Queue, device: UUID
) -> None:
    again, new = sent(queue, device), queue.command(device)
    asleep(queue)
    with queue.connection.transaction():
        queue.hello("d1")
        assert other.claim_ids("w2") == [new]  # what is not committed is not due
    with queue.connection.transaction():
        assert queue.claim_ids("w1") == []
        assert other.hello("d1", "w2")["commands"] == 2
    queue.settle([{"command_id": str(new), "attempt": 1}], worker="w2")
    assert queue.claim_ids("w2") == [again]


def test_a_command_that_someone_holds_is_left_to_the_next_wake(queue: Queue, device: UUID) -> None:
    held, free = sent(queue, device), sent(queue, device)
    asleep(queue)
    with queue.another() as person, person.connection.transaction():
        person.rows("select from device_commands where command_id = %s for update", held)
        assert queue.hello("d1")["commands"] == 1
    assert queue.row(free)["status"] == "pending"
    assert queue.row(held)["status"] == "sent"
    assert queue.hello("d1")["commands"] == 2
