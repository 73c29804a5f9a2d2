"""Every spelling of metadata and chunks is read; what is wrong beside the picture costs a device nothing."""

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.images import (
    LARGEST_ARRAY_MESSAGE,
    LARGEST_METADATA,
    ImageChunk,
    ImageMetadata,
    LoneReadings,
    Readings,
    parse_data,
)
from mqtt_service.protocol.topics import Topic
from mqtt_service.protocol.wire_json import LARGEST_MESSAGE

MAC = "AA:BB:CC:DD:EE:FF"
DATA = Topic("ESP32CAM", MAC, "data")
NOW = datetime(2025, 9, 1, tzinfo=UTC)
HALF_PAST_TWO = datetime(2025, 8, 29, 14, 30, tzinfo=UTC)
NAME = "image_001.jpg"
METADATA = {
    "device_id": MAC,
    "capture_timestamp": "2025-08-29T14:30:00Z",
    "image_name": NAME,
    "image_size": 4153,
    "max_chunk_size": 128,
    "total_chunks_count": 33,
    "location": "ward 4",
    "error": 0,
    "temperature": 25.5,
    "humidity": 45.2,
    "pressure": 1010.5,
    "gas_resistance": 15.3,
}
READINGS = ("temperature", "humidity", "pressure", "gas_resistance")


def parse(document: object) -> ImageMetadata | ImageChunk | LoneReadings:
    return parse_data(DATA, json.dumps(document).encode(), now=NOW)


def metadata(**changes: Any) -> ImageMetadata:
    """Parse the usual metadata with these changes; `...` takes a field out."""
    document = {key: value for key, value in {**METADATA, **changes}.items() if value is not ...}
    answer = parse(document)
    assert isinstance(answer, ImageMetadata)
    return answer


def chunk(payload: object, **changes: Any) -> ImageChunk:
    answer = parse({"device_id": MAC, "image_name": NAME, "chunk_id": 0, "payload": payload, **changes})
    assert isinstance(answer, ImageChunk)
    return answer


def test_metadata_is_read_as_the_protocol_has_it() -> None:
    assert metadata() == ImageMetadata(
        root="ESP32CAM",
        device=MAC,
        name=NAME,
        captured_at=HALF_PAST_TWO,
        captured_text="2025-08-29T14:30:00Z",
        size=4153,
        chunk_size=128,
        total_chunks=33,
        readings=Readings(25.5, 45.2, 1010.5, 15.3),
        location="ward 4",
        error_code=0,
        claimed_device=None,
        document=METADATA,
    )


@pytest.mark.parametrize(
    ("spelling", "usual"),
    [
        ("timestamp", "capture_timestamp"),
        ("capture_timeStamp", "capture_timestamp"),
        ("max_chunks_size", "max_chunk_size"),
        ("total_chunk_count", "total_chunks_count"),
    ],
)
def test_a_field_is_read_in_every_spelling_of_its_key(spelling: str, usual: str) -> None:
    respelled = metadata(**{usual: ..., spelling: METADATA[usual]})
    assert dataclasses.replace(respelled, document=METADATA) == metadata()
    beside_null = metadata(**{usual: None, spelling: METADATA[usual]})
    assert dataclasses.replace(beside_null, document=METADATA) == metadata()


def test_readings_are_read_flat_and_nested() -> None:
    nested = {key: METADATA[key] for key in READINGS}
    assert metadata(**dict.fromkeys(READINGS, ...), sensor_data=nested).readings == metadata().readings
    mixed = metadata(
        temperature=..., humidity="wet", sensor_data={"temperature": 1, "humidity": 2, "pressure": 3}
    )
    assert mixed.readings == Readings(1, 2, 1010.5, 15.3)
    assert metadata(**dict.fromkeys(READINGS, ...), sensor_data=[1]).readings == Readings()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("25.5", 25.5),
        ('"25.5"', 25.5),
        ("-40", -40.0),
        ("NaN", None),
        ("nan", None),
        ("-Infinity", None),
        ("inf", None),
        ("1e999", None),
        ("9" * 400, None),
        ("9" * 5000, None),
        ('"NaN"', None),
        ('"warm"', None),
        ("true", None),
        ("null", None),
        ("[25.5]", None),
    ],
)
def test_a_bad_reading_is_absent_and_costs_nothing_else(written: str, read: float | None) -> None:
    payload = (
        f'{{"image_name": "nan.jpg", "total_chunks_count": 3, "temperature": {written}, "humidity": 45.2}}'
    )
    answer = parse_data(DATA, payload.encode(), now=NOW)
    assert isinstance(answer, ImageMetadata)
    assert answer.name == "nan.jpg"
    assert answer.readings == Readings(temperature=read, humidity=45.2)
    json.dumps(dict(answer.document), allow_nan=False)


@pytest.mark.parametrize(
    "sent",
    [
        "2025-08-29T14:30:00Z",
        "2025-08-29T14:30:00",
        "2025-08-29 14:30:00",
        " 2025-08-29T14:30:00.000Z\n",
        "2025-08-29T16:30:00+02:00",
        "20250829T143000Z",
        "2025-8-29T14:30:0Z",
        "2025-8-29 14:30",
        "2025-08-29  14:30:00 z",
        "2025-8-29T16:30:0+0200",
        1756477800,
        1756477800.0,
        1756477800000,
        "1756477800",
        "1756477800000",
    ],
)
def test_a_time_is_iso_8601_or_counted_since_1970_and_utc_where_no_zone_is_named(sent: object) -> None:
    answer = metadata(capture_timestamp=sent)
    assert answer.captured_at == HALF_PAST_TWO
    assert answer.captured_at.tzinfo is UTC
    assert answer.captured_text == str(sent).strip()


@pytest.mark.parametrize(
    "sent",
    [
        "1970-01-01T00:00:12Z",
        "2019-12-31T23:59:59Z",
        "2025-09-03T00:00:01Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "yesterday",
        "2025-13-01",
        12,
        -1,
        0,
        1577836799,
        10**30,
        "9" * 13,
    ],
)
def test_a_time_of_a_clock_that_was_not_set_is_none_and_its_text_is_kept(sent: object) -> None:
    answer = metadata(capture_timestamp=sent)
    assert (answer.captured_at, answer.captured_text) == (None, str(sent))


@pytest.mark.parametrize("sent", [..., None, True, "", [], {"a": 1}])
def test_a_time_that_is_not_there_is_none(sent: object) -> None:
    answer = metadata(capture_timestamp=sent)
    assert (answer.captured_at, answer.captured_text) == (None, None)


@given(st.integers(0, 5 * 365 * 86_400_000), st.integers(-14 * 60, 14 * 60))
def test_any_plausible_time_is_read_in_any_zone(age: int, minutes: int) -> None:
    moment = (NOW - timedelta(milliseconds=age)).astimezone(timezone(timedelta(minutes=minutes)))
    assert metadata(capture_timestamp=moment.isoformat()).captured_at == moment
    milliseconds = round(moment.timestamp() * 1000)
    assert metadata(capture_timestamp=milliseconds).captured_at == moment


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        (4153, 4153),
        ("4153", 4153),
        (0, 0),
        (4153.0, 4153),
        (..., None),
        (None, None),
        (-1, None),
        ("big", None),
    ],
)
def test_a_size_is_a_number_of_bytes_or_unknown(sent: object, size: int | None) -> None:
    assert metadata(image_size=sent, max_chunk_size=sent).size == size
    assert metadata(image_size=sent, max_chunk_size=sent).chunk_size == size


def test_a_size_beyond_reason_stays_so_and_one_of_chunks_fits_its_column() -> None:
    answer = metadata(image_size=10**30, total_chunks_count=10**30, max_chunk_size=2**31, error=-(2**31))
    assert answer.size is not None
    assert min(answer.size, answer.total_chunks) > 10**18
    assert (answer.chunk_size, answer.error_code) == (None, None)


@pytest.mark.parametrize("sent", [0, -1, "0", "many", 1.5, True, [3], {}])
def test_a_picture_has_a_chunk_at_least(sent: object) -> None:
    with pytest.raises(RemoteProtocolError, match=r"total_chunks_count .* is not a whole number from 1 up"):
        metadata(total_chunks_count=sent)


@pytest.mark.parametrize(("sent", "total"), [(1, 1), ("33", 33), (33.0, 33)])
def test_a_total_is_read_also_from_text(sent: object, total: int) -> None:
    assert metadata(total_chunks_count=sent).total_chunks == total


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c.jpg", "Bild ü 🌄.jpg", "x" * 255, " ", "."])
def test_any_name_will_do_since_it_is_never_a_path(name: str) -> None:
    assert metadata(image_name=name).name == name
    assert chunk([1], image_name=name).name == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (..., "no image_name"),
        (None, "no image_name"),
        ("", "no image_name"),
        (7, "no image_name"),
        ("x" * 256, "256 characters, the limit is 255"),
        ("x" * 10_000, "10000 characters, the limit is 255"),
        ("a\0.jpg", "control characters"),
        ("a\n.jpg", "control characters"),
        ("a\x9b.jpg", "control characters"),
        ("a\ud800.jpg", "control characters"),
    ],
)
def test_a_name_that_no_answer_can_carry_is_refused(name: object, fault: str) -> None:
    with pytest.raises(RemoteProtocolError, match=fault):
        metadata(image_name=name)
    with pytest.raises(RemoteProtocolError, match=fault):
        chunk([1], image_name=None if name is ... else name)


@pytest.mark.parametrize(
    ("claimed", "reported"),
    [
        (MAC, None),
        ("aabbccddeeff", None),
        (..., None),
        (5, None),
        ("esp32-cam-02", "esp32-cam-02"),
        ("a\0b\ud800", "a\ufffdb\ufffd"),
    ],
)
def test_the_topic_says_who_speaks_and_another_name_is_reported(
    claimed: object, reported: str | None
) -> None:
    said = metadata(device_id=claimed)
    assert (said.device, said.claimed_device) == (MAC, reported)
    piece = chunk([1], device_id=None if claimed is ... else claimed)
    assert (piece.device, piece.claimed_device) == (MAC, reported)


def test_metadata_larger_than_any_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=f"the limit is {LARGEST_METADATA}"):
        metadata(note="x" * LARGEST_METADATA)


def test_metadata_can_be_stored_whatever_it_holds() -> None:
    answer = metadata(location="a\0b\ud800", **{"k\0": ["\udfff", {"n": "\0"}]})
    assert answer.location == "a\ufffdb\ufffd"
    assert answer.document["k\ufffd"] == ["\ufffd", {"n": "\ufffd"}]


@given(st.binary(min_size=1, max_size=2000))
@example(b"\xff\xd8" + bytes(range(256)) * 4 + b"\xff\xd9")
def test_the_same_bytes_come_out_of_every_encoding(data: bytes) -> None:
    standard = base64.b64encode(data).decode()
    folded = base64.encodebytes(data).decode()
    url_safe = base64.urlsafe_b64encode(data).decode()
    for payload in (
        standard,
        standard.rstrip("="),
        folded,
        folded.replace("\n", "\r\n").rstrip("=\r\n"),
        f"  {url_safe}\t",
        url_safe.rstrip("="),
        list(data),
    ):
        assert chunk(payload).data == data


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (None, "neither base64 nor an array"),
        (7, "neither base64 nor an array"),
        ({"a": 1}, "neither base64 nor an array"),
        ("", "empty"),
        ("  ", "empty"),
        ("====", "empty"),
        ([], "empty"),
        ("A", "not base64"),
        ("AAAAA", "not base64"),
        ("AA=A", "not base64"),
        ("AA==AA==", "not base64"),
        ("ü===", "not base64"),
        ("{}{}", "not base64"),
        ("AA\0A", "not base64"),
        ([256], "not a byte"),
        ([-1], "not a byte"),
        ([10**30], "not a byte"),
        ([1.0], "values that are not bytes"),
        ([True], "values that are not bytes"),
        (["1"], "values that are not bytes"),
        ([[1]], "values that are not bytes"),
        ([None], "values that are not bytes"),
    ],
)
def test_a_payload_that_is_no_bytes_is_refused(payload: object, fault: str) -> None:
    with pytest.raises(RemoteProtocolError, match=fault):
        chunk(payload)


@pytest.mark.parametrize(("sent", "chunk_id"), [(0, 0), (32, 32), ("32", 32), (32.0, 32)])
def test_a_chunk_id_is_read_also_from_text(sent: object, chunk_id: int) -> None:
    assert chunk([1], chunk_id=sent).chunk_id == chunk_id


@pytest.mark.parametrize("sent", [-1, "", "first", 0.5, True, 2**31, [0], {}])
def test_a_chunk_id_that_is_none_is_refused(sent: object) -> None:
    with pytest.raises(RemoteProtocolError, match=r"chunk_id .* is not a whole number from 0 up"):
        chunk([1], chunk_id=sent)


def test_what_has_a_chunk_id_is_a_chunk_whatever_else_it_says() -> None:
    assert isinstance(parse({**METADATA, "chunk_id": 1, "payload": [1]}), ImageChunk)
    assert isinstance(parse({**METADATA, "chunk_id": None, "payload": [1]}), ImageMetadata)


@pytest.mark.parametrize("document", [{}, {"image_name": NAME}, {"image_name": NAME, "payload": "AAAA"}])
def test_what_is_neither_metadata_nor_a_chunk_says_so(document: object) -> None:
    with pytest.raises(RemoteProtocolError, match="neither a chunk_id nor a total_chunks_count"):
        parse(document)


def test_a_chunk_of_16_kib_fits_in_both_encodings_and_one_beyond_the_bounds_does_not() -> None:
    data = b"\xff" * 16 * 1024
    assert chunk(list(data)).data == data
    assert chunk(base64.b64encode(data).decode()).data == data
    with pytest.raises(RemoteProtocolError, match=f"the limit is {LARGEST_MESSAGE}"):
        chunk("A" * LARGEST_MESSAGE)
    with pytest.raises(RemoteProtocolError, match=f"the limit is {LARGEST_ARRAY_MESSAGE}"):
        chunk([255] * (LARGEST_ARRAY_MESSAGE // 5))


def test_a_message_is_read_for_the_channel_that_it_came_on() -> None:
    with pytest.raises(RemoteProtocolError, match="…/status"):
        parse_data(Topic("device", MAC, "status"), b"{}", now=NOW)


@pytest.mark.parametrize("key", ["chunk_id", "payload", "total_chunks_count", "image_name", "temperature"])
def test_nesting_without_end_is_a_remote_fault_wherever_it_stands(key: str) -> None:
    for depth in (40, 300, 900, 20_000):
        start = {**METADATA, "chunk_id": 0} if key == "payload" else METADATA
        fields = {name: value for name, value in start.items() if name != key}
        nested = f'{json.dumps(fields)[:-1]}, "{key}": {"[" * depth}{"]" * depth}}}'
        with pytest.raises(RemoteProtocolError):
            parse_data(DATA, nested.encode(), now=NOW)


def require_storable(answer: ImageMetadata | ImageChunk | LoneReadings) -> None:
    """Raise if this cannot be a row: no NUL, no half of a character, no number that JSON has no word for."""
    fields = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    fields.pop("data", None)
    fields["repairs"] = sorted(answer.repairs)
    if not isinstance(answer, ImageChunk):
        fields["readings"] = dataclasses.asdict(answer.readings)
        moment = fields.pop("captured_at")
        assert moment is None or moment.tzinfo is UTC
    stored = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    assert "\\u0000" not in stored
    stored.encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
likely_values = st.one_of(
    json_values,
    st.integers(0, 40),
    st.integers(0, 40).map(str),
    st.datetimes().map(str),
    st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode()),
    st.lists(st.integers(-1, 256), max_size=20),
    st.sampled_from([MAC, NAME, "\0", "\ud800", "nan", "1e400", "-1", 10**400]),
)
known_keys = st.sampled_from(
    [
        *METADATA,
        "timestamp",
        "capture_timeStamp",
        "max_chunks_size",
        "total_chunk_count",
        "sensor_data",
        "payload",
        "chunk_id",
    ]
)
likely_documents = st.builds(
    lambda usual, found: {**usual, **found},
    st.sampled_from([{}, METADATA, {"image_name": NAME, "chunk_id": 0, "payload": [1]}]),
    st.dictionaries(known_keys | st.text(max_size=3), likely_values, max_size=8),
)


@given(st.binary())
@example(b"[" * 60_000)
@example(b'{"chunk_id":' * 5_000)
@example(b'"' * 60_000)
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_a_picture_or_a_remote_fault(payload: bytes) -> None:
    try:
        answer = parse_data(DATA, payload, now=NOW)
    except RemoteProtocolError:
        return
    require_storable(answer)


@given(likely_documents, st.booleans())
def test_any_document_is_a_picture_that_can_be_stored_or_a_remote_fault(
    document: dict[str, Any], lower: bool
) -> None:
    text = json.dumps(document)
    try:
        answer = parse_data(DATA, (text.replace("NaN", "nan") if lower else text).encode(), now=NOW)
    except RemoteProtocolError:
        return
    require_storable(answer)


@pytest.mark.parametrize(
    ("said", "unusable"),
    [
        ('"temperature": 25.5, "timestamp": "2026-05-01T08:00:00Z"', ()),
        ('"temperature": NaN, "humidity": "wet"', ("reading", "reading")),
        ('"sensor_data": {"pressure": nan}', ("reading",)),
        ('"capture_timestamp": "1970-01-01T00:00:00Z"', ("time",)),
        ('"timestamp": 0, "gas_resistance": 1e999', ("reading", "time")),
    ],
)
def test_what_metadata_names_and_cannot_be_read_is_told(said: str, unusable: tuple[str, ...]) -> None:
    payload = f'{{"image_name": "a.jpg", "total_chunks_count": 3, {said}}}'.encode()
    parsed = parse_data(DATA, payload, now=datetime(2026, 5, 1, 9, tzinfo=UTC))
    assert isinstance(parsed, ImageMetadata)
    assert parsed.unusable == unusable


READING_VALUES = {key: METADATA[key] for key in READINGS}


@pytest.mark.parametrize("document", [READING_VALUES, {"sensor_data": READING_VALUES}])
def test_readings_alone_are_read(document: dict[str, Any]) -> None:
    answer = parse({"device_id": MAC, "timestamp": 1756477800, **document})
    assert isinstance(answer, LoneReadings)
    assert (answer.readings, answer.captured_at) == (Readings(25.5, 45.2, 1010.5, 15.3), HALF_PAST_TWO)


@pytest.mark.parametrize("key", ["image_name", "payload", "image_size", "max_chunk_size"])
def test_readings_of_a_picture_that_lacks_its_total_are_not_alone(key: str) -> None:
    with pytest.raises(RemoteProtocolError, match="not readings alone"):
        parse({**READING_VALUES, key: 1})


def test_readings_that_are_no_numbers_are_none() -> None:
    with pytest.raises(RemoteProtocolError, match="none is a number"):
        parse({"temperature": "warm"})


JPEG = b"\xff\xd8\xff\xe0" + bytes(range(60))


@pytest.mark.parametrize(
    "payload",
    [
        "data:image/jpeg;base64," + base64.b64encode(JPEG).decode(),
        " DATA:;charset=x;base64, " + base64.b64encode(JPEG).decode(),
        base64.b64encode(JPEG).decode() + "\0\0",
        base64.b64encode(JPEG).decode() + " \n",
    ],
)
def test_what_surely_holds_the_bytes_is_read(payload: str) -> None:
    """RFC 2397, section 3, for the head; C's strings for the NUL."""
    assert chunk(payload).data == JPEG


@pytest.mark.parametrize(
    "written",
    [
        JPEG.hex(),
        JPEG.hex().upper(),
        JPEG.hex(" "),
        JPEG.hex("-"),
        JPEG.hex("/"),
        f"0x{JPEG.hex()}",
        f"\n{JPEG.hex()}",
    ],
)
def test_hex_is_refused_as_hex(written: str) -> None:
    """Hex digits are base64 as well (RFC 4648, sections 4 and 8), but no JPEG begins as they would there."""
    with pytest.raises(RemoteProtocolError, match="hex text"):
        chunk(written)


@pytest.mark.parametrize("amiss", ["\x1c", "\x85", "\u2003", "\0"])
def test_a_character_within_base64_that_no_encoder_writes_is_not_passed_over(amiss: str) -> None:
    """RFC 4648, section 3.3: such a character may stand for others that were lost."""
    text = base64.b64encode(JPEG).decode()
    with pytest.raises(RemoteProtocolError, match="not base64"):
        chunk(f"{text[:8]}{amiss}{text[8:]}")


def test_a_later_chunk_in_hex_is_told_by_the_size_that_the_device_names() -> None:
    with pytest.raises(RemoteProtocolError, match="hex text"):
        chunk(bytes(range(64)).hex(), chunk_id=3, max_chunk_size=64)


@given(st.integers(1, 600), st.integers(0, 3))
def test_zeros_are_never_taken_for_hex(count: int, chunk_id: int) -> None:
    data = bytes(count)
    assert chunk(base64.b64encode(data).decode(), chunk_id=chunk_id, max_chunk_size=count).data == data


CHUNK = b'{"image_name": "a.jpg", "chunk_id": 1, "payload": "/9j/4AAQSkZJRg=="}'
ARRAY = b'{"image_name": "a.jpg", "chunk_id": 1, "payload": [255, 216, 255]}'


@pytest.mark.parametrize(
    "payload",
    [
        CHUNK + b"\0",
        CHUNK.replace(b"}", b",}"),
        CHUNK.replace(b'"', b"'"),
        ARRAY + b"\0rest",
        ARRAY[:-2] + b",]}",
    ],
)
def test_a_chunk_is_repaired_in_its_form(payload: bytes) -> None:
    answer = parse_data(DATA, payload, now=NOW)
    assert isinstance(answer, ImageChunk)
    assert answer.data.startswith(b"\xff\xd8\xff")
    assert answer.repairs


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (CHUNK[:-1], "cut off"),
        (CHUNK[:-10], "cut off"),
        (ARRAY[:-6], "cut off"),
        (CHUNK.replace(b"}", b', "chunk_id": 2}'), "chunk_id twice"),
        (CHUNK.replace(b"}", b', "payload": "AAAA"}'), "payload twice"),
        (ARRAY.replace(b"216,", b"216,,"), "may lack a byte"),
        (ARRAY.replace(b"216,", b"216"), "may lack a byte"),
        (CHUNK.replace(b"4AAQ", b"4\xffAQ"), "not base64"),
        (CHUNK.replace(b"a.jpg", b"\xfc.jpg"), "not UTF-8"),
        (CHUNK.replace(b"1,", b"1,\0"), "NUL within"),
        (CHUNK.replace(b'"/9j', b'"\0/9j'), "NUL within"),
        (CHUNK.replace(b"==", b"\0"), "not base64"),
        (CHUNK.replace(b"}", b', "image_name": "b.jpg"}'), "image_name twice"),
    ],
)
def test_a_chunk_that_may_have_lost_a_byte_is_refused(payload: bytes, fault: str) -> None:
    with pytest.raises(RemoteProtocolError, match=fault):
        parse_data(DATA, payload, now=NOW)


def test_metadata_that_was_cut_off_behind_its_total_is_used() -> None:
    answer = parse_data(DATA, b'{"image_name": "a.jpg", "total_chunks_count": 3, "temperature": 25.', now=NOW)
    assert isinstance(answer, ImageMetadata)
    assert (answer.total_chunks, answer.readings) == (3, Readings())
    assert set(answer.repairs) == {"cut_off"}


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"{'total_chunks_count': 3, 'image_name': 'bob's.jpg'}", "no image_name"),
        (b"{total_chunks_count: 3, image_name: 14:30.jpg}", "no image_name"),
        (b"{total_chunks_count: 3, image_name: image 1.jpg}", "no image_name"),
        (b'{"total_chunks_count": 3, "image_name": "a.jpg", "image_name": "b.jpg"}', "image_name twice"),
        (b'{"image_name": "a.jpg", "total_chunks_count": 3', "neither a chunk_id nor"),
    ],
)
def test_metadata_whose_name_or_total_is_not_certain_announces_no_picture(payload: bytes, fault: str) -> None:
    """A picture under half a name would be asked for in vain, and its own would not be known."""
    with pytest.raises(RemoteProtocolError, match=fault):
        parse_data(DATA, payload, now=NOW)
