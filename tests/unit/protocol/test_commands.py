"""Each command is on the wire as the protocol's table has it; what cannot be sent says what to do."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.errors import LocalProtocolError
from mqtt_service.protocol.commands import (
    LARGEST_COMMAND,
    Command,
    WakeFormat,
    delivery_notice,
    wire_time,
)
from mqtt_service.protocol.commands import encode_command as encode_at

COMMAND_ID = UUID("0f9c0000-0000-4000-8000-000000000001")
DEVICE_ID = UUID("a0000000-0000-4000-8000-000000000031")
SPELLED = "AA:BB:CC:DD:EE:FF"
FOUR_PM = datetime(2025, 8, 29, 16, tzinfo=UTC)
KIND_OF_TYPES = [
    "capture_image",
    "send_image",
    "set_wake_schedule",
    "update_config",
    "reboot",
    "update_firmware",
    "ping",
]
NOW = datetime(2025, 8, 29, 14, 30, 0, 999, tzinfo=UTC)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def encode_command(row: Command, wake_format: WakeFormat = "12h") -> bytes:
    return encode_at(row, now=NOW, wake_format=wake_format)


def command(command_type: str, payload: dict[str, Any] | None = None, **changes: Any) -> Command:
    fields: dict[str, Any] = {
        "command_id": COMMAND_ID,
        "device_id": DEVICE_ID,
        "device_code": "DEVICE-ESP32S3-001",
        "device_name": None,
        "device_mac": SPELLED,
        "topic_root": "device",
        "topic_id": SPELLED,
        "command_type": command_type,
        "payload": payload or {},
        "attempt": 1,
        "retry_count": 0,
        "seconds_to_expiry": 60.0,
        **changes,
    }
    return Command(**fields)


@pytest.mark.parametrize(
    ("row", "own"),
    [
        (command("capture_image", {"capture_image": True}), '"capture_image": true'),
        (command("send_image", {"image_name": "image_001.jpg"}), '"send_image": "image_001.jpg"'),
        (command("set_wake_schedule", next_wake_at=FOUR_PM), '"next_wake": "4:00PM"'),
        (command("update_config", {"interval": 5, "name": "é"}), '"interval": 5, "name": "é"'),
        (command("reboot", {"reboot": True}), '"reboot": true'),
        (command("ping", {"ping": True}), '"ping": true, "timestamp": "2025-08-29T14:30:00Z"'),
        (command("ping", {"timestamp": 17}), '"ping": true, "timestamp": 17'),
        (command("water_plants", {"litres": 2}), '"litres": 2'),
        (
            command(
                "update_firmware", {"firmware_url": "https://f.example/1.bin", "version": "1.2", "note": "-"}
            ),
            '"firmware_url": "https://f.example/1.bin", "version": "1.2"',
        ),
        (
            command("update_firmware", {"firmware_url": "https://f.example/1.bin", "sha256": "aB" * 32}),
            f'"firmware_url": "https://f.example/1.bin", "sha256": "{"aB" * 32}"',
        ),
    ],
    ids=lambda value: value.command_type if isinstance(value, Command) else "",
)
def test_a_command_is_on_the_wire_exactly_so(row: Command, own: str) -> None:
    expected = f'{{"device_id": "{SPELLED}", "command_id": "{COMMAND_ID}", {own}}}'
    assert encode_command(row).decode() == expected


def test_the_device_is_named_as_it_last_spelled_itself() -> None:
    sent = json.loads(encode_command(command("reboot", topic_id="aabbccddeeff")))
    assert sent["device_id"] == "aabbccddeeff"


def test_a_configuration_cannot_overwrite_who_and_which() -> None:
    payload = {"device_id": "another", "command_id": "forged", "interval": 5}
    sent = json.loads(encode_command(command("update_config", payload)))
    assert sent == {"device_id": SPELLED, "command_id": str(COMMAND_ID), "interval": 5}


def test_a_type_that_is_not_built_in_is_sent_as_a_configuration_is() -> None:
    payload = {"device_id": "another", "litres": 2}
    sent = json.loads(encode_command(command("water_plants", payload)))
    assert sent == {"device_id": SPELLED, "command_id": str(COMMAND_ID), "litres": 2}


def test_a_ping_without_a_time_has_the_time_of_sending_in_utc() -> None:
    here = NOW.astimezone(timezone(timedelta(hours=2)))
    sent = json.loads(encode_at(command("ping", {"timestamp": None}), now=here))
    assert sent["timestamp"] == "2025-08-29T14:30:00Z"


def test_wake_times_can_be_iso() -> None:
    sent = json.loads(encode_command(command("set_wake_schedule", next_wake_at=FOUR_PM), wake_format="iso"))
    assert sent["next_wake"] == "2025-08-29T16:00:00Z"


@pytest.mark.parametrize(
    ("moment", "wire"),
    [
        (FOUR_PM, "4:00PM"),
        (FOUR_PM.replace(hour=0), "12:00AM"),
        (FOUR_PM.replace(hour=12), "12:00PM"),
        (FOUR_PM.replace(hour=17, minute=30), "5:30PM"),
        (FOUR_PM.replace(hour=11, minute=59, second=1), "12:00PM"),
        (FOUR_PM.replace(hour=23, minute=59, microsecond=1), "12:00AM"),
        (FOUR_PM.replace(tzinfo=timezone(timedelta(hours=10, minutes=30))), "5:30AM"),
    ],
)
def test_wire_times_are_utc_on_the_twelve_hour_clock_and_never_just_gone(moment: datetime, wire: str) -> None:
    assert wire_time(moment, "12h") == wire


@given(st.integers(0, 10**13))
def test_a_wire_time_names_the_minute_at_or_after_the_wake(milliseconds: int) -> None:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    named = datetime.strptime(wire_time(moment, "12h") + " +0000", "%I:%M%p %z")
    later = moment + timedelta(minutes=1) - timedelta(microseconds=1)
    assert (later.hour, later.minute) == (named.hour, named.minute)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (command("send_image"), "needs command_payload.image_name"),
        (command("send_image", {"image_name": 7}), "needs command_payload.image_name"),
        (command("send_image", {"image_name": "a\nb"}), "needs command_payload.image_name"),
        (command("send_image", {"image_name": "x" * 256}), "1 to 255 characters"),
        (command("set_wake_schedule"), "give command_payload next_wake_time or wake_schedule_cron"),
        (command("set_wake_schedule", next_wake_at=FOUR_PM.replace(tzinfo=None)), "has no time zone"),
        (command("set_wake_schedule", next_wake_at=datetime.max.replace(tzinfo=UTC)), "out of range"),
        (command("update_firmware"), "an https:// URL"),
        (command("update_firmware", {"firmware_url": "http://f.example/1.bin"}), "an https:// URL"),
        (command("update_firmware", {"firmware_url": "https://"}), "an https:// URL"),
        (command("update_firmware", {"firmware_url": "https://a/ b"}), "an https:// URL"),
        (command("update_firmware", {"firmware_url": "https://a/b", "sha256": "12"}), "64 hex digits"),
        (
            command("update_firmware", {"firmware_url": "https://" + "a" * 120_000 + " "}),
            "at most 2048 characters",
        ),
        (command("update_config", {"a": math.nan}), "finite numbers"),
        (command("update_config", {"a": [math.inf]}), "finite numbers"),
        (command("update_config", {"a": "\ud800"}), "valid text"),
        (command("update_config", {"a": FOUR_PM}), "not plain JSON"),
        (
            command("update_config", {"a": "x" * LARGEST_COMMAND}),
            f"shorten command_payload to {LARGEST_COMMAND}",
        ),
    ],
)
def test_what_cannot_be_sent_says_what_to_do(row: Command, advice: str) -> None:
    with pytest.raises(LocalProtocolError, match=advice.replace("(", r"\(")):
        encode_command(row)


def test_a_configuration_nested_beyond_reason_is_our_fault_not_a_crash() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(LocalProtocolError, match="shallow nesting"):
        encode_command(command("update_config", deep))


@given(st.sampled_from([*KIND_OF_TYPES, "dance"]), st.dictionaries(st.text(), json_values, max_size=4))
def test_any_row_is_encoded_or_a_local_fault(command_type: str, payload: dict[str, Any]) -> None:
    try:
        sent = json.loads(encode_command(command(command_type, payload)))
    except LocalProtocolError:
        return
    assert (sent["device_id"], sent["command_id"]) == (SPELLED, str(COMMAND_ID))


@given(st.dictionaries(st.text(), st.integers() | st.text(), max_size=6))
def test_a_configuration_comes_back_as_it_was_sent(payload: dict[str, Any]) -> None:
    try:
        sent = json.loads(encode_command(command("update_config", payload)))
    except LocalProtocolError:
        return
    ours = {"device_id": SPELLED, "command_id": str(COMMAND_ID)}
    assert sent == {**payload, **ours}


@pytest.mark.parametrize(
    ("ahead", "in_12h", "in_iso"),
    [
        (timedelta(minutes=1), None, None),
        (timedelta(seconds=-20), None, "past"),  # in 12 hours, said as the minute that comes
        (timedelta(hours=23, minutes=59), None, None),
        (timedelta(hours=24), "more than a day ahead", None),  # said as a minute that comes at once
        (timedelta(hours=24, minutes=1), "more than a day ahead", None),
        (timedelta(days=30), "more than a day ahead", None),
        (timedelta(minutes=-1), "past", "past"),
        (timedelta(days=-400), "past", "past"),
    ],
)
def test_a_wake_that_cannot_be_said_has_a_notice(
    ahead: timedelta, in_12h: str | None, in_iso: str | None
) -> None:
    """A 12-hour time has no date, so it means the next time that a clock shows it."""
    now = datetime(2025, 8, 29, 14, 29, 30, tzinfo=UTC)
    row = command("set_wake_schedule", next_wake_at=now + ahead)
    expected: dict[WakeFormat, str | None] = {"12h": in_12h, "iso": in_iso}
    for wake_format, words in expected.items():
        notice = delivery_notice(row, now=now, wake_format=wake_format)
        assert (notice is None) == (words is None)
        assert (words or "") in (notice or "")


def test_a_wake_at_the_end_of_time_that_can_be_said_has_no_notice_and_no_fault() -> None:
    end = datetime.max.replace(tzinfo=UTC)
    row = command("set_wake_schedule", next_wake_at=end)
    assert b"9999-12-31T23:59:59Z" in encode_command(row, "iso")
    assert delivery_notice(row, now=NOW, wake_format="iso") is None


def test_a_command_without_a_wake_has_no_notice() -> None:
    assert delivery_notice(command("reboot"), now=NOW) is None


def test_an_update_to_a_release_carries_its_signed_address_and_what_the_release_is() -> None:
    payload = {"release_id": "r", "version": "1.4.0", "sha256": "ab" * 32, "size": 1000}
    row = command("update_firmware", payload, firmware_path="c/1.bin")
    sent = json.loads(encode_at(row, now=NOW, firmware_url="http://127.0.0.1/signed?token=t"))
    sent.pop("device_id")
    sent.pop("command_id")
    assert sent == {
        "firmware_url": "http://127.0.0.1/signed?token=t",
        "version": "1.4.0",
        "sha256": "ab" * 32,
        "size": 1000,
    }


def test_an_update_to_a_release_without_an_address_is_not_sent() -> None:
    row = command("update_firmware", {"version": "1.4.0"}, firmware_path="c/1.bin")
    with pytest.raises(LocalProtocolError, match="not signed"):
        encode_at(row, now=NOW)
