"""Pictures from devices: what comes on `…/data` becomes metadata or a chunk, or RemoteProtocolError.

Metadata has a total and no `chunk_id`; a chunk has a `chunk_id`. Fields that firmware spells in several ways
are read in each of them. A bad reading is no reason to refuse a picture: it counts as absent.
"""

import binascii
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.messages import claimed_device
from mqtt_service.protocol.topics import Root, Topic
from mqtt_service.protocol.wire_json import (
    LARGEST_MESSAGE,
    number,
    parse_object,
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
_EARLIEST_CAPTURE = datetime(2020, 1, 1, tzinfo=UTC)
_MOST_AHEAD = timedelta(days=2)
# Seconds since 1970 reach this in the year 5138; milliseconds passed it in 1973.
_LEAST_MILLISECONDS = 1e11
_EPOCH = re.compile(r"[0-9]{10}(?:[0-9]{3})?(?:\.[0-9]+)?")
_TO_STANDARD_BASE64 = str.maketrans("-_", "+/")
_ONLY_INTEGERS = {int}

_CAPTURED_KEYS = ("capture_timestamp", "timestamp", "capture_timeStamp")
_CHUNK_SIZE_KEYS = ("max_chunk_size", "max_chunks_size")
_TOTAL_KEYS = ("total_chunks_count", "total_chunk_count")


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


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """A piece of a picture, never empty; `chunk_id` counts from 0 or from 1, as the device likes."""

    root: Root
    device: str
    name: str
    chunk_id: int
    data: bytes
    claimed_device: str | None


def parse_data(topic: Topic, payload: bytes, *, now: datetime) -> ImageMetadata | ImageChunk:
    """Read a message on `…/data`; raises RemoteProtocolError when it is neither metadata nor a chunk.

    Its subclass ImageNameError says that the picture cannot be taken because of its name.
    `now` is aware. A time of capture before 2020, or more than two days after `now`, is a wrong clock's.
    """
    if topic.channel != "data":
        raise RemoteProtocolError(f"a message on …/{topic.channel} was read as one on …/data")
    document = parse_object(payload, largest=LARGEST_ARRAY_MESSAGE, bad_numbers_as_null=True)
    if len(payload) > LARGEST_MESSAGE and not isinstance(document.get("payload"), list):
        raise RemoteProtocolError(f"the message is {len(payload)} bytes, the limit is {LARGEST_MESSAGE}")
    if document.get("chunk_id") is not None:
        return _chunk(topic, document)
    if _first(document, _TOTAL_KEYS) is None:
        raise RemoteProtocolError(
            "the message on …/data has neither a chunk_id nor a total_chunks_count; it is dropped"
        )
    return _metadata(topic, document, len(payload), now)


def _chunk(topic: Topic, document: dict[str, Any]) -> ImageChunk:
    chunk_id = _integer(document["chunk_id"], 0)
    if chunk_id is None:
        raise RemoteProtocolError(
            f"chunk_id {_shown(document['chunk_id'])} is not a whole number from 0 up; the chunk is dropped"
        )
    name = _name(document)
    return ImageChunk(
        topic.root,
        topic.device,
        name,
        chunk_id,
        _bytes(document.get("payload")),
        claimed_device(topic, document),
    )


def _metadata(topic: Topic, document: dict[str, Any], length: int, now: datetime) -> ImageMetadata:
    name = _name(document)
    if length > LARGEST_METADATA:
        raise RemoteProtocolError(
            f"the metadata of a picture is {length} bytes, the limit is {LARGEST_METADATA}; it is dropped"
        )
    document = storable(document)
    captured = _first(document, _CAPTURED_KEYS)
    return ImageMetadata(
        topic.root,
        topic.device,
        name,
        captured_at=_moment(captured, now),
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
    )


def _unusable(document: dict[str, Any], now: datetime) -> tuple[Literal["reading", "time"], ...]:
    readings = _readings(document)
    places = _objects_with_readings(document)
    unread: list[Literal["reading", "time"]] = [
        "reading"
        for key in Readings.__slots__
        if getattr(readings, key) is None and any(key in place for place in places)
    ]
    if (
        any(key in document for key in _CAPTURED_KEYS)
        and _moment(_first(document, _CAPTURED_KEYS), now) is None
    ):
        unread.append("time")
    return tuple(unread)


def _first(document: dict[str, Any], keys: tuple[str, ...]) -> object:
    return next((value for key in keys if (value := document.get(key)) is not None), None)


def _name(document: dict[str, Any]) -> str:
    """The device's own name for the picture; it is never used as a path, so it may look like one."""
    name = document.get("image_name")
    if not isinstance(name, str) or not name:
        raise RemoteProtocolError("the message has no image_name; it is dropped")
    if _UNUSABLE_IN_NAMES.search(name):
        raise RemoteProtocolError(
            f"image_name {name!r:.60} contains control characters; the message is dropped"
        )
    if len(name) > _LONGEST_TEXT:
        raise ImageNameError(
            name[: _LONGEST_TEXT - 1] + "…",
            f"image_name {name[:20]!r}… is {len(name)} characters, the limit is {_LONGEST_TEXT}; dropped",
        )
    return name


def _bytes(payload: object) -> bytes:
    if isinstance(payload, str):
        data = _from_base64(payload)
    elif isinstance(payload, list):
        data = _from_array(payload)
    else:
        raise RemoteProtocolError("the chunk's payload is neither base64 nor an array; the chunk is dropped")
    if not data:
        raise RemoteProtocolError("the chunk's payload is empty; the chunk is dropped")
    return data


def _from_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        # Perhaps it has line breaks, the alphabet for URLs, or no padding.
        pass
    bare = "".join(text.split()).translate(_TO_STANDARD_BASE64).rstrip("=")
    try:
        return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except ValueError as error:
        raise RemoteProtocolError(
            f"the chunk's payload is not base64 ({error}); the chunk is dropped"
        ) from error


def _from_array(values: list[Any]) -> bytes:
    if not set(map(type, values)) <= _ONLY_INTEGERS:
        raise RemoteProtocolError("the chunk's payload has values that are not bytes; the chunk is dropped")
    try:
        return bytes(values)
    except (ValueError, OverflowError) as error:
        raise RemoteProtocolError(
            "the chunk's payload has a value that is not a byte 0–255; the chunk is dropped"
        ) from error


def _moment(value: object, now: datetime) -> datetime | None:
    """A time in ISO 8601 (UTC where it has no zone), or in seconds or milliseconds since 1970."""
    latest = now + _MOST_AHEAD
    if isinstance(value, str) and not _EPOCH.fullmatch(value.strip()):
        return _from_text(value.strip(), latest)
    seconds = number(value, 0, sys.float_info.max)
    if seconds is None:
        return None
    if seconds >= _LEAST_MILLISECONDS:
        seconds /= 1000
    return datetime.fromtimestamp(seconds, UTC) if _plausible(seconds, latest) else None


def _plausible(seconds: float, latest: datetime) -> bool:
    return _EARLIEST_CAPTURE.timestamp() <= seconds <= latest.timestamp()


def _from_text(text: str, latest: datetime) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC) if _EARLIEST_CAPTURE <= moment <= latest else None


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
    places = _objects_with_readings(document)
    return Readings(*(_reading(places, key) for key in Readings.__slots__))


def _objects_with_readings(document: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    nested = document.get("sensor_data")
    return (document, nested) if isinstance(nested, dict) else (document,)


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
