"""Pictures of the simulated device: their bytes, their chunks and how both are spelled."""

import base64
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from mqtt_service.protocol.whole_picture import whole_picture
from mqtt_service.simulator.pictures import (
    ENCODINGS,
    Encoding,
    Picture,
    PictureFormat,
    Spelling,
    chunk_document,
    chunk_ids,
    metadata_document,
    take_picture,
)
from mqtt_service.simulator.scenes import LEAST_BYTES

NOON = datetime(2025, 12, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("size", [LEAST_BYTES, 1000, 70_000])
def test_a_picture_is_a_whole_jpeg_as_large_as_asked_for(size: int) -> None:
    data = take_picture("a.jpg", size, NOON, Random(1)).data
    assert whole_picture(data, size, size) == data


def test_a_picture_follows_from_the_seed() -> None:
    one, same, other = (take_picture("a.jpg", 999, NOON, Random(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one.data != other.data


@pytest.mark.parametrize(
    ("size", "first", "expected"),
    [(99, 0, [0]), (100, 0, [0]), (101, 0, [0, 1]), (101, 1, [1, 2]), (1000, 1, list(range(1, 11)))],
)
def test_chunks_are_counted_from_where_the_firmware_counts(
    size: int, first: int, expected: list[int]
) -> None:
    picture = Picture("a.jpg", bytes(size), NOON, {})
    assert list(chunk_ids(picture, PictureFormat(100, first_chunk=first))) == expected


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_chunks_add_up_to_the_picture(encoding: Encoding, first: int) -> None:
    picture = take_picture("a.jpg", 1050, NOON, Random(1))
    form = PictureFormat(100, encoding, first)
    payloads = [chunk_document("x", picture, each, form)["payload"] for each in chunk_ids(picture, form)]
    sizes = [len(bytes(each) if encoding == "array" else base64.b64decode(each)) for each in payloads]
    assert sizes == [100] * 10 + [50]
    decoded = [bytes(each) if encoding == "array" else base64.b64decode(each) for each in payloads]
    assert b"".join(decoded) == picture.data


@pytest.mark.parametrize(
    ("spelling", "keys"),
    [
        ("spec", {"capture_timestamp", "max_chunk_size", "total_chunks_count", "location"}),
        ("field", {"capture_timeStamp", "max_chunks_size", "total_chunk_count", "sensor_data"}),
        ("older", {"timestamp", "max_chunks_size", "total_chunk_count", "sensor_data"}),
    ],
)
def test_metadata_is_spelled_as_asked_for(spelling: Spelling, keys: set[str]) -> None:
    picture = take_picture("a.jpg", 1050, NOON, Random(1))
    document = metadata_document("x", picture, PictureFormat(100, spelling=spelling))
    readings = {"temperature", "humidity", "pressure", "gas_resistance"}
    nested: dict[str, Any] = document.get("sensor_data", document)
    assert document.keys() - readings == keys | {"device_id", "image_name", "image_size", "error"}
    assert {key: nested[key] for key in readings} == picture.readings
    assert (document["image_size"], 11, "2025-12-01T12:00:00Z") == (
        1050,
        document.get("total_chunks_count", document.get("total_chunk_count")),
        next(document[key] for key in document if "time" in key.lower()),
    )
