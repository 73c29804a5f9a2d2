"""Devices' answers: which command they mean, and what they may still change."""

from datetime import timedelta
from uuid import UUID

import pytest

from tests.integration.database.queue_calls import Queue, Row, about

MAC = "AA:BB:CC:DD:EE:FF"


def sent(queue: Queue, device: UUID, command_type: str = "reboot") -> UUID:
    command = queue.command(device, command_type)
    queue.settle(queue.claim()["commands"])
    return command


def only(answers: list[Row]) -> Row:
    [answer] = answers
    return answer


# Which command


def test_without_an_id_it_is_the_command_most_recently_sent(queue: Queue) -> None:
    device = queue.device(MAC)
    older, newer = sent(queue, device), sent(queue, device)
    assert only(queue.acknowledge({"topic_id": MAC}))["command_id"] == str(newer)
    assert only(queue.acknowledge({"topic_id": MAC}))["command_id"] == str(older)
    assert only(queue.acknowledge({"topic_id": MAC}))["result"] == "unknown_command"


def test_of_those_sent_in_one_batch_it_is_the_last_published(queue: Queue) -> None:
    device = queue.device(MAC)
    with queue.connection.transaction():
        for _ in range(3):
            last = queue.command(device)
        queue.command(device, priority=1)
    queue.settle(queue.claim()["commands"])
    assert only(queue.acknowledge({"topic_id": MAC}))["command_id"] == str(last)


def test_with_a_type_it_is_the_most_recently_sent_of_that_type(queue: Queue) -> None:
    device = queue.device(MAC)
    meant = sent(queue, device, "capture_image")
    sent(queue, device, "reboot")
    answer = only(queue.acknowledge({"topic_id": MAC, "command_type": "capture_image"}))
    assert (answer["result"], answer["command_id"]) == ("acknowledged", str(meant))


def test_with_an_id_it_is_that_command(queue: Queue) -> None:
    device = queue.device(MAC)
    meant = sent(queue, device)
    newer = sent(queue, device)
    answer = only(
        queue.acknowledge({"ref": "r", "topic_id": MAC, "command_id": meant, "response": {"ok": 1}})
    )
    assert 0 <= answer.pop("seconds_since_sent") < 10
    assert answer == {
        "ref": "r", "result": "acknowledged", "command_id": str(meant), "command_type": "reboot",
        "device_id": str(device), "device_code": f"CODE-{MAC}", "status": "acknowledged", "retry_count": 0,
    }  # fmt: skip
    row = queue.row(meant)
    assert about(row["acknowledged_at"], queue.now())
    assert row["response"] == {"ok": 1}
    assert queue.row(newer)["status"] == "sent"


def test_an_answer_before_the_settling_means_the_command_being_published(queue: Queue) -> None:
    device = queue.device(MAC)
    command = queue.command(device)
    queue.claim()
    answer = only(queue.acknowledge({"topic_id": MAC}))
    assert (answer["result"], answer["command_id"]) == ("acknowledged", str(command))
    row = queue.row(command)
    assert (row["lease_worker"], row["due_at"]) == (None, None)
    assert row["delivered_at"] is not None


def test_what_no_worker_was_given_is_not_meant(queue: Queue) -> None:
    queue.command(queue.device(MAC))
    assert only(queue.acknowledge({"topic_id": MAC}))["result"] == "unknown_command"


@pytest.mark.parametrize("spelling", ["aabbccddeeff", "AA-BB-CC-DD-EE-FF", "aa:bb:cc:dd:ee:ff"])
def test_a_device_may_spell_its_mac_as_it_likes(queue: Queue, spelling: str) -> None:
    sent(queue, queue.device(MAC))
    assert only(queue.acknowledge({"topic_id": spelling}))["result"] == "acknowledged"


def test_a_device_may_have_a_name(queue: Queue) -> None:
    sent(queue, queue.device("esp32-cam-01"))
    assert only(queue.acknowledge({"topic_id": "esp32-cam-01"}))["result"] == "acknowledged"


def test_an_unknown_device_changes_nothing(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    answer = only(queue.acknowledge({"topic_id": "11:22:33:44:55:66", "command_id": command}))
    assert (answer["result"], answer["command_id"], answer["status"]) == ("unknown_device", None, None)
    assert queue.row(command)["status"] == "sent"


def test_a_command_of_another_device_is_not_touched(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    other = queue.device("11:22:33:44:55:66")
    answer = only(queue.acknowledge({"topic_id": "112233445566", "command_id": command}))
    assert (answer["result"], answer["device_id"], answer["command_id"]) == ("wrong_device", str(other), None)
    assert queue.row(command)["status"] == "sent"


@pytest.mark.parametrize(
    "command_id",
    ["00000000-0000-4000-8000-000000000000", "0f9c", "", "'; drop table devices", "ffffffff-" * 4],
)
def test_an_id_of_no_command_is_unknown_and_never_another_command(queue: Queue, command_id: str) -> None:
    command = sent(queue, queue.device(MAC))
    assert only(queue.acknowledge({"topic_id": MAC, "command_id": command_id}))["result"] == "unknown_command"
    assert queue.row(command)["status"] == "sent"


@pytest.mark.parametrize("form", ["upper", "bare"])
def test_an_id_may_be_written_as_postgres_reads_it(queue: Queue, form: str) -> None:
    command = sent(queue, queue.device(MAC))
    written = str(command).upper() if form == "upper" else command.hex
    assert only(queue.acknowledge({"topic_id": MAC, "command_id": written}))["result"] == "acknowledged"


# What it changes


def test_the_same_answer_twice_is_a_duplicate(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    ack = {"topic_id": MAC, "command_id": command}
    first, second = queue.acknowledge(ack, {**ack, "response": {"again": True}})
    assert (first["result"], second["result"]) == ("acknowledged", "duplicate")
    assert queue.row(command)["response"] == {}


def test_a_failure_that_the_device_reports_is_counted_and_tried_again(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    ack = {"topic_id": MAC, "command_id": command, "outcome": "failed", "message": "sd card full"}
    answer = only(queue.acknowledge(ack, delay=20))
    assert (answer["result"], answer["status"], answer["retry_count"]) == ("failed", "failed", 1)
    row = queue.row(command)
    assert row["last_error"] == "the device reports failure: sd card full"
    assert about(row["due_at"], queue.now() + timedelta(seconds=20))
    assert only(queue.acknowledge(ack))["result"] == "duplicate"
    assert queue.row(command)["retry_count"] == 1


def test_the_third_failure_that_the_device_reports_is_final(queue: Queue) -> None:
    command = queue.command(queue.device(MAC))
    for _ in range(3):
        queue.settle(queue.claim()["commands"])
        queue.acknowledge({"topic_id": MAC, "outcome": "failed"}, delay=0)
    row = queue.row(command)
    assert (row["status"], row["retry_count"], row["due_at"]) == ("failed", 3, None)


def test_a_success_after_a_failure_stops_the_retry(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    queue.acknowledge({"topic_id": MAC, "outcome": "failed"}, delay=0)
    assert only(queue.acknowledge({"topic_id": MAC, "command_id": command}))["result"] == "acknowledged"
    assert queue.row(command)["last_error"] is None
    assert queue.claim_ids() == []


def test_a_refusal_is_final(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    ack = {"topic_id": MAC, "command_id": command, "outcome": "rejected", "message": "no camera"}
    first, second, late = queue.acknowledge(ack, ack, {**ack, "outcome": "success"})
    assert (first["result"], second["result"], late["result"]) == ("rejected", "duplicate", "ignored")
    row = queue.row(command)
    assert (row["status"], row["retry_count"]) == ("rejected", 0)
    assert row["last_error"] == "the device refuses: no camera"


def test_a_late_success_makes_an_expired_command_acknowledged(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    queue.change(command, "expires_at = now()")
    queue.claim()
    assert queue.row(command)["status"] == "expired"
    assert only(queue.acknowledge({"topic_id": MAC, "command_id": command}))["result"] == "acknowledged"
    assert queue.row(command)["status"] == "acknowledged"


@pytest.mark.parametrize("outcome", ["failed", "rejected"])
@pytest.mark.parametrize("status", ["expired", "acknowledged", "cancelled"])
def test_no_other_answer_changes_a_final_state(queue: Queue, status: str, outcome: str) -> None:
    command = queue.command(queue.device(MAC))
    queue.change(command, f"status = '{status}'")
    before = queue.row(command)
    answer = only(queue.acknowledge({"topic_id": MAC, "command_id": command, "outcome": outcome}))
    assert (answer["result"], answer["status"]) == ("ignored", status)
    assert queue.row(command) == before


def test_a_cancelled_command_is_not_revived(queue: Queue) -> None:
    command = queue.command(queue.device(MAC))
    queue.claim()
    queue.change(command, "status = 'cancelled'")
    assert only(queue.acknowledge({"topic_id": MAC, "command_id": command}))["result"] == "ignored"
    assert queue.row(command)["status"] == "cancelled"


@pytest.mark.parametrize("outcome", ["failed", "rejected"])
def test_a_device_cannot_fail_at_what_was_never_sent(queue: Queue, outcome: str) -> None:
    command = queue.command(queue.device(MAC))
    answer = only(queue.acknowledge({"topic_id": MAC, "command_id": command, "outcome": outcome}))
    assert (answer["result"], queue.row(command)["status"]) == ("ignored", "pending")


def test_an_outcome_that_is_none_is_ignored(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    assert only(queue.acknowledge({"topic_id": MAC, "outcome": "perhaps"}))["result"] == "ignored"
    assert queue.row(command)["status"] == "sent"


def test_a_device_that_is_not_active_any_more_is_still_believed(queue: Queue) -> None:
    command = sent(queue, queue.device(MAC))
    queue.connection.execute("update devices set is_active = false")
    queue.acknowledge({"topic_id": MAC})
    assert queue.row(command)["status"] == "acknowledged"


def test_answers_are_taken_and_reported_in_their_order(queue: Queue) -> None:
    devices = [queue.device(f"cam-{n}") for n in range(20)]
    for device in devices:
        queue.command(device)
    queue.settle(queue.claim()["commands"])
    acks = [{"ref": f"r{n}", "topic_id": f"cam-{n}"} for n in reversed(range(20))]
    answers = queue.acknowledge(*acks, {"ref": "none", "topic_id": "nobody"}, {**acks[0], "ref": "r20"})
    assert [a["ref"] for a in answers] == [a["ref"] for a in acks] + ["none", "r20"]
    assert [a["result"] for a in answers] == ["acknowledged"] * 20 + ["unknown_device", "unknown_command"]


def test_no_answers_are_no_fault(queue: Queue) -> None:
    assert queue.acknowledge() == []


# What it tells of the device


def test_an_answer_notes_how_the_device_spells_itself_and_when_it_was_heard(queue: Queue) -> None:
    queue.device(MAC)
    queue.acknowledge({"topic_id": MAC}, {"topic_root": "ESP32CAM", "topic_id": "aabbccddeeff"})
    [device] = queue.rows("select * from devices")
    assert (device["mqtt_root"], device["mqtt_id"]) == ("ESP32CAM", "aabbccddeeff")
    assert about(device["last_seen_at"], queue.now())


def test_a_device_that_was_just_heard_is_not_written_again(queue: Queue) -> None:
    queue.device(MAC)
    queue.acknowledge({"topic_id": MAC})
    [before] = queue.rows("select xmin::text, * from devices")
    queue.acknowledge({"topic_id": MAC})
    assert queue.rows("select xmin::text, * from devices") == [before]
    queue.connection.execute("update devices set last_seen_at = now() - interval '2 min'")
    queue.acknowledge({"topic_id": MAC})
    [after] = queue.rows("select * from devices")
    assert about(after["last_seen_at"], queue.now())


def test_answers_that_name_their_commands_are_used_together_and_the_others_alone(queue: Queue) -> None:
    named, unnamed = queue.device("d1"), queue.device("d2")
    commands = [queue.command(named) for _ in range(3)]
    queue.command(unnamed)
    queue.settle(queue.claim()["commands"])
    acks: list[Row] = [
        {"topic_id": "d1", "command_id": command, "outcome": outcome, "message": "worn out"}
        for command, outcome in zip(commands, ("success", "failed", "rejected"), strict=True)
    ]
    results = queue.acknowledge({"topic_id": "d2"}, *acks)
    assert [r["result"] for r in results] == ["acknowledged", "acknowledged", "failed", "rejected"]
    assert [r["command_id"] for r in results[1:]] == [str(command) for command in commands]
    assert [queue.row(command)["last_error"] for command in commands] == [
        None,
        "the device reports failure: worn out",
        "the device refuses: worn out",
    ]
    assert [r["result"] for r in queue.acknowledge(*acks)] == ["duplicate"] * 3
