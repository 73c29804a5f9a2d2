"""Pictures as a simulated device takes and sends them: bytes, readings, and the JSON of metadata and chunks.

Written from docs/protocol.md alone, in every spelling that was seen in the field.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal

from mqtt_service.simulator.scenes import photograph

Encoding = Literal["base64", "array"]
Spelling = Literal["spec", "field", "older"]

ENCODINGS: tuple[Encoding, ...] = ("base64", "array")
SPELLINGS: tuple[Spelling, ...] = ("spec", "field", "older")

_CLOCK_UNSET = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Picture:
    """A picture on the card. `captured_at` is aware, None if the clock was unset (it says 1970 then).

    `readings`: temperature in °C, humidity in %RH, pressure in hPa, gas_resistance in kΩ.
    """

    name: str
    data: bytes
    captured_at: datetime | None
    readings: Mapping[str, float]

    @property
    def sha256(self) -> str:
        """The hash of its bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class PictureFormat:
    """How a device's firmware sends pictures: `chunk_bytes` per chunk, the last may have less.

    `first_chunk` is 0 or 1. `spelling`: "spec" as in the specification; "field" has `capture_timeStamp`,
    `max_chunks_size`, `total_chunk_count` and readings nested in `sensor_data`; "older" has `timestamp` and
    otherwise the same.
    """

    chunk_bytes: int = 1024
    encoding: Encoding = "base64"
    first_chunk: int = 0
    spelling: Spelling = "spec"


def take_picture(name: str, size: int, captured_at: datetime | None, rng: Random) -> Picture:
    """Return a picture of `size` bytes, at least `scenes.LEAST_BYTES`: a JPEG that can be looked at."""
    data = photograph(size, rng)
    readings = {
        "temperature": round(rng.uniform(15, 30), 1),
        "humidity": round(rng.uniform(30, 90), 1),
        "pressure": round(rng.uniform(980, 1040), 1),
        "gas_resistance": round(rng.uniform(5, 50), 1),
    }
    return Picture(name, data, captured_at, readings)


def chunk_ids(picture: Picture, form: PictureFormat) -> range:
    """Return the ids of all its chunks, in order, in the device's own numbering."""
    count = -(-len(picture.data) // form.chunk_bytes)
    return range(form.first_chunk, form.first_chunk + count)


def metadata_document(device_id: str, picture: Picture, form: PictureFormat) -> dict[str, Any]:
    """Return the message that announces it."""
    taken = f"{picture.captured_at or _CLOCK_UNSET:%Y-%m-%dT%H:%M:%SZ}"
    size, count = form.chunk_bytes, len(chunk_ids(picture, form))
    document = {"device_id": device_id, "image_name": picture.name, "image_size": len(picture.data)}
    if form.spelling == "spec":
        own = {"capture_timestamp": taken, "max_chunk_size": size, "total_chunks_count": count}
        return {**document, **own, "location": "simulated", "error": 0, **picture.readings}
    clock = "capture_timeStamp" if form.spelling == "field" else "timestamp"
    own = {clock: taken, "max_chunks_size": size, "total_chunk_count": count}
    return {**document, **own, "error": 0, "sensor_data": dict(picture.readings)}


def chunk_document(device_id: str, picture: Picture, chunk_id: int, form: PictureFormat) -> dict[str, Any]:
    """Return the message that carries this chunk."""
    start = (chunk_id - form.first_chunk) * form.chunk_bytes
    data = picture.data[start : start + form.chunk_bytes]
    size = "max_chunk_size" if form.spelling == "spec" else "max_chunks_size"
    return {
        "device_id": device_id,
        "image_name": picture.name,
        "chunk_id": chunk_id,
        size: form.chunk_bytes,
        "payload": base64.b64encode(data).decode() if form.encoding == "base64" else list(data),
    }
