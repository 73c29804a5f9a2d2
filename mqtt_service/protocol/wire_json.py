"""JSON as devices send it, made safe to keep: whatever comes out can be stored as jsonb and encoded again.

Devices are not trusted: size and depth are bounded, and what JSON leaves open (a key twice, NaN, a number too
large for its type) is refused instead of guessed. Characters that Postgres cannot store become U+FFFD.
"""

import json
import math
import re
from typing import Any

from mqtt_service.errors import RemoteProtocolError

LARGEST_MESSAGE = 64 * 1024
DEEPEST = 32

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# A string is matched whole, up to the message's end where it is not closed, so that nothing is read twice.
_STRING_OR_NAN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[+-]?\b(?:nan|inf|infinity)\b', re.IGNORECASE | re.DOTALL)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def read_object(
    payload: bytes, *, largest: int = LARGEST_MESSAGE, bad_numbers_as_null: bool = False
) -> dict[str, Any]:
    """The JSON object in these bytes, storable; raises RemoteProtocolError for anything else.

    `bad_numbers_as_null`: NaN, Infinity, C's `nan` and `inf`, and numbers out of range become None; otherwise
    they are refused, like everything that is no JSON.
    """
    return storable(parse_object(payload, largest=largest, bad_numbers_as_null=bad_numbers_as_null))


def parse_object(
    payload: bytes, *, largest: int = LARGEST_MESSAGE, bad_numbers_as_null: bool = False
) -> dict[str, Any]:
    """As `read_object`, but unchecked: depth is not bounded, and texts may hold what cannot be stored."""
    if len(payload) > largest:
        raise RemoteProtocolError(f"the message is {len(payload)} bytes, the limit is {largest}")
    try:
        text = payload.decode("utf-8-sig")
        document = _decode_leniently(text) if bad_numbers_as_null else _STRICT.decode(text)
    except RecursionError as error:
        raise RemoteProtocolError(f"the message is nested deeper than {DEEPEST}") from error
    except ValueError as error:
        raise RemoteProtocolError(f"the message is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RemoteProtocolError(f"the message is a JSON {type(document).__name__}, not an object")
    return document


def storable(document: dict[str, Any]) -> dict[str, Any]:
    """The same object as Postgres can store it; raises RemoteProtocolError where it is nested too deep."""
    return {_text(key): _storable(value, DEEPEST) for key, value in document.items()}


def short_text(value: object, longest: int) -> str | None:
    """A storable text without blanks around it, cut to `longest` characters; None for anything else."""
    return _text(value.strip()[:longest]) or None if isinstance(value, str) else None


def number(value: object, lowest: float, highest: float) -> float | None:
    """A number, also one written as text; None for anything else or out of range."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) and lowest <= read <= highest else None


def whole_number(value: object) -> int | None:
    """An integer, also one written as text or as 3.0; None for anything else."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value := value.strip()) else None
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _decode_leniently(text: str) -> object:
    try:
        return _LENIENT.decode(text)
    except ValueError:
        # Firmware that prints its JSON with printf writes `nan`: only such a message is read a second time.
        return _MOST_LENIENT.decode(_STRING_OR_NAN.sub(_replace_nan, text))


def _replace_nan(match: re.Match[str]) -> str:
    found = match[0]
    return found if found[0] == '"' else "null"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return document


def _finite(text: str) -> float:
    read = float(text)
    if not math.isfinite(read):
        raise ValueError(f"the number {text[:20]} is too large")
    return read


def _finite_or_none(text: str) -> float | None:
    read = float(text)
    return read if math.isfinite(read) else None


def _int_or_none(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _none_for_constant(_: str) -> None:
    return None


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse_constant)
_LENIENT = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite_or_none, parse_constant=_none_for_constant
)
# A function of ours for every integer would make an array of byte values several times slower to read.
_MOST_LENIENT = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=_finite_or_none,
    parse_int=_int_or_none,
    parse_constant=_none_for_constant,
)


def _storable(value: object, depth: int) -> object:
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, dict | list):
        return value
    if depth == 1:
        raise RemoteProtocolError(f"the message is nested deeper than {DEEPEST}")
    if isinstance(value, list):
        return [_storable(item, depth - 1) for item in value]
    return {_text(key): _storable(item, depth - 1) for key, item in value.items()}


def _text(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)
