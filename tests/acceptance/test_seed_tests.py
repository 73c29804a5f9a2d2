"""The four tests of the service that this one ports, with the SQL as it stands there.

Only the intervals in which they wait are shorter.
"""

import json
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as mqtt
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from mqtt_service import __version__
from tests.acceptance.conftest import Database
from tests.acceptance.processes import Worker, eventually, worker

TEST_1_INSERT = """
INSERT INTO device_commands (device_id, command_type, command_payload, status)
VALUES (
  (SELECT device_id FROM devices WHERE device_mac = 'AA:BB:CC:DD:EE:FF' LIMIT 1),
  'capture_image',
  '{"capture_image": true}'::jsonb,
  'pending'
);
"""
TEST_1_WATCH = """
SELECT
  command_type,
  status,
  delivered_at,
  acknowledged_at
FROM device_commands
ORDER BY issued_at DESC
LIMIT 1;
"""
TEST_2_INSERT = """
INSERT INTO devices (device_mac, device_code, provisioning_status, is_active)
VALUES ('11:22:33:44:55:66', 'DEVICE-TEST-001', 'pending_mapping', false);
"""
TEST_2_VERIFY = """
SELECT * FROM device_commands
WHERE command_type = 'set_wake_schedule'
ORDER BY issued_at DESC
LIMIT 1;
"""
TEST_3_INSERT = """
INSERT INTO device_commands (
  device_id,
  command_type,
  command_payload,
  status
)
VALUES (
  (SELECT device_id FROM devices WHERE is_active = false LIMIT 1),
  'reboot',
  '{"reboot": true}'::jsonb,
  'pending'
);
"""
TEST_3_WATCH = """
SELECT
  command_type,
  status,
  retry_count,
  issued_at
FROM device_commands
ORDER BY issued_at DESC
LIMIT 1;
"""
# What "Map Device" in the admin UI writes.
MAP = """
insert into device_site_assignments (device_id, site_id, program_id)
select d.device_id, s.site_id, s.program_id from devices d, sites s
where d.device_code = %s and s.name = 'Alder North'
"""


@pytest.fixture
def running_worker(stack: dict[str, str], directory: object, tmp_path: Any) -> Iterator[Worker]:
    with worker(stack, tmp_path, RETRY_DELAY="1", POLL_INTERVAL="1") as started:
        yield started


@pytest.fixture
def device(stack: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    """A device on `device/AA:BB:CC:DD:EE:FF/…` that acknowledges what it gets, in the oldest form."""
    got: list[dict[str, Any]] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    subscribed: list[int] = []

    def answer(client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        got.append(json.loads(message.payload))
        client.publish(
            "device/AA:BB:CC:DD:EE:FF/ack",
            json.dumps({"device_id": "AA:BB:CC:DD:EE:FF", "command_ack": "acknowledged"}),
            qos=1,
        )

    client.on_message = answer
    client.on_subscribe = lambda *_: subscribed.append(1)
    client.connect(stack["MQTT_HOST"], int(stack["MQTT_PORT"]))
    client.subscribe("device/AA:BB:CC:DD:EE:FF/cmd", qos=1)
    client.loop_start()
    eventually(lambda: bool(subscribed), "the device's subscription")
    yield got
    client.disconnect()
    client.loop_stop()


def one(database: Database, query: str) -> tuple[Any, ...]:
    row = database.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def test_1_a_queued_command_is_sent_and_acknowledged(
    running_worker: Worker, device: list[dict[str, Any]], database: Database
) -> None:
    database.execute(TEST_1_INSERT)

    def watch() -> tuple[Any, ...] | None:
        row = one(database, TEST_1_WATCH)
        return row if row[1] == "acknowledged" else None

    command_type, _, delivered_at, acknowledged_at = eventually(watch, "the status acknowledged")
    assert command_type == "capture_image"
    assert delivered_at is not None
    assert acknowledged_at is not None
    assert [message["capture_image"] for message in device if "capture_image" in message] == [True]
    running_worker.process.says(r"\[CommandQueue\] ✅ Sent capture_image to DEVICE-ESP32S3-001")
    running_worker.process.says(r"\[CommandQueue\] ✅ Command capture_image acknowledged by device")


def test_2_a_device_that_is_mapped_gets_one_welcome_command(
    running_worker: Worker, database: Database
) -> None:
    database.execute(TEST_2_INSERT)
    database.execute(MAP, ("DEVICE-TEST-001",))

    process = running_worker.process
    process.says(r"\[PROVISIONING\] Device DEVICE-TEST-001 activated!")
    process.says(r"\[PROVISIONING\] Sending welcome command to newly-mapped device\.\.\.")
    process.says(r"\[CommandQueue\] Queued set_wake_schedule command for device")
    process.says(r"\[CommandQueue\] ✅ Sent set_wake_schedule to DEVICE-TEST-001")
    with database.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        command = cursor.execute(TEST_2_VERIFY).fetchone()
    assert command is not None
    assert command["command_payload"]["site_name"] == "Alder North"
    device = one(database, "select provisioning_status, is_active, site_id, next_wake_at from devices "
                           "where device_code = 'DEVICE-TEST-001'")  # fmt: skip
    assert device[:2] == ("active", True)
    assert None not in device
    welcomes = one(database, "select count(*) from device_commands join devices using (device_id) "
                             "where device_code = 'DEVICE-TEST-001'")  # fmt: skip
    assert welcomes == (1,)


def test_3_a_command_for_an_inactive_device_fails_at_once_and_three_times(
    running_worker: Worker, database: Database
) -> None:
    database.execute(TEST_3_INSERT)
    seen: list[tuple[str, int]] = []

    def watch() -> bool:
        _, status, retry_count, _ = one(database, TEST_3_WATCH)
        if status == "failed" and ("failed", retry_count) not in seen:
            seen.append((status, retry_count))
        return bool(retry_count == 3)

    eventually(watch, "the third failure")
    assert seen == [("failed", 1), ("failed", 2), ("failed", 3)]
    due, error = one(
        database, "select due_at, last_error from device_commands order by issued_at desc limit 1"
    )
    assert due is None
    assert "not active" in error


def test_4_the_health_document(running_worker: Worker, stack: dict[str, str]) -> None:
    eventually(lambda: running_worker.health()["status"] == "healthy", "a healthy worker")
    document = running_worker.health()
    assert document["mqtt"] == {
        "connected": True, "host": stack["MQTT_HOST"], "port": int(stack["MQTT_PORT"]), "error": None,
    }  # fmt: skip
    assert document["commandQueue"] == {"running": True, "pollInterval": 1000}
    assert isinstance(document["uptime"], int)
    assert document["version"] == __version__
    assert isinstance(document["realtime"], dict)
    assert document["realtime"]["connected"] is True


def test_a_stopped_worker_leaves_with_status_0_and_no_lease(
    stack: dict[str, str], database: Database, tmp_path: Any
) -> None:
    with worker(stack, tmp_path) as started:
        assert started.process.stop() == 0
    assert "Traceback" not in started.process.output
    assert one(database, "select count(*) from device_commands where lease_worker is not null") == (0,)
