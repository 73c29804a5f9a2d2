"""Pictures: which row one becomes, where it is to be stored, and what may be said of it later."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import (
    Queue,
    Row,
    about,
    locked_devices,
    reseeded,
    waiting,
)

MAPPED = UUID("a0000000-0000-4000-8000-000000000031")
NORTH = UUID("a0000000-0000-4000-8000-000000000021")
SOUTH = UUID("a0000000-0000-4000-8000-000000000022")
MORNING, EVENING = "2025-08-29T08:00:00Z", "2025-08-29T23:30:00-05:00"


@pytest.fixture
def device(queue: Queue) -> UUID:
    return queue.device("d1")


@pytest.fixture
def other(queue: Queue) -> Iterator[Queue]:
    with queue.another() as other:
        yield other


def images(queue: Queue) -> list[Row]:
    return queue.rows("select * from device_images order by created_at, image_name, image_id")


def row_of(queue: Queue, answer: Row) -> Row:
    [row] = queue.rows("select * from device_images where image_id = %s", UUID(answer["image_id"]))
    return row


def states(queue: Queue) -> list[tuple[str, str]]:
    rows = queue.rows("select image_name, status from device_images order by 1, 2")
    return [(row["image_name"], row["status"]) for row in rows]


def stored(queue: Queue, sha256: str = "1", **fields: Any) -> Row:
    """A picture of d1 that is in Storage: the answer to its settling."""
    answer = queue.image("d1", **fields)
    return queue.settle_image(answer["image_id"], "complete", sha256=sha256, image_size=4153)


# Announced


def test_an_announced_picture_is_received_into_a_row_of_its_own(queue: Queue, device: UUID) -> None:
    queue.hello("d1", topic_root="ESP32CAM")
    answer = queue.image(
        "d1", ref="r1", captured_at=MORNING, image_size=4153, max_chunk_size=128, total_chunks=33,
        error_code=0, location="ward 4", metadata={"image_name": "a.jpg", "extra": [1]},
    )  # fmt: skip
    row = row_of(queue, answer)
    assert answer == {
        "ref": "r1", "result": "receiving", "device_id": str(device), "device_code": "CODE-d1",
        "topic_root": "ESP32CAM", "image_id": str(row["image_id"]), "storage_path": row["upload_path"],
        "next_wake_at": answer["next_wake_at"],
        "captured_at": "2025-08-29T08:00:00+00:00", "image_size": 4153, "total_chunks": 33, "warnings": [],
    }  # fmt: skip
    assert datetime.fromisoformat(answer["next_wake_at"]) > queue.now()
    assert (row["status"], row["image_name"], row["captured_at"]) == (
        "receiving", "a.jpg", datetime.fromisoformat(MORNING),
    )  # fmt: skip
    assert (row["image_size"], row["max_chunk_size"], row["total_chunks"]) == (4153, 128, 33)
    assert (row["error_code"], row["location"], row["metadata"]["extra"]) == (0, "ward 4", [1])
    assert (row["received_chunks"], row["missing_requests"], row["last_error"]) == (0, 0, None)
    assert row["storage_path"] is None  # nothing is there yet


def test_answers_are_in_the_order_of_the_pictures(queue: Queue) -> None:
    queue.device("d1")
    queue.device("d2")
    order = [("d2", "b.jpg"), ("d1", "a.jpg"), ("d2", "a.jpg"), ("d1", "a.jpg")]
    answers = queue.images(
        *({"topic_id": d, "image_name": name, "ref": f"r{n}"} for n, (d, name) in enumerate(order))
    )
    assert [answer["ref"] for answer in answers] == ["r0", "r1", "r2", "r3"]
    assert [answer["device_code"] for answer in answers] == ["CODE-d2", "CODE-d1", "CODE-d2", "CODE-d1"]
    assert answers[1]["image_id"] == answers[3]["image_id"]
    assert len(images(queue)) == 3
    assert queue.images() == []


def test_the_path_is_of_ids_and_the_day_and_not_of_the_name(queue: Queue) -> None:
    reseeded(queue.connection)
    [row] = queue.rows("select * from devices where device_id = %s", MAPPED)
    answer = queue.image(row["device_mac"], image_name="../../x/é.jpg", captured_at=EVENING)
    assert answer["storage_path"] == (
        f"{row['company_id']}/{row['site_id']}/{MAPPED}/2025-08-30/{answer['image_id']}.jpg"
    )
    assert row_of(queue, answer)["image_name"] == "../../x/é.jpg"


def test_a_picture_without_site_or_time_is_stored_under_today(queue: Queue, device: UUID) -> None:
    answer = queue.image("d1")
    day = queue.now().strftime("%Y-%m-%d")
    assert answer["storage_path"] == f"unassigned/unassigned/{device}/{day}/{answer['image_id']}.jpg"


def test_the_path_and_the_site_stay_when_the_device_is_mapped_elsewhere_meanwhile(queue: Queue) -> None:
    reseeded(queue.connection)
    [row] = queue.rows("select * from devices where device_id = %s", MAPPED)
    mac = row["device_mac"]
    first = queue.image(mac, captured_at=MORNING)
    queue.insert("device_site_assignments", "assignment_id", device_id=MAPPED, site_id=SOUTH)
    again = queue.image(mac, captured_at=MORNING)
    assert (again["result"], again["storage_path"]) == ("receiving", first["storage_path"])
    assert row_of(queue, again)["site_id"] == NORTH
    settled = queue.settle_image(first["image_id"], "complete", sha256="1")
    assert settled["storage_path"] == row_of(queue, again)["storage_path"] == first["storage_path"]
    assert f"/{SOUTH}/" in queue.image(mac, captured_at=EVENING)["storage_path"]


def test_an_unknown_device_is_registered_by_its_picture(queue: Queue) -> None:
    answer = queue.image("b8f862f9cfb8")
    assert (answer["result"], answer["device_code"], answer["topic_root"]) == (
        "receiving", "DEVICE-ESP32S3-001", "device",
    )  # fmt: skip
    [row] = queue.rows("select is_active, provisioning_status, mqtt_root from devices")
    assert row == {"is_active": False, "provisioning_status": "pending_mapping", "mqtt_root": None}
    assert queue.hello("B8:F8:62:F9:CF:B8")["result"] == "known"


@pytest.mark.parametrize("switch", [{"p_register": False}, {"p_registrations_per_minute": 0}])
def test_a_device_that_may_not_register_leaves_nothing(queue: Queue, switch: Row) -> None:
    [answer] = queue.images({"topic_id": "new"}, **switch)
    assert (answer["result"], answer["device_id"], answer["image_id"]) == ("unknown_device", None, None)
    assert datetime.fromisoformat(answer["next_wake_at"]) > queue.now()
    for table in ("devices", "device_images", "mqtt_private.visits"):
        assert queue.rows(f"select from {table}") == []


def test_the_limit_counts_hellos_and_pictures_together(queue: Queue) -> None:
    queue.hello("n1")
    answers = queue.images({"topic_id": "n2"}, {"topic_id": "n3"}, p_registrations_per_minute=2)
    assert [answer["result"] for answer in answers] == ["receiving", "unknown_device"]


@pytest.mark.usefixtures("device")
def test_a_picture_notes_that_its_device_was_heard_and_leaves_its_root_alone(queue: Queue) -> None:
    queue.hello("d1", topic_root="device")
    queue.connection.execute("update devices set last_seen_at = null")
    queue.image("d1", topic_root="ESP32CAM")
    [row] = queue.rows("select * from devices")
    assert about(row["last_seen_at"], queue.now())
    assert row["mqtt_root"] == "device"


# Which row


@pytest.mark.usefixtures("device")
def test_the_same_picture_again_is_the_same_row_begun_anew(queue: Queue) -> None:
    first = queue.image("d1", captured_at=MORNING, image_size=4153, location="ward 4")
    queue.settle_image(first["image_id"], "asked", received_chunks=2, missing_requests=1)
    queue.settle_image(first["image_id"], "failed", error="2 of 3 chunks did not come")
    again = queue.image("d1", captured_at=MORNING)
    assert (again["image_id"], again["storage_path"]) == (first["image_id"], first["storage_path"])
    row = row_of(queue, again)
    assert (row["status"], row["last_error"], row["missing_requests"], row["received_chunks"]) == (
        "receiving", None, 0, 0,
    )  # fmt: skip
    assert (row["image_size"], row["location"]) == (4153, "ward 4")


@pytest.mark.usefixtures("device")
def test_a_name_at_another_time_is_another_picture(queue: Queue) -> None:
    first, second = (queue.image("d1", captured_at=moment) for moment in (MORNING, EVENING))
    assert first["image_id"] != second["image_id"]


@pytest.mark.usefixtures("device")
def test_a_picture_that_is_there_is_complete_at_once_and_stays_untouched(queue: Queue) -> None:
    settled = stored(queue, captured_at=MORNING)
    before = images(queue)
    answer = queue.image("d1", captured_at=MORNING, location="elsewhere")
    assert (answer["result"], answer["image_id"]) == ("complete", settled["image_id"])
    assert answer["storage_path"] == settled["storage_path"]
    assert datetime.fromisoformat(answer["next_wake_at"]) > queue.now()
    assert images(queue) == before


@pytest.mark.usefixtures("device")
def test_without_a_time_the_unfinished_picture_of_that_name_is_meant(queue: Queue) -> None:
    first = queue.image("d1", captured_at=MORNING)
    assert queue.image("d1")["image_id"] == first["image_id"]
    queue.settle_image(first["image_id"], "failed", error="cut off")
    assert queue.image("d1")["image_id"] == first["image_id"]
    assert row_of(queue, first)["captured_at"] == datetime.fromisoformat(MORNING)


@pytest.mark.usefixtures("device")
def test_without_a_time_a_name_that_is_complete_is_the_next_picture_of_that_name(queue: Queue) -> None:
    settled = stored(queue)
    second = queue.image("d1")
    assert (second["result"], second["image_id"] != settled["image_id"]) == ("receiving", True)
    assert queue.image("d1")["image_id"] == second["image_id"]
    queue.settle_image(second["image_id"], "complete", sha256="2")
    assert states(queue) == [("a.jpg", "complete"), ("a.jpg", "complete")]


@pytest.mark.usefixtures("device")
def test_what_failed_before_a_picture_of_that_name_came_is_not_revived(queue: Queue) -> None:
    failed = queue.image("d1", captured_at=MORNING)
    queue.settle_image(failed["image_id"], "failed", error="cut off")
    stored(queue, captured_at=EVENING)
    assert queue.image("d1")["image_id"] != failed["image_id"]
    assert row_of(queue, failed)["status"] == "failed"


@pytest.mark.usefixtures("device")
def test_a_row_that_began_without_metadata_gets_its_time_when_that_comes(queue: Queue) -> None:
    chunks_only = queue.image("d1", total_chunks=None)
    announced = queue.image("d1", captured_at=MORNING, total_chunks=7)
    assert announced["image_id"] == chunks_only["image_id"]
    row = row_of(queue, announced)
    assert (row["captured_at"], row["total_chunks"]) == (datetime.fromisoformat(MORNING), 7)
    assert announced["storage_path"] == chunks_only["storage_path"]


@pytest.mark.usefixtures("device")
def test_a_time_that_is_no_time_on_earth_counts_as_none(queue: Queue) -> None:
    assert row_of(queue, queue.image("d1", captured_at="infinity"))["captured_at"] is None


def test_two_rows_of_one_picture_cannot_be_written_and_many_without_a_time_can(
    queue: Queue, device: UUID
) -> None:
    columns = {"device_id": device, "image_name": "a.jpg"}
    for _ in range(2):
        queue.insert("device_images", "image_id", **columns)
    queue.insert("device_images", "image_id", **columns, captured_at=MORNING)
    with pytest.raises(psycopg.errors.UniqueViolation):
        queue.insert("device_images", "image_id", **columns, captured_at=MORNING)


# What a HELLO lists


@pytest.mark.usefixtures("device")
def test_pending_pictures_are_those_that_the_device_lists(queue: Queue) -> None:
    queue.hello("d1", pending_names=["a.jpg", "b.jpg"])
    assert states(queue) == [("a.jpg", "pending"), ("b.jpg", "pending")]
    first = images(queue)
    assert about(first[0]["listed_at"], queue.now())
    queue.hello("d1", pending_names=["b.jpg", "c.jpg"])
    assert states(queue) == [("b.jpg", "pending"), ("c.jpg", "pending")]
    assert first[1] in images(queue)
    queue.hello("d1", pending_count=2)
    assert states(queue) == []


@pytest.mark.usefixtures("device")
def test_a_pending_picture_becomes_the_one_that_comes(queue: Queue) -> None:
    queue.hello("d1", pending_names=["a.jpg", "b.jpg"])
    pending = [str(row["image_id"]) for row in images(queue)]
    with_time = queue.image("d1", image_name="a.jpg", captured_at=MORNING)
    without = queue.image("d1", image_name="b.jpg")
    assert [with_time["image_id"], without["image_id"]] == pending
    assert states(queue) == [("a.jpg", "receiving"), ("b.jpg", "receiving")]


@pytest.mark.usefixtures("device")
def test_a_listed_picture_that_is_being_received_is_not_pending_too(queue: Queue) -> None:
    queue.image("d1", captured_at=MORNING)
    queue.hello("d1", pending_names=["a.jpg"])
    assert states(queue) == [("a.jpg", "receiving")]


@pytest.mark.usefixtures("device")
def test_a_listed_picture_that_failed_is_pending_until_it_comes_again(queue: Queue) -> None:
    failed = queue.image("d1", captured_at=MORNING)
    queue.settle_image(failed["image_id"], "failed", error="cut off")
    for _ in range(2):
        queue.hello("d1", pending_names=["a.jpg"])
        assert states(queue) == [("a.jpg", "failed"), ("a.jpg", "pending")]
    again = queue.image("d1", captured_at=MORNING)
    assert again["image_id"] == failed["image_id"]
    assert states(queue) == [("a.jpg", "receiving")]


@pytest.mark.usefixtures("device")
def test_a_picture_that_a_device_lists_for_ever_and_never_sends_stays_one_failed_row(queue: Queue) -> None:
    for _ in range(5):
        queue.hello("d1", pending_names=["a.jpg"])
        answer = queue.image("d1", total_chunks=None)
        queue.settle_image(answer["image_id"], "failed", error="the device sent nothing of it")
    assert states(queue) == [("a.jpg", "failed")]


@pytest.mark.usefixtures("device")
def test_a_listed_picture_that_turns_out_to_be_there_is_no_longer_pending(queue: Queue) -> None:
    stored(queue, captured_at=MORNING)
    queue.hello("d1", pending_names=["a.jpg"])
    assert states(queue) == [("a.jpg", "complete"), ("a.jpg", "pending")]
    assert queue.image("d1", captured_at=MORNING)["result"] == "complete"
    assert states(queue) == [("a.jpg", "complete")]


def test_pending_rows_that_a_project_wrote_itself_are_not_removed(queue: Queue, device: UUID) -> None:
    theirs = queue.insert("device_images", "image_id", device_id=device, image_name="x.jpg", status="pending")
    queue.hello("d1", pending_names=["a.jpg"])
    queue.hello("d1")
    assert [row["image_id"] for row in images(queue)] == [theirs]


def test_a_pending_row_that_someone_holds_keeps_no_device_waiting(queue: Queue, device: UUID) -> None:
    queue.hello("d1", pending_names=["a.jpg"])
    with queue.another() as person, person.connection.transaction():
        person.rows("select from device_images where device_id = %s for update", device)
        assert queue.hello("d1")["holds_lease"] is True
    queue.hello("d1")
    assert images(queue) == []


# Readings


def test_readings_are_one_row_a_picture_with_the_lineage_of_that_moment(queue: Queue) -> None:
    reseeded(queue.connection)
    [device] = queue.rows("select * from devices where device_id = %s", MAPPED)
    readings: Row = {"temperature": 25.5, "humidity": 45.2, "pressure": 1010.5, "gas_resistance": 15.3}
    answer = queue.image(device["device_mac"], captured_at=MORNING, **readings)
    queue.insert("device_site_assignments", "assignment_id", device_id=MAPPED, site_id=SOUTH)
    queue.image(device["device_mac"], captured_at=MORNING, temperature=25.5)
    [row] = queue.rows("select * from device_telemetry")
    assert {name: row[name] for name in readings} == readings
    assert (row["device_id"], str(row["image_id"])) == (MAPPED, answer["image_id"])
    assert (row["site_id"], row["program_id"], row["company_id"]) == (
        NORTH, device["program_id"], device["company_id"],
    )  # fmt: skip
    assert row["captured_at"] == datetime.fromisoformat(MORNING)


@pytest.mark.usefixtures("device")
def test_readings_without_a_time_are_of_now_and_absent_ones_are_absent(queue: Queue) -> None:
    queue.image("d1", humidity=45)
    [row] = queue.rows("select * from device_telemetry")
    assert about(row["captured_at"], queue.now())
    assert (row["temperature"], row["humidity"], row["site_id"], row["company_id"]) == (None, 45, None, None)


@pytest.mark.usefixtures("device")
def test_a_picture_whose_metadata_did_not_come_has_no_readings_yet(queue: Queue) -> None:
    queue.image("d1", total_chunks=None)
    assert queue.rows("select from device_telemetry") == []
    queue.image("d1", captured_at=MORNING, temperature=20)
    assert len(queue.rows("select from device_telemetry")) == 1


@pytest.mark.usefixtures("device")
def test_readings_that_a_project_refuses_do_not_cost_the_picture(queue: Queue) -> None:
    queue.connection.execute("alter table device_telemetry add constraint cold check (temperature < 100)")
    try:
        answer = queue.image("d1", temperature=500, humidity=40)
    finally:
        queue.connection.execute("alter table device_telemetry drop constraint cold")
    assert answer["result"] == "receiving"
    assert "does not take temperature: constraint cold" in answer["warnings"][0]
    [row] = queue.rows("select temperature, humidity from device_telemetry")
    assert (row["temperature"], row["humidity"]) == (None, 40)


# Visits


@pytest.mark.usefixtures("device")
def test_a_picture_begins_a_visit_where_there_is_none(queue: Queue) -> None:
    assert queue.image("d1", "w1")["result"] == "receiving"
    [held] = queue.hold("d1", worker="w1")
    assert (held["holds_lease"], held["ended"], held["pending_count"]) == (True, False, 0)


@pytest.mark.usefixtures("device")
def test_of_two_workers_that_hear_a_picture_one_records_it(queue: Queue) -> None:
    assert queue.image("d1", "w1", temperature=20)["result"] == "receiving"
    before = (
        images(queue),
        queue.rows("select * from devices"),
        queue.rows("select * from mqtt_private.visits"),
    )
    silent = queue.image("d1", "w2", captured_at=MORNING, temperature=30)
    assert (silent["result"], silent["image_id"], silent["storage_path"]) == ("silent", None, None)
    assert silent["device_code"] == "CODE-d1"
    assert before == (
        images(queue), queue.rows("select * from devices"), queue.rows("select * from mqtt_private.visits"),
    )  # fmt: skip


@pytest.mark.usefixtures("device")
def test_the_worker_that_heard_the_hello_records_the_pictures(queue: Queue) -> None:
    queue.hello("d1", "w1", pending_count=2)
    assert queue.image("d1", "w2")["result"] == "silent"
    assert queue.image("d1", "w1")["result"] == "receiving"
    assert queue.hold("d1", worker="w1")[0]["pending_count"] == 2


@pytest.mark.usefixtures("device")
def test_recording_lengthens_the_lease(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("9 s")
    queue.image("d1", "w1")
    queue.pass_time("9 s")
    assert queue.image("d1", "w2")["result"] == "silent"


@pytest.mark.usefixtures("device")
def test_a_picture_of_a_lapsed_visit_is_its_takeover(queue: Queue) -> None:
    queue.hello("d1", "w1", pending_count=2)
    first = queue.image("d1", "w1", captured_at=MORNING)
    queue.pass_time("11 s")
    taken = queue.image("d1", "w2", captured_at=MORNING)
    assert (taken["result"], taken["image_id"]) == ("receiving", first["image_id"])
    assert queue.image("d1", "w1", captured_at=MORNING)["result"] == "silent"
    assert queue.hold("d1", worker="w2")[0]["pending_count"] == 2


def test_a_picture_after_the_end_begins_a_new_visit(queue: Queue, device: UUID) -> None:
    queue.hello("d1", "w1", pending_count=2)
    queue.end(device, worker="w1")
    assert queue.image("d1", "w2")["result"] == "receiving"
    [held] = queue.hold("d1", worker="w2")
    assert (held["holds_lease"], held["pending_count"]) == (True, 0)


def test_four_workers_that_hear_the_same_pictures_record_each_once(queue: Queue) -> None:
    names = [f"cam-{number}" for number in range(25)]
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        queues = [stack.enter_context(queue.another()) for _ in range(4)]
        barrier = threading.Barrier(4)

        def hear(number: int) -> list[Row]:
            barrier.wait(timeout=10)
            order = names if number % 2 else names[::-1]
            return queues[number].images(
                *({"topic_id": name, "captured_at": MORNING} for name in order), worker=f"w{number}"
            )

        answers = [answer for part in pool.map(hear, range(4), timeout=60) for answer in part]
    assert sorted(answer["result"] for answer in answers) == ["receiving"] * 25 + ["silent"] * 75
    assert len(images(queue)) == 25


# Settled


def test_a_complete_picture_says_where_and_since_when_it_is_there(queue: Queue, device: UUID) -> None:
    answer = queue.image("d1", captured_at=MORNING)
    settled = queue.settle_image(
        answer["image_id"], "complete", received_chunks=33, image_size=4153, sha256="ab"
    )
    assert datetime.fromisoformat(settled.pop("next_wake_at")) > queue.now()
    assert settled == {
        "image_id": answer["image_id"], "result": "complete", "storage_path": answer["storage_path"],
    }  # fmt: skip
    row = row_of(queue, answer)
    assert (row["status"], row["storage_path"], row["sha256"]) == ("complete", answer["storage_path"], "ab")
    assert (row["received_chunks"], row["image_size"], row["last_error"]) == (33, 4153, None)
    assert about(row["received_at"], queue.now())
    assert row["completed_at"] == row["received_at"]
    assert row["device_id"] == device


@pytest.mark.usefixtures("device")
def test_a_report_whose_response_was_lost_is_sent_again_and_changes_nothing(queue: Queue) -> None:
    settled = stored(queue, captured_at=MORNING)
    before = images(queue)
    again = queue.settle_image(settled["image_id"], "complete", sha256="9", image_size=1)
    assert again == settled
    assert images(queue) == before


@pytest.mark.usefixtures("device")
def test_nothing_leaves_complete(queue: Queue) -> None:
    settled = stored(queue, captured_at=MORNING)
    before = images(queue)
    for outcome in ("failed", "asked"):
        answer = queue.settle_image(settled["image_id"], outcome, error="late", missing_requests=3)
        assert (answer["result"], answer["storage_path"]) == ("complete", settled["storage_path"])
    assert images(queue) == before
    assert queue.rows("select from device_history") == []


@pytest.mark.usefixtures("device")
def test_a_failed_picture_says_why_and_an_event_tells_the_operator_once(queue: Queue) -> None:
    answer = queue.image("d1", total_chunks=7)
    for _ in range(2):
        settled = queue.settle_image(
            answer["image_id"], "failed", error="3 of 7 chunks did not come", missing=[2, 4, 6],
            received_chunks=4, missing_requests=3,
        )  # fmt: skip
        assert (settled["result"], settled["storage_path"]) == ("failed", None)
    row = row_of(queue, answer)
    assert (row["status"], row["last_error"]) == ("failed", "3 of 7 chunks did not come")
    assert (row["received_chunks"], row["missing_requests"]) == (4, 3)
    [event] = queue.rows("select * from device_history")
    assert (event["event_type"], event["severity"]) == ("image_failed", "warning")
    assert event["description"] == "picture a.jpg failed: 3 of 7 chunks did not come"
    assert (event["event_data"]["image_name"], event["event_data"]["missing"]) == ("a.jpg", [2, 4, 6])


@pytest.mark.usefixtures("device")
def test_a_failed_picture_that_came_after_all_is_complete(queue: Queue) -> None:
    answer = queue.image("d1", captured_at=MORNING)
    queue.settle_image(answer["image_id"], "failed", error="Storage is away")
    assert queue.settle_image(answer["image_id"], "complete", sha256="1")["result"] == "complete"
    assert (row_of(queue, answer)["status"], row_of(queue, answer)["last_error"]) == ("complete", None)


@pytest.mark.usefixtures("device")
def test_requests_for_missing_chunks_are_noted_and_never_fewer(queue: Queue) -> None:
    answer = queue.image("d1", captured_at=MORNING)
    for requests in (1, 2):
        asked = queue.settle_image(
            answer["image_id"], "asked", received_chunks=5 + requests, missing_requests=requests
        )
        assert asked["result"] == "asked"
    assert row_of(queue, answer)["status"] == "receiving"
    queue.settle_image(answer["image_id"], "complete", sha256="1", received_chunks=9, missing_requests=0)
    assert (row_of(queue, answer)["missing_requests"], row_of(queue, answer)["received_chunks"]) == (2, 9)


@pytest.mark.usefixtures("device")
def test_the_same_bytes_without_a_time_are_one_picture(queue: Queue) -> None:
    original = stored(queue, sha256="ab")
    second = queue.image("d1", temperature=20)
    for _ in range(2):  # the response may get lost
        settled = queue.settle_image(second["image_id"], "complete", sha256="ab")
        assert (settled["result"], settled["storage_path"]) == ("duplicate", original["storage_path"])
        assert datetime.fromisoformat(settled["next_wake_at"]) > queue.now()
    assert [str(row["image_id"]) for row in images(queue)] == [original["image_id"]]
    queue.connection.execute("update mqtt_private.duplicate_images set found_at = now() - interval '25 h'")
    queue.settle_images()
    assert queue.rows("select from mqtt_private.duplicate_images") == []


@pytest.mark.usefixtures("device")
def test_the_same_bytes_under_another_name_or_time_are_another_picture(queue: Queue) -> None:
    for fields in ({}, {"image_name": "b.jpg"}, {"captured_at": MORNING}, {"captured_at": EVENING}):
        assert stored(queue, sha256="ab", **fields)["result"] == "complete"
    assert len(images(queue)) == 4


@pytest.mark.usefixtures("device")
def test_results_are_in_order_also_of_pictures_that_nobody_knows(queue: Queue) -> None:
    first, second = queue.image("d1", image_name="a.jpg"), queue.image("d1", image_name="b.jpg")
    unknown = str(UUID(int=7))
    answers = queue.settle_images(
        {"image_id": second["image_id"], "outcome": "asked"},
        {"image_id": unknown, "outcome": "complete"},
        {"image_id": first["image_id"], "outcome": "failed", "error": "x"},
        {"image_id": second["image_id"], "outcome": "complete", "sha256": "1"},
    )
    assert [(answer["image_id"], answer["result"]) for answer in answers] == [
        (second["image_id"], "asked"), (unknown, "unknown"), (first["image_id"], "failed"),
        (second["image_id"], "complete"),
    ]  # fmt: skip
    assert answers[1]["storage_path"] is None
    assert queue.settle_images() == []


@pytest.mark.usefixtures("device")
def test_a_worker_that_was_succeeded_fails_nothing_and_what_it_stored_is_stored(queue: Queue) -> None:
    """Fails when fn_settle_image does not ask fn_is_visit_held_by_other."""
    first = queue.image("d1", "w1", captured_at=MORNING)
    queue.pass_time("11 s")
    queue.image("d1", "w2", captured_at=MORNING)
    before = images(queue)
    for outcome in ("failed", "asked"):
        answer = queue.settle_image(first["image_id"], outcome, "w1", error="late", missing_requests=3)
        assert answer["result"] == "asked"
    assert images(queue) == before
    assert queue.settle_image(first["image_id"], "complete", "w1", sha256="1")["result"] == "complete"


@pytest.mark.usefixtures("device")
def test_two_reports_on_one_picture_at_once_end_complete(queue: Queue, other: Queue) -> None:
    answer = queue.image("d1", captured_at=MORNING)
    queue.connection.execute("begin")
    queue.settle_image(answer["image_id"], "complete", sha256="1")
    late = waiting(other, lambda: other.settle_image(answer["image_id"], "failed", error="late"))
    with late as settled:
        queue.connection.execute("commit")
        assert settled.result(timeout=10)["result"] == "complete"
    assert row_of(queue, answer)["status"] == "complete"


# Never finished


@pytest.mark.usefixtures("device")
def test_a_picture_of_which_nothing_is_heard_for_an_hour_fails(queue: Queue) -> None:
    old, young = queue.image("d1", image_name="a.jpg"), queue.image("d1", image_name="b.jpg")
    _age(queue, old["image_id"], "61 min")
    _age(queue, young["image_id"], "50 min")
    queue.claim()
    row = row_of(queue, old)
    assert (row["status"], row["last_error"]) == ("failed", "the upload was not finished")
    assert row_of(queue, young)["status"] == "receiving"
    assert [event["event_type"] for event in queue.rows("select * from device_history")] == ["image_failed"]


def _age(queue: Queue, image_id: str, interval: str) -> None:
    with queue.connection.transaction():
        queue.connection.execute("set local session_replication_role = replica")
        queue.connection.execute(
            "update device_images set updated_at = now() - %s::interval where image_id = %s",
            (interval, image_id),
        )


@pytest.mark.usefixtures("device")
def test_no_claim_waits_or_fails_for_an_unfinished_picture(queue: Queue) -> None:
    image = queue.image("d1")["image_id"]
    _age(queue, image, "2 h")
    with locked_devices(queue):
        queue.claim()
    assert states(queue) == [("a.jpg", "receiving")]
    queue.connection.execute("alter table device_images add constraint theirs check (status <> 'failed')")
    try:
        queue.claim()
    finally:
        queue.connection.execute("alter table device_images drop constraint theirs")
    assert states(queue) == [("a.jpg", "receiving")]
    queue.claim()
    assert states(queue) == [("a.jpg", "failed")]


# What is hostile or refused


@pytest.mark.parametrize(
    "poison",
    [{"image_name": ""}, {"image_name": None}, {"captured_at": "yesterday noon"}],
)
def test_a_picture_that_the_database_cannot_take_is_refused_alone(queue: Queue, poison: Row) -> None:
    for name in ("d1", "d2", "d3"):
        queue.device(name)
    answers = queue.images({"topic_id": "d1"}, {"topic_id": "d2", **poison}, {"topic_id": "d3"})
    assert [answer["result"] for answer in answers] == ["receiving", "refused", "receiving"]
    assert (answers[1]["device_id"], answers[1]["image_id"]) == (None, None)
    assert answers[1]["error"]
    assert len(queue.rows("select from device_telemetry")) == 2


@pytest.mark.parametrize(
    "poison", [{"image_size": 2**40}, {"total_chunks": "many"}, {"metadata": {"a": 1}, "error_code": 1e30}]
)
@pytest.mark.usefixtures("device")
def test_a_value_that_its_column_cannot_hold_is_left_out_and_the_picture_is_received(
    queue: Queue, poison: Row
) -> None:
    answer = queue.image("d1", **poison)
    assert answer["result"] == "receiving"
    [warning] = answer["warnings"]
    assert f"public.device_images does not take {list(poison)[-1]}: " in warning
    assert row_of(queue, answer)["metadata"] == poison.get("metadata", {})


def test_elements_that_are_no_objects_are_refused_in_their_place(queue: Queue) -> None:
    answer = queue.call("fn_record_images", p_worker="w1", p_images=json.dumps([None, 3, {"topic_id": ""}]))
    assert [one["result"] for one in answer] == ["unknown_device"] * 3


@pytest.mark.usefixtures("device")
def test_a_projects_own_rule_refuses_one_picture_and_no_other(queue: Queue) -> None:
    queue.connection.execute("alter table device_images add constraint no_cats check (image_name !~ 'cat')")
    try:
        answers = queue.images(*({"topic_id": "d1", "image_name": name} for name in ("a", "cat", "b")))
        assert [answer["result"] for answer in answers] == ["receiving", "refused", "receiving"]
        assert "no_cats" in answers[1]["error"]
        assert queue.hello("d1", pending_names=["cat"])["result"] == "known"
    finally:
        queue.connection.execute("alter table device_images drop constraint no_cats")


@pytest.mark.usefixtures("device")
def test_devices_that_someone_holds_are_not_waited_for_without_end(queue: Queue) -> None:
    image = queue.image("d1")["image_id"]
    with locked_devices(queue):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            queue.image("d1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            queue.settle_image(image, "complete", sha256="1")
    assert states(queue) == [("a.jpg", "receiving")]


@pytest.mark.parametrize("worker", ["", None])
def test_a_worker_must_have_a_name(queue: Queue, worker: str) -> None:
    for call in (queue.images, queue.settle_images):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="p_worker"):
            call(worker=worker)


def test_a_picture_from_a_device_without_a_visit_is_answered_for_its_own_schedule(queue: Queue) -> None:
    queue.device("d1")
    queue.connection.execute("update devices set wake_schedule_cron = '0 3 * * *'")
    for moment in (queue.image("d1")["next_wake_at"], queue.image("d1", image_name="")["next_wake_at"]):
        assert datetime.fromisoformat(moment).hour == 3
        assert datetime.fromisoformat(moment) - queue.now() <= timedelta(days=1)


# Clocks that lie


def test_a_picture_of_another_size_with_the_name_and_the_time_of_a_stored_one_is_received(
    queue: Queue, device: UUID
) -> None:
    announced: dict[str, Any] = {"captured_at": MORNING, "total_chunks": 33}
    first = stored(queue, "1", image_size=4153, **announced)
    assert queue.image("d1", image_size=4153, **announced)["result"] == "complete"
    assert queue.image("d1", **announced)["result"] == "complete"  # it did not say its size
    other_one = queue.image("d1", image_size=5000, **announced)
    assert other_one["result"] == "receiving"
    assert other_one["image_id"] != first["image_id"]
    assert queue.image("d1", image_size=5000, **announced)["image_id"] == other_one["image_id"]
    queue.settle_image(other_one["image_id"], "complete", sha256="2", image_size=5000)
    assert states(queue) == [("a.jpg", "complete"), ("a.jpg", "complete")]
    again = queue.image("d1", image_size=5000, **announced)
    assert queue.settle_image(again["image_id"], "complete", sha256="2", image_size=5000)["result"] == (
        "duplicate"
    )
