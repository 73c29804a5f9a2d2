"""Devices of an older project wake: what its tables hold stays, and what they refuse costs no answer."""

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.applying import apply
from tests.integration.database.queue_calls import Queue, copied
from tests.integration.database.test_adoption import OLD_PROJECT

OLD = UUID("d0000000-0000-4000-8000-000000000031")
TWICE = UUID("d0000000-0000-4000-8000-000000000032")
MORNING = "2025-08-29T08:00:00Z"


@pytest.fixture
def project(platform_url: str) -> Iterator[psycopg.Connection]:
    """The older project, before the migrations."""
    with psycopg.connect(platform_url, autocommit=True) as connection:
        connection.execute(OLD_PROJECT.read_bytes())
        yield connection


@pytest.fixture(scope="module")
def adopted(server_url: str) -> Iterator[psycopg.Connection]:
    """The older project, after the migrations."""
    with copied(server_url, "platform") as connection:
        connection.execute(OLD_PROJECT.read_bytes())
        apply(connection)
        yield connection


@pytest.fixture
def queue(adopted: psycopg.Connection) -> Iterator[Queue]:
    """The same; what a test changes is undone after it."""
    with adopted.transaction(force_rollback=True):
        yield Queue(adopted)


def test_a_device_of_the_project_is_known_in_any_spelling_and_its_commands_wait_for_it(queue: Queue) -> None:
    answer = queue.hello("111111111101", topic_root="ESP32CAM", battery_voltage=3.7)
    assert (answer["result"], answer["device_id"], answer["device_code"]) == ("known", str(OLD), "OLD-1")
    assert (answer["is_active"], answer["holds_lease"], answer["commands"]) == (True, True, 1)
    assert queue.hold("11:11:11:11:11:01")[0]["open_commands"] == 1


def test_a_device_that_is_there_twice_is_one_and_is_not_registered_again(queue: Queue) -> None:
    answers = queue.hellos({"topic_id": "11:11:11:11:11:02"}, {"topic_id": "1111.1111.1102"})
    assert [answer["result"] for answer in answers] == ["known", "known"]
    assert answers[0]["device_id"] == str(TWICE)


def test_new_devices_are_registered_beside_codes_of_another_form(queue: Queue) -> None:
    answers = queue.hellos({"topic_id": "n1"}, {"topic_id": "n2"})
    assert [answer["device_code"] for answer in answers] == ["DEVICE-ESP32S3-001", "DEVICE-ESP32S3-002"]
    assert [answer["is_active"] for answer in answers] == [False, False]  # whatever the column's default is
    events = queue.rows("select from device_history where event_type = 'self_registered'")
    assert len(events) == 2


def test_a_command_that_was_sent_long_ago_is_left_alone(queue: Queue) -> None:
    queue.hello("111111111101")
    claimed = queue.claim()
    assert [command["command_type"] for command in claimed["commands"]] == ["capture_image"]
    assert claimed["expired"] == []


def test_pictures_of_the_project_stay_and_one_that_waits_is_received(queue: Queue) -> None:
    before = queue.rows("select * from device_images where status = 'complete'")
    queue.hello("111111111101")
    queue.hello("111111111101", pending_names=["image_1.jpg"])
    waiting = queue.rows("select image_id from device_images where status = 'pending'")
    assert len(waiting) == 1
    answer = queue.image("111111111101", image_name="image_1.jpg", captured_at=MORNING, temperature=21.5)
    assert answer["image_id"] == str(waiting[0]["image_id"])
    assert queue.settle_image(answer["image_id"], "complete", sha256="1")["result"] == "complete"
    assert queue.image("111111111101", image_name="image_1.jpg", captured_at=MORNING)["result"] == "complete"
    assert (
        queue.rows("select * from device_images where status = 'complete' and captured_at is null") == before
    )


def test_readings_beyond_what_its_columns_hold_do_not_cost_the_picture(queue: Queue) -> None:
    answer = queue.image("111111111101", temperature=123456.7, humidity=41.5)
    assert answer["result"] == "receiving"
    [warning] = answer["warnings"]
    assert "public.device_telemetry does not take temperature" in warning
    [row] = queue.rows("select temperature, humidity from device_telemetry where image_id is not null")
    assert (row["temperature"], float(row["humidity"])) == (None, 41.5)


def test_a_column_that_the_project_demands_refuses_what_lacks_it_with_the_reason(
    project: psycopg.Connection,
) -> None:
    project.execute("alter table devices add column serial_number text")
    project.execute("update devices set serial_number = 'unknown'")
    project.execute("alter table devices alter column serial_number set not null")
    apply(project)
    answers = Queue(project).hellos({"topic_id": "n1"}, {"topic_id": "111111111101"})
    assert [answer["result"] for answer in answers] == ["refused", "known"]
    assert "serial_number" in answers[0]["error"]


def test_pictures_that_are_there_twice_are_kept_and_named(project: psycopg.Connection) -> None:
    warnings: list[str] = []
    project.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    project.execute("alter table device_images add column captured_at timestamptz")
    project.execute("update device_images set captured_at = '2025-08-29 08:00Z'")
    for _ in range(2):
        apply(project)
    assert any("device_images_captured_key is not unique" in text for text in warnings)
    answer = Queue(project).image("111111111101", image_name="image_1.jpg", captured_at=MORNING)
    assert answer["result"] == "complete"


def test_a_unique_constraint_of_the_project_stays_and_refuses_the_second_picture_of_a_name(
    project: psycopg.Connection,
) -> None:
    project.execute("delete from device_images")
    project.execute(
        "alter table device_images"
        " add constraint device_images_device_image_key unique (device_id, image_name)"
    )
    apply(project)
    queue = Queue(project)
    first = queue.image("111111111101", captured_at=MORNING)
    assert queue.settle_image(first["image_id"], "complete", sha256="1")["result"] == "complete"
    answers = queue.images(
        {"topic_id": "111111111101", "captured_at": "2025-08-30T08:00:00Z"},
        {"topic_id": "111111111101", "captured_at": "2025-08-30T08:00:00Z", "image_name": "b.jpg"},
    )
    assert [answer["result"] for answer in answers] == ["refused", "receiving"]
    assert "device_images_device_image_key" in answers[0]["error"]


def test_columns_of_related_types_take_what_a_device_says(project: psycopg.Connection) -> None:
    project.execute(
        "alter table device_images add column metadata json not null default '{}',"
        " add column captured_at timestamp, add column image_size bigint, add column location varchar(80);"
        " alter table devices add column wifi_rssi smallint, add column last_wake_at timestamp"
    )
    apply(project)
    queue = Queue(project)
    assert queue.hello("111111111101", wifi_rssi=-61)["result"] == "known"
    for _ in range(2):
        answer = queue.image(
            "111111111101", captured_at=MORNING, image_size=7, location="ward 4", metadata={"a": 1}
        )
        assert answer["result"] == "receiving"
    [row] = queue.rows("select metadata, image_size from device_images where location = 'ward 4'")
    assert row == {"metadata": {"a": 1}, "image_size": 7}
