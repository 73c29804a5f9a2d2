"""Firmware releases: which commands may name one, what a claim hands out, and what a HELLO says of them."""

import json
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, emptied

COMPANY = "a0000000-0000-4000-8000-00000000000a"
OTHER_COMPANY = "a0000000-0000-4000-8000-00000000000b"


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    emptied(shared).execute(
        "insert into companies (company_id, name) values (%s, 'Ours'), (%s, 'Theirs')",
        (COMPANY, OTHER_COMPANY),
    )
    return Queue(shared)


@pytest.fixture
def device(queue: Queue) -> UUID:
    return device_of(queue, "d1")


def device_of(queue: Queue, mac: str, company: str = COMPANY, hardware: str | None = None) -> UUID:
    device = queue.device(mac)
    queue.connection.execute(
        "update devices set company_id = %s, hardware_version = %s where device_id = %s",
        (company, hardware, device),
    )
    return device


def release(
    queue: Queue, version: str = "1.4.0", company: str = COMPANY, hardware: str | None = None
) -> UUID:
    return queue.insert(
        "firmware_releases", "release_id", company_id=company, version=version, hardware=hardware,
        sha256="ab" * 32, size_bytes=1000, path=f"{company}/{version}.bin",
    )  # fmt: skip


def update(queue: Queue, device: UUID, release_id: UUID) -> UUID:
    return queue.command(device, "update_firmware", release_id=release_id)


def sent(queue: Queue, device: UUID, release_id: UUID) -> UUID:
    command = update(queue, device, release_id)
    queue.settle(queue.claim()["commands"])
    return command


def acknowledged(queue: Queue, device: UUID, release_id: UUID) -> UUID:
    """A firmware command that the device acknowledged a minute ago."""
    command = sent(queue, device, release_id)
    queue.acknowledge({"topic_id": "d1", "command_id": str(command)})
    queue.change(command, "acknowledged_at = now() - interval '1 min'")
    return command


def outcome(queue: Queue, command: UUID) -> tuple[str, bool, str | None]:
    row = queue.row(command)
    return row["status"], row["verified_at"] is not None, row["last_error"]


def test_a_command_for_a_release_says_what_it_sends_and_the_claim_where_it_is(
    queue: Queue, device: UUID
) -> None:
    wanted = release(queue)
    update(queue, device, wanted)
    [claimed] = queue.claim()["commands"]
    assert claimed["firmware_path"] == f"{COMPANY}/1.4.0.bin"
    assert claimed["command_payload"] == {
        "release_id": str(wanted), "version": "1.4.0", "sha256": "ab" * 32, "size": 1000,
    }  # fmt: skip


def test_a_payload_may_name_the_release_as_a_schedule_does(queue: Queue, device: UUID) -> None:
    wanted = release(queue)
    command = queue.command(
        device, "update_firmware", command_payload=json.dumps({"release_id": str(wanted)})
    )
    assert queue.row(command)["release_id"] == wanted


def test_a_command_with_an_address_goes_out_as_before(queue: Queue, device: UUID) -> None:
    payload = {"firmware_url": "https://files.example.com/a.bin", "version": "1.4.0"}
    queue.command(device, "update_firmware", command_payload=json.dumps(payload))
    [claimed] = queue.claim()["commands"]
    assert (claimed["command_payload"], claimed["firmware_path"]) == (payload, None)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"company": OTHER_COMPANY}, "company of the device has no firmware release"),
        ({"hardware": "ESP32-S3"}, "for the hardware ESP32-S3"),
    ],
)
def test_a_release_that_is_not_for_the_device_is_refused(
    queue: Queue, device: UUID, columns: Row, named: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=named):
        update(queue, device, release(queue, **columns))


def test_a_release_for_a_hardware_goes_to_that_hardware(queue: Queue) -> None:
    update(queue, device_of(queue, "d2", hardware="ESP32-S3"), release(queue, hardware="ESP32-S3"))
    assert len(queue.claim()["commands"]) == 1


@pytest.mark.parametrize(
    ("command_type", "payload"),
    [
        ("reboot", {}),
        ("update_firmware", {"firmware_url": "https://files.example.com/a.bin"}),
        ("update_firmware", {"release_id": str(uuid4())}),
    ],
)
def test_a_release_goes_with_nothing_else(
    queue: Queue, device: UUID, command_type: str, payload: Row
) -> None:
    wanted = release(queue)
    with pytest.raises(psycopg.errors.CheckViolation, match="release_id goes with"):
        queue.command(device, command_type, release_id=wanted, command_payload=json.dumps(payload))


def test_a_version_is_published_once_however_it_is_written(queue: Queue) -> None:
    release(queue, "1.4.0")
    release(queue, "1.4.0", OTHER_COMPANY)
    release(queue, "1.4.0", hardware="ESP32-S3")
    with pytest.raises(psycopg.errors.UniqueViolation):
        release(queue, "v1.4")


def test_a_published_release_stays_as_it_is_but_for_its_notes(queue: Queue) -> None:
    published = release(queue)
    queue.connection.execute(
        "update firmware_releases set notes = 'better' where release_id = %s", (published,)
    )
    with pytest.raises(psycopg.errors.CheckViolation, match=r"1\.4\.0 is published"):
        queue.connection.execute("update firmware_releases set size_bytes = 1")


def test_what_waits_for_a_release_that_is_removed_fails_and_says_so(queue: Queue, device: UUID) -> None:
    wanted = release(queue)
    was_sent = sent(queue, device, wanted)
    waits = update(queue, device, wanted)
    queue.connection.execute("delete from firmware_releases")
    assert outcome(queue, waits) == ("failed", False, "firmware release 1.4.0 was removed")
    assert queue.row(waits)["due_at"] is None
    assert queue.row(was_sent)["status"] == "sent"


def test_a_command_that_is_tried_again_after_its_release_went_fails_for_good(
    queue: Queue, device: UUID
) -> None:
    command = sent(queue, device, release(queue))
    queue.connection.execute("delete from firmware_releases")
    queue.acknowledge({"topic_id": "d1", "command_id": str(command), "outcome": "failed"}, delay=0)
    answer = queue.claim()
    assert answer["commands"] == []
    assert outcome(queue, command) == ("failed", False, "firmware release 1.4.0 was removed")
    assert queue.row(command)["due_at"] is None


@pytest.mark.parametrize("said", ["1.4.0", "v1.4", "1.4.0+build.7"])
def test_a_device_that_wakes_with_the_version_verifies_it(queue: Queue, device: UUID, said: str) -> None:
    command = acknowledged(queue, device, release(queue))
    queue.hello("d1", firmware_version=said)
    assert outcome(queue, command) == ("acknowledged", True, None)


def test_a_device_that_wakes_with_the_old_version_fails_it_for_good(queue: Queue, device: UUID) -> None:
    command = acknowledged(queue, device, release(queue))
    queue.hello("d1", firmware_version="1.3.9")
    assert outcome(queue, command) == ("failed", False, "the device came back with version 1.3.9, not 1.4.0")
    assert queue.row(command)["due_at"] is None


def test_a_hello_without_a_version_says_nothing(queue: Queue, device: UUID) -> None:
    command = acknowledged(queue, device, release(queue))
    queue.hello("d1")
    assert outcome(queue, command) == ("acknowledged", False, None)


def test_a_hello_from_before_the_answer_that_is_written_late_does_not_fail_it(
    queue: Queue, device: UUID
) -> None:
    command = acknowledged(queue, device, release(queue))
    queue.hello("d1", firmware_version="1.3.9", received_seconds_ago=70)
    assert outcome(queue, command) == ("acknowledged", False, None)


def test_a_hello_right_after_the_answer_does_not_fail_it(queue: Queue, device: UUID) -> None:
    command = sent(queue, device, release(queue))
    queue.acknowledge({"topic_id": "d1", "command_id": str(command)})
    queue.hello("d1", firmware_version="1.3.9")
    assert outcome(queue, command) == ("acknowledged", False, None)


def test_a_device_that_never_answered_and_wakes_with_the_version_did_it(queue: Queue, device: UUID) -> None:
    command = sent(queue, device, release(queue))
    queue.hello("d1", firmware_version="1.4.0")
    assert outcome(queue, command) == ("acknowledged", True, None)
    assert queue.row(command)["acknowledged_at"] is not None


def test_a_device_that_never_answered_and_wakes_with_the_old_version_is_waited_for(
    queue: Queue, device: UUID
) -> None:
    command = sent(queue, device, release(queue))
    queue.hello("d1", firmware_version="1.3.9")
    assert outcome(queue, command) == ("sent", False, None)


def test_a_command_that_was_never_sent_is_not_verified(queue: Queue, device: UUID) -> None:
    command = update(queue, device, release(queue))
    queue.hello("d1", firmware_version="1.4.0")
    assert outcome(queue, command) == ("pending", False, None)


def test_a_device_that_comes_back_with_the_version_after_all_corrects_its_failure(
    queue: Queue, device: UUID
) -> None:
    command = acknowledged(queue, device, release(queue))
    queue.hello("d1", firmware_version="1.3.9")
    queue.pass_time("1 h")
    queue.hello("d1", firmware_version="1.4.0")
    assert outcome(queue, command) == ("acknowledged", True, None)


def test_another_workers_copy_of_a_hello_verifies_nothing_twice(queue: Queue, device: UUID) -> None:
    command = acknowledged(queue, device, release(queue))
    queue.hello("d1", firmware_version="1.4.0")
    first = queue.row(command)["verified_at"]
    queue.hello("d1", worker="w2", firmware_version="1.4.0")
    assert queue.row(command)["verified_at"] == first


def test_a_project_that_refuses_the_change_gets_its_hello_answered(queue: Queue, device: UUID) -> None:
    command = acknowledged(queue, device, release(queue))
    queue.connection.execute("alter table device_commands add constraint never check (verified_at is null)")
    try:
        answer = queue.hello("d1", firmware_version="1.4.0")
    finally:
        queue.connection.execute("alter table device_commands drop constraint never")
    assert answer["result"] == "known"
    assert any("not verified" in warning for warning in answer["warnings"])
    assert outcome(queue, command) == ("acknowledged", False, None)
