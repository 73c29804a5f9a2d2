"""Numbers that are none become null where that is asked for, and all else stays strict."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.wire_json import (
    number,
    parse_object,
    read_message,
    short_text,
    storable,
    whole_number,
)

# Without these, what json.dumps writes for a number that is none can be told from the texts.
texts = st.text(st.characters(codec="utf-8", exclude_characters="NI"))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
documents = st.dictionaries(texts, scalars | st.lists(scalars, max_size=4), max_size=6)


def read_leniently(payload: bytes) -> dict[str, Any]:
    return storable(read_message(payload).document)


def without_bad_numbers(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [without_bad_numbers(item) for item in value]
    return value


@pytest.mark.parametrize(
    "written",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "-nan",
        "NAN",
        "inf",
        "-inf",
        "+inf",
        "1e999",
        "-1e400",
        "9" * 5000,
    ],
)
def test_a_number_that_is_none_is_refused_or_null(written: str) -> None:
    payload = f'{{"a": {written}, "b": [{written}, 1], "c": "{written}", "d": "\\"{written}"}}'.encode()
    assert read_leniently(payload) == {"a": None, "b": [None, 1], "c": written, "d": f'"{written}'}
    assert read_message(payload).repairs == {"number"}
    with pytest.raises(RemoteProtocolError, match="not JSON"):
        parse_object(payload)


@given(documents)
def test_only_bad_numbers_are_changed(document: dict[str, Any]) -> None:
    expected = storable({key: without_bad_numbers(value) for key, value in document.items()})
    written = json.dumps(document, ensure_ascii=False)
    for spelled in (written, written.replace("NaN", "nan").replace("Infinity", "inf")):
        assert read_leniently(spelled.encode()) == expected


@pytest.mark.parametrize("payload", [b'{"a": 1}', b'\xef\xbb\xbf {"a": 1}\r\n', b'{"a": "\\u0000"}'])
def test_what_is_json_is_not_repaired(payload: bytes) -> None:
    """RFC 8259, sections 2 and 8.1: blanks around it, and a byte order mark that a reader may ignore."""
    assert read_message(payload).repairs == set()
    assert parse_object(payload).keys() == {"a"}


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (25.5, 25.5),
        (7, 7.0),
        ("25.5", 25.5),
        (" -3 ", -3.0),
        (True, None),
        ("warm", None),
        ("nan", None),
        ("1e999", None),
        (10**400, None),
        (math.inf, None),
        (1001, None),
        (None, None),
        ([1], None),
    ],
)
def test_a_number_is_read_also_from_text_and_within_its_range(value: object, read: float | None) -> None:
    assert number(value, -1000, 1000) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (7, 7),
        (-7, -7),
        ("7", 7),
        (" 007 ", 7),
        (7.0, 7),
        (7.5, None),
        ("7.0", None),
        ("7_0", None),
        ("٧", None),
        ("9" * 5000, None),
        (math.nan, None),
        (math.inf, None),
        (True, None),
        (None, None),
        ([7], None),
    ],
)
def test_a_whole_number_is_read_also_from_text(value: object, read: int | None) -> None:
    found = whole_number(value)
    assert found == read
    assert found is None or type(found) is int


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (" ward 4\n", "ward 4"),
        ("a\0b\ud800", "a\ufffdb\ufffd"),
        ("x" * 20, "x" * 10),
        ("  ", None),
        (4, None),
    ],
)
def test_a_short_text_is_storable(value: object, read: str | None) -> None:
    assert short_text(value, 10) == read
