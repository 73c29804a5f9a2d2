"""Postgres's text for a value → the JSON that `to_jsonb` would give for it: pure."""

import json
import re
from collections.abc import Callable
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_TIMESTAMP = re.compile(r"(\d{4,}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)([+-]\d\d(?::\d\d)*)?( BC)?")
_SHORT_OFFSET = re.compile(r"[+-]\d\d")
_INTEGERS = ("int2", "int4", "int8", "oid")
_REALS = ("float4", "float8", "numeric")


def to_json(text: str | None, type_name: str) -> Json:
    """Return a value of the type `type_name` (as in pg_type.typname; `_text` is an array of text) for JSON.

    Numbers, booleans, documents and arrays become such; dates and times are ISO 8601; all else is its text,
    and so is what no JSON number can hold (NaN, infinity).
    """
    if text is None:
        return None
    if type_name.startswith("_"):
        return _array(text, type_name[1:])
    return _CONVERTERS.get(type_name, str)(text)


def _boolean(text: str) -> bool:
    return text in {"t", "true"}


def _integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _real(text: str) -> float | int | str:
    if "." not in text and "e" not in text.lower():
        return _integer(text)
    return float(text)


def _document(text: str) -> Json:
    document: Json = json.loads(text)
    return document


def _timestamp(text: str) -> str:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return text  # infinity
    date, time, offset, era = match.groups()
    if offset and _SHORT_OFFSET.fullmatch(offset):
        offset += ":00"
    return f"{date}T{time}{offset or ''}{era or ''}"


_CONVERTERS: dict[str, Callable[[str], Json]] = {
    "bool": _boolean,
    "json": _document,
    "jsonb": _document,
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
    **dict.fromkeys(_INTEGERS, _integer),
    **dict.fromkeys(_REALS, _real),
}


_TOKEN = re.compile(r'\{|\}|,|"((?:[^"\\]|\\.)*)"|((?:[^{},"\\]|\\.)+)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _array(text: str, type_name: str) -> Json:
    """Read an array literal, nested or not; one with explicit bounds stays text."""
    if not text.startswith("{"):
        return text
    stack: list[list[Json]] = [[]]
    for token in _TOKEN.finditer(text):
        quoted, bare = token.groups()
        if quoted is not None:
            stack[-1].append(to_json(_ESCAPED.sub(r"\1", quoted), type_name))
        elif bare is not None:
            value = None if bare.upper() == "NULL" else to_json(_ESCAPED.sub(r"\1", bare), type_name)
            stack[-1].append(value)
        elif token.group() == "{":
            stack.append([])
        elif token.group() == "}":
            done = stack.pop()
            stack[-1].append(done)
    return stack[0][0]
