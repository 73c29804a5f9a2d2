"""Real messages with random damage, through the functions by which the service reads them.

Some thousand in each run, always the same ones; MQTT_SERVICE_LONG_DRILLS=1 tries 200,000. A failure names
the seed by which it comes again.
"""

import base64
import json
import os
import re
import sys
from datetime import UTC, datetime
from random import Random
from types import FrameType
from typing import Any

import pytest

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol import lenient_json
from mqtt_service.protocol.images import ImageChunk, parse_data
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
PUT_IN = [b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\0", b"\n", b"nan", b'\\"', b'":"', b'","']


def damaged(seed: int, messages: list[bytes]) -> bytes:
    """One of these, with a few bytes changed, cut out, put in or taken from another one."""
    random = Random(seed)
    message = random.choice(messages)
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(message))
        end = random.choice([start, start + 1, start + random.randint(0, 12), len(message)])
        other = random.choice(messages)
        place = random.randint(0, len(other))
        put_in = random.choice(
            [b"", random.choice(PUT_IN), random.randbytes(random.randint(1, 4)), other[place : place + 30]]
        )
        message = message[:start] + put_in + message[end:]
    return message


def seeds(share: float) -> range:
    return range(round(EXAMPLES * share))


def test_a_hello_is_always_answered_and_nothing_else_is_raised() -> None:
    topic = Topic("device", DEVICE, "status")
    for seed in seeds(0.4):
        payload = damaged(seed, ALL)
        said = parse_heartbeat(topic, payload)
        assert isinstance(said, Heartbeat) or not payload or LAST_WILL.search(payload), (seed, payload)


def test_no_failure_becomes_a_success() -> None:
    topic, failed = Topic("device", DEVICE, "ack"), written(FAILED)
    read = 0
    for seed in seeds(0.3):
        payload = damaged(seed, failed)
        try:
            answer = parse_ack(topic, payload)
        except RemoteProtocolError:
            continue
        if isinstance(answer, Acknowledgement):
            read += 1
            assert answer.outcome != "success" or SUCCESS.search(payload), (seed, payload)
            json.dumps(dict(answer.response), allow_nan=False, ensure_ascii=False).encode()
    assert read > len(seeds(0.3)) / 20


def test_data_is_read_or_a_remote_fault() -> None:
    topic, data = Topic("device", DEVICE, "data"), written(DATA)
    repaired = 0
    for seed in seeds(0.3):
        payload = damaged(seed, data)
        try:
            said = parse_data(topic, payload, now=NOW)
        except RemoteProtocolError:
            continue
        repaired += isinstance(said, ImageChunk) and bool(said.repairs)
        assert not isinstance(said, ImageChunk) or said.data
    assert repaired


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
