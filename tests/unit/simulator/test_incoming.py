"""What a simulated device makes of the service's messages."""

from typing import Any

import pytest

from mqtt_service.simulator.incoming import command_type, is_wake_time, read_message
from mqtt_service.simulator.link import ReceivedMessage

MAC = "AA:BB:CC:DD:EE:01"

COMMANDS: dict[str, dict[str, Any]] = {
    "capture_image": {"capture_image": True},
    "send_image": {"send_image": "image_001.jpg"},
    "set_wake_schedule": {"next_wake": "5:30PM"},
    "update_config": {"interval": 5},
    "reboot": {"reboot": True},
    "ping": {"ping": True, "timestamp": "2025-08-29T14:30:00Z"},
    "update_firmware": {"firmware_url": "https://example.test/1.bin", "version": "2"},
}


@pytest.mark.parametrize(
    ("value", "readable"),
    [
        ("12:00AM", True), ("5:30PM", True), ("2025-08-29T14:30:00Z", True),
        ("2025-08-29T14:30:00+02:00", True), ("05:30PM", False), ("13:00PM", False), ("5PM", False),
        ("5:30 PM", False), ("2025-08-29T14:30:00", False), (17, False), (None, False),
    ],
)  # fmt: skip
def test_it_reads_wake_times_as_firmware_does(value: object, readable: bool) -> None:
    assert is_wake_time(value) is readable


@pytest.mark.parametrize(("name", "fields"), [*COMMANDS.items(), ("unknown", {})])
def test_it_tells_commands_apart_by_their_keys(name: str, fields: dict[str, Any]) -> None:
    assert command_type({"device_id": MAC, "command_id": "c1", **fields}) == name


@pytest.mark.parametrize(
    ("topic", "payload", "kind"),
    [
        (
            f"device/{MAC}/cmd",
            b'{"device_id": "aabbccddee01", "command_id": "c1", "reboot": true}',
            "command",
        ),
        (
            f"device/{MAC}/ack",
            b'{"device_id": "aabbccddee01", "image_name": "a", "missing_chunks": [1]}',
            "reply",
        ),
        (f"device/{MAC}/ack", b'{"command_ack": "acknowledged"}', "own"),
        (f"device/{MAC}/cmd", b"[1]", "unreadable"),
        (f"device/{MAC}/cmd", b"{", "unreadable"),
    ],
)
def test_it_tells_messages_apart(topic: str, payload: bytes, kind: str) -> None:
    message = read_message(ReceivedMessage(topic, payload, 1, retained=False), MAC)
    assert (message.kind, bool(message.faults)) == (kind, kind == "unreadable")


def test_a_command_that_was_retained_or_sent_at_qos_0_breaks_the_protocol() -> None:
    payload = b'{"device_id": "aabbccddee01", "command_id": "c1", "reboot": true}'
    message = read_message(ReceivedMessage(f"device/{MAC}/cmd", payload, 0, retained=True), MAC)
    assert message.faults == ("the message was retained", "QoS 0, not 1")
