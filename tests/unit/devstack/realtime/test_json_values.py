"""Postgres's text for values, as JSON."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.devstack.realtime.json_values import to_json

_ESCAPED = re.compile(r'["\\]')


@pytest.mark.parametrize(
    ("text", "type_name", "value"),
    [
        (None, "int4", None),
        ("t", "bool", True),
        ("f", "bool", False),
        ("-7", "int8", -7),
        ("3.70", "numeric", 3.7),
        ("12", "numeric", 12),
        ("1e-07", "float8", 1e-07),
        ("NaN", "float8", "NaN"),
        ("Infinity", "numeric", "Infinity"),
        ('{"a": [1, null]}', "jsonb", {"a": [1, None]}),
        ("2026-03-01 10:00:00+00", "timestamptz", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01 10:00:00.5+05:30", "timestamptz", "2026-03-01T10:00:00.5+05:30"),
        ("2026-03-01 10:00:00", "timestamp", "2026-03-01T10:00:00"),
        ("infinity", "timestamptz", "infinity"),
        ("0044-03-15 10:00:00 BC", "timestamp", "0044-03-15T10:00:00 BC"),
        ("2026-03-01", "date", "2026-03-01"),
        ("a b", "text", "a b"),
        ("{}", "_int4", []),
        ("{1,NULL,3}", "_int4", [1, None, 3]),
        ('{"a,b","say \\"x\\"","NULL",plain word}', "_text", ["a,b", 'say "x"', "NULL", "plain word"]),
        ("{{1,2},{3,4}}", "_int4", [[1, 2], [3, 4]]),
        ("[0:1]={1,2}", "_int4", "[0:1]={1,2}"),
    ],
)
def test_values_become_what_to_jsonb_would_give(text: str | None, type_name: str, value: Any) -> None:
    assert to_json(text, type_name) == value


@given(st.lists(st.none() | st.text(alphabet=st.characters(exclude_characters="\0"))))
def test_any_array_of_text_is_read_back(values: list[str | None]) -> None:
    quoted = ["NULL" if value is None else '"' + _ESCAPED.sub(r"\\\g<0>", value) + '"' for value in values]
    assert to_json("{" + ",".join(quoted) + "}", "_text") == values
