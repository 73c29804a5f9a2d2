"""JSON as devices send it, made safe to keep: whatever comes out can be stored as jsonb and encoded again.

It is read strictly first; only what is no JSON is read leniently, with a list of what was repaired. Devices
are not trusted: size and depth are bounded. Characters that Postgres cannot store become U+FFFD.
"""

import json
import math
import re
from dataclasses import replace
from typing import Any

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.lenient_json import JSON_BLANKS, Reading, Repair, read_leniently

LARGEST_MESSAGE = 64 * 1024
DEEPEST = 32

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NONE: frozenset[Repair] = frozenset()
_ENCODING: frozenset[Repair] = frozenset({"encoding"})
_TRAILING: frozenset[Repair] = frozenset({"trailing_bytes"})
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def read_message(payload: bytes, *, largest: int = LARGEST_MESSAGE) -> Reading:
    """The first object in these bytes; raises RemoteProtocolError where none begins them.

    The depth of strict JSON is not bounded, and texts may hold what cannot be stored: see `storable`.
    """
    if len(payload) > largest:
        raise RemoteProtocolError(f"the message is {len(payload)} bytes, the limit is {largest}")
    repairs = _NONE
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, repairs = payload.decode("utf-8-sig", errors="replace"), _ENCODING
    try:
        document, end = _STRICT.raw_decode(text, len(text) - len(text.lstrip(JSON_BLANKS)))
    except (ValueError, RecursionError) as error:
        return _read_leniently(text, repairs, str(error))
    if not isinstance(document, dict):
        return _read_leniently(text, repairs, f"it is a JSON {type(document).__name__}")
    rest = text[end:]
    return Reading(document, repairs | _TRAILING if rest.strip(JSON_BLANKS) else repairs, rest=rest)


def parse_object(payload: bytes, *, largest: int = LARGEST_MESSAGE) -> dict[str, Any]:
    """The object that these bytes are; raises RemoteProtocolError where RFC 8259 does not call them one."""
    reading = read_message(payload, largest=largest)
    if reading.repairs:
        raise RemoteProtocolError(f"the message is not JSON: {', '.join(sorted(reading.repairs))}")
    return reading.document


def _read_leniently(text: str, repairs: frozenset[Repair], fault: str) -> Reading:
    reading = read_leniently(text, DEEPEST)
    if reading is None:
        raise RemoteProtocolError(f"the message is not a JSON object: {fault}")
    return replace(reading, repairs=reading.repairs | repairs)


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


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse_constant)


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
