"""What devices say on `…/data`: metadata or a chunk of a picture, or readings; else RemoteProtocolError.

Metadata has a total and no `chunk_id`; a chunk has a `chunk_id`; readings alone have neither, and no name.
Fields that firmware spells in several ways are read in each of them. A bad reading is no reason to refuse a
picture: it counts as absent. payloads.py reads a chunk's bytes, times.py a time.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.lenient_json import Reading, Repair
from mqtt_service.protocol.messages import claimed_device
from mqtt_service.protocol.payloads import chunk_bytes
from mqtt_service.protocol.times import parse_time
from mqtt_service.protocol.topics import Root, Topic
from mqtt_service.protocol.wire_json import (
    LARGEST_MESSAGE,
    number,
    read_message,
    short_text,
    storable,
    whole_number,
)

# 16 KiB as an array of byte values, each of at most three digits, a comma and a blank, with room to spare.
LARGEST_ARRAY_MESSAGE = 128 * 1024
# Metadata stays in memory for as long as its picture is on its way, and in its row for ever.
LARGEST_METADATA = 16 * 1024

_LONGEST_TEXT = 255
_LARGEST_INTEGER = 2**31 - 1
_UNUSABLE_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_CAPTURED_KEYS = ("capture_timestamp", "timestamp", "capture_timeStamp")
_CHUNK_SIZE_KEYS = ("max_chunk_size", "max_chunks_size")
_TOTAL_KEYS = ("total_chunks_count", "total_chunk_count")
# What has one of these is about a picture, though something of it may be missing.
_OF_PICTURES = {"image_name", "image_size", "chunk_id", "payload", *_TOTAL_KEYS, *_CHUNK_SIZE_KEYS}
_LOSES_ITEMS: frozenset[Repair] = frozenset({"missing_comma", "extra_comma", "number", "missing_value"})


class ImageNameError(RemoteProtocolError):
    """A picture's name is too long to be kept; `shown` is its beginning."""

    def __init__(self, shown: str, message: str) -> None:
        self.shown = shown
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Readings:
    """What a device measured when it took the picture: °C, %RH, hPa, kΩ, as sent."""

    temperature: float | None = None
    humidity: float | None = None
    pressure: float | None = None
    gas_resistance: float | None = None


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """A device announces a picture of `size` bytes in `total_chunks` chunks.

    `captured_at` is in UTC, and None where the device's clock was not set; `captured_text` is what the device
    said. `document` is the whole message, as JSON that Postgres can store. `unusable` has one item for each
    reading, and for the time, that the message names and that could not be read.
    """

    root: Root
    device: str
    name: str
    captured_at: datetime | None
    captured_text: str | None
    size: int | None
    chunk_size: int | None
    total_chunks: int
    readings: Readings
    location: str | None
    error_code: int | None
    claimed_device: str | None
    document: Mapping[str, Any]
    unusable: tuple[Literal["reading", "time"], ...] = ()
    repairs: frozenset[Repair] = frozenset()


@dataclass(frozen=True, slots=True)
class LoneReadings:
    """What a device measured without a picture; at least one reading. The other fields are as of metadata."""

    root: Root
    device: str
    captured_at: datetime | None
    readings: Readings
    claimed_device: str | None
    document: Mapping[str, Any]
    unusable: tuple[Literal["reading", "time"], ...] = ()
    repairs: frozenset[Repair] = frozenset()


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """A piece of a picture, never empty; `chunk_id` counts from 0 or from 1, as the device likes."""

    root: Root
    device: str
    name: str
    chunk_id: int
    data: bytes
    claimed_device: str | None
    repairs: frozenset[Repair] = frozenset()


def parse_data(topic: Topic, payload: bytes, *, now: datetime) -> ImageMetadata | ImageChunk | LoneReadings:
    """Read a message on `…/data`; raises RemoteProtocolError when it is none of the three.

    Its subclass ImageNameError says that the picture cannot be taken because of its name.
    `now` is aware. A time of capture before 2020, or more than two days after `now`, is a wrong clock's.
    """
    if topic.channel != "data":
        raise RemoteProtocolError(f"a message on …/{topic.channel} was read as one on …/data")
    reading = read_message(payload, largest=LARGEST_ARRAY_MESSAGE)
    document = reading.document
    if len(payload) > LARGEST_MESSAGE and not isinstance(document.get("payload"), list):
        raise RemoteProtocolError(f"the message is {len(payload)} bytes, the limit is {LARGEST_MESSAGE}")
    if document.get("chunk_id") is not None:
        return _chunk(topic, reading)
    if _first(document, _TOTAL_KEYS) is not None:
        return _metadata(topic, reading, len(payload), now)
    if document.keys().isdisjoint(_OF_PICTURES) and any(_says_reading(place) for place in _places(document)):
        return _lone_readings(topic, reading, len(payload), now)
    raise RemoteProtocolError(
        "the message on …/data has neither a chunk_id nor a total_chunks_count, and is not readings alone; "
        "it is dropped"
    )


def _chunk(topic: Topic, reading: Reading) -> ImageChunk:
    document = reading.document
    if reading.repairs:
        _require_sure_bytes(reading)
    chunk_id = _integer(document["chunk_id"], 0)
    if chunk_id is None:
        raise RemoteProtocolError(
            f"chunk_id {_shown(document['chunk_id'])} is not a whole number from 0 up; the chunk is dropped"
        )
    name = _name(reading)
    most = whole_number(_first(document, _CHUNK_SIZE_KEYS))
    return ImageChunk(
        topic.root,
        topic.device,
        name,
        chunk_id,
        chunk_bytes(document.get("payload"), most),
        claimed_device(topic, document),
        reading.repairs,
    )


def _require_sure_bytes(reading: Reading) -> None:
    """Raise RemoteProtocolError where a repair may have changed the bytes, or whose they are."""
    if not reading.complete:
        raise RemoteProtocolError(
            "the chunk's message is cut off or unreadable in part; the chunk is dropped"
        )
    if "nul" in reading.repairs:
        raise RemoteProtocolError("the chunk's message has a NUL within; the chunk is dropped")
    doubled = reading.conflicts & {"chunk_id", "payload"}
    if doubled:
        raise RemoteProtocolError(
            f"the chunk has {' and '.join(sorted(doubled))} twice; the chunk is dropped"
        )
    if isinstance(reading.document.get("payload"), list) and reading.repairs & _LOSES_ITEMS:
        raise RemoteProtocolError("the chunk's array may lack a byte or split one; the chunk is dropped")


def _metadata(topic: Topic, reading: Reading, length: int, now: datetime) -> ImageMetadata:
    document = reading.document
    name = _name(reading)
    document = _kept(document, length)
    captured = _first(document, _CAPTURED_KEYS)
    return ImageMetadata(
        topic.root,
        topic.device,
        name,
        captured_at=parse_time(captured, now),
        captured_text=_as_sent(captured),
        size=_size(document.get("image_size")),
        chunk_size=_integer(_first(document, _CHUNK_SIZE_KEYS), 0),
        total_chunks=_total(_first(document, _TOTAL_KEYS)),
        readings=_readings(document),
        location=short_text(document.get("location"), _LONGEST_TEXT),
        error_code=_integer(document.get("error"), -_LARGEST_INTEGER),
        claimed_device=claimed_device(topic, document),
        document=document,
        unusable=_unusable(document, now),
        repairs=reading.repairs,
    )


def _lone_readings(topic: Topic, reading: Reading, length: int, now: datetime) -> LoneReadings:
    document = _kept(reading.document, length)
    readings = _readings(document)
    if readings == Readings():
        raise RemoteProtocolError("the message on …/data has readings, and none is a number; it is dropped")
    return LoneReadings(
        topic.root,
        topic.device,
        captured_at=parse_time(_first(document, _CAPTURED_KEYS), now),
        readings=readings,
        claimed_device=claimed_device(topic, document),
        document=document,
        unusable=_unusable(document, now),
        repairs=reading.repairs,
    )


def _kept(document: dict[str, Any], length: int) -> dict[str, Any]:
    """A message of so many bytes as its row has it."""
    if length > LARGEST_METADATA:
        raise RemoteProtocolError(
            f"the metadata of a picture is {length} bytes, the limit is {LARGEST_METADATA}; it is dropped"
        )
    return storable(document)


def _unusable(document: dict[str, Any], now: datetime) -> tuple[Literal["reading", "time"], ...]:
    readings = _readings(document)
    places = _places(document)
    unread: list[Literal["reading", "time"]] = [
        "reading"
        for key in Readings.__slots__
        if getattr(readings, key) is None and any(key in place for place in places)
    ]
    if (
        any(key in document for key in _CAPTURED_KEYS)
        and parse_time(_first(document, _CAPTURED_KEYS), now) is None
    ):
        unread.append("time")
    return tuple(unread)


def _first(document: dict[str, Any], keys: tuple[str, ...]) -> object:
    return next((value for key in keys if (value := document.get(key)) is not None), None)


def _name(reading: Reading) -> str:
    """The device's own name for the picture; it is never used as a path, so it may look like one."""
    name = reading.document.get("image_name")
    if not isinstance(name, str) or not name:
        raise RemoteProtocolError("the message has no image_name; it is dropped")
    if "image_name" in reading.conflicts:
        raise RemoteProtocolError("the message has image_name twice, and not the same; it is dropped")
    if _UNUSABLE_IN_NAMES.search(name):
        raise RemoteProtocolError(
            f"image_name {name!r:.60} contains control characters; the message is dropped"
        )
    if "encoding" in reading.repairs and "\ufffd" in name:
        raise RemoteProtocolError(f"image_name {name!r:.60} is not UTF-8, so no answer can name it; dropped")
    if len(name) > _LONGEST_TEXT:
        raise ImageNameError(
            name[: _LONGEST_TEXT - 1] + "…",
            f"image_name {name[:20]!r}… is {len(name)} characters, the limit is {_LONGEST_TEXT}; dropped",
        )
    return name


def _as_sent(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return short_text(str(value), _LONGEST_TEXT)


def _size(value: object) -> int | None:
    """A number of bytes; one that is absurdly large stays so, and a bound refuses it."""
    size = whole_number(value)
    return min(size, sys.maxsize) if size is not None and size >= 0 else None


def _total(value: object) -> int:
    total = whole_number(value)
    if total is None or total < 1:
        raise RemoteProtocolError(
            f"total_chunks_count {_shown(value)} is not a whole number from 1 up; the picture is refused"
        )
    return min(total, sys.maxsize)


def _readings(document: dict[str, Any]) -> Readings:
    places = _places(document)
    return Readings(*(_reading(places, key) for key in Readings.__slots__))


def _places(document: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    nested = document.get("sensor_data")
    return (document, nested) if isinstance(nested, dict) else (document,)


def _says_reading(place: dict[str, Any]) -> bool:
    return not place.keys().isdisjoint(Readings.__slots__)


def _reading(places: tuple[dict[str, Any], ...], key: str) -> float | None:
    limit = sys.float_info.max
    return next(
        (read for place in places if (read := number(place.get(key), -limit, limit)) is not None), None
    )


def _integer(value: object, lowest: int) -> int | None:
    """A whole number that fits a column of type integer; None for anything else."""
    read = whole_number(value)
    return read if read is not None and lowest <= read <= _LARGEST_INTEGER else None


def _shown(value: object) -> str:
    """A value as a log line shows it; what is nested may be nested too deep to print."""
    return f"{value!r:.50}" if isinstance(value, int | float | str) else f"(a JSON {type(value).__name__})"
