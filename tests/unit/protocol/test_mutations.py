"""Real messages with random damage, through the functions by which the service reads them.

Some thousand in each run; MQTT_SERVICE_LONG_DRILLS=1 tries 200,000.
"""

import base64
import json
import os
import re
import sys
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol import lenient_json
from mqtt_service.protocol.images import parse_data
from mqtt_service.protocol.messages import Acknowledgement, Heartbeat, parse_ack, parse_heartbeat
from mqtt_service.protocol.topics import Topic
from mqtt_service.protocol.wire_json import LARGEST_MESSAGE, read_message

LONG = os.environ.get("MQTT_SERVICE_LONG_DRILLS") == "1"
EXAMPLES = 200_000 if LONG else 2_000
pytestmark = pytest.mark.timeout(7200 if LONG else 300)
DEVICE = "AA:BB:CC:DD:EE:FF"
NOW = datetime(2025, 9, 1, tzinfo=UTC)
ID = "0f9c2c1e-6f0b-4d36-9a53-0d8f7f7a2b11"

HELLOS: list[dict[str, Any]] = [
    {"device_id": DEVICE, "status": "alive", "pendingImg": 2, "pending_list": ["image_1.jpg", "ü.jpg"]},
    {"alive": True, "battery_voltage": 3.9, "wifi_rssi": -60, "location": 'ward 4\n\t"x"'},
]
# Without any word of success, whatever a mutation puts together.
FAILED: list[dict[str, Any]] = [
    {"device_id": DEVICE, "command_id": ID, "command_ack": "failed", "reason": "sd card full"},
    {"command_ack": {"type": "reboot", "status": "rejected", "message": "not now"}, "command_id": ID},
]
DATA: list[dict[str, Any]] = [
    {"image_name": "a.jpg", "image_size": 900, "total_chunks_count": 3, "sensor_data": {"humidity": 45.2}},
    {"image_name": "a.jpg", "chunk_id": 1, "payload": base64.b64encode(bytes(range(99))).decode()},
    {"image_name": "a.jpg", "chunk_id": 2, "payload": list(range(60))},
    {"temperature": 25.5, "timestamp": "2025-08-29T14:30:00Z"},
]
LAST_WILL = re.compile(rb"offline|alive.*false", re.IGNORECASE | re.DOTALL)
SUCCESS = re.compile(rb"acknowledged|ok|success|done|true", re.IGNORECASE)


def written(documents: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(document, ensure_ascii=False).encode() for document in documents]


ALL = [*written(HELLOS), *written(FAILED), *written(DATA)]
BYTES = st.binary(max_size=4) | st.sampled_from(
    [b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\0", b"\n", b"nan", b'\\"', b'":"', b'","']
)


@st.composite
def damaged(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """One of these, with a few bytes changed, cut out, put in or taken from another one."""
    message = draw(st.sampled_from(messages))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(message)))
        end = draw(st.integers(start, min(len(message), start + 12)) | st.just(len(message)))
        other = draw(st.sampled_from(messages))
        place = draw(st.integers(0, len(other)))
        put_in = draw(st.just(b"") | BYTES | st.just(other[place : place + 30]))
        message = message[:start] + put_in + message[end:]
    return message


def tries(share: float) -> settings:
    return settings(
        max_examples=round(EXAMPLES * share), deadline=None, suppress_health_check=list(HealthCheck)
    )


@tries(0.4)
@given(damaged(ALL))
def test_a_hello_is_always_answered_and_nothing_else_is_raised(payload: bytes) -> None:
    said = parse_heartbeat(Topic("device", DEVICE, "status"), payload)
    assert isinstance(said, Heartbeat) or not payload or LAST_WILL.search(payload)


@tries(0.3)
@given(damaged(written(FAILED)))
def test_no_failure_becomes_a_success(payload: bytes) -> None:
    try:
        answer = parse_ack(Topic("device", DEVICE, "ack"), payload)
    except RemoteProtocolError:
        return
    if isinstance(answer, Acknowledgement) and answer.outcome == "success":
        assert SUCCESS.search(payload)
    if isinstance(answer, Acknowledgement):
        json.dumps(dict(answer.response), allow_nan=False, ensure_ascii=False).encode()


@tries(0.3)
@given(damaged(ALL))
def test_data_is_read_or_a_remote_fault(payload: bytes) -> None:
    try:
        parse_data(Topic("device", DEVICE, "data"), payload, now=NOW)
    except RemoteProtocolError:
        return


class CountingPattern:
    """A pattern that counts how many characters it looks at, at most."""

    def __init__(self, pattern: re.Pattern[str], looked_at: list[int]) -> None:
        self._pattern = pattern
        self._looked_at = looked_at

    def match(self, text: str, place: int) -> re.Match[str] | None:
        found = self._pattern.match(text, place)
        self._looked_at.append((found.end() if found else len(text)) - place)
        return found


def work_of(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many characters the reader looks at, and how many functions it calls."""
    looked_at: list[int] = []
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    with monkeypatch.context() as patch:
        for name in ("_BETWEEN", "_TOKEN"):
            patch.setattr(lenient_json, name, CountingPattern(getattr(lenient_json, name), looked_at))
        sys.setprofile(count)
        try:
            read_message(payload)
        except RemoteProtocolError:
            pass
        finally:
            sys.setprofile(None)
    return sum(looked_at), calls


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (b'{"a":', b'"'),
        (b'{"a":', b"'"),
        (b'{"a":', b"["),
        (b"", b'{"a":'),
        (b'{"a":"', b"\\"),
        (b"{", b","),
        (b"{", b"'a':1 "),
        (b"{", b'"a":"x" b'),
        (b"{'a':1}", b"\0"),
        (b"{'a':[", b"\0"),
        (b"{'a':[", b"1,,"),
        (b"{'a':", b'{"a":"'),
        (b"{'a':", b"9"),
        (b"{'a':'", b'\\"'),
        (b"", b'"\\"'),
    ],
)
def test_the_work_grows_as_the_message_does(
    start: bytes, repeated: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: each character is looked at a few times, however many there are."""
    payload = (start + repeated * LARGEST_MESSAGE)[:LARGEST_MESSAGE]
    characters, calls = work_of(payload, monkeypatch)
    assert characters <= 4 * len(payload)
    assert calls <= 40 * len(payload)
