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


def read_object(payload: bytes, *, largest: int = LARGEST_MESSAGE) -> dict[str, Any]:
    """The JSON object that the bytes spell; raises RemoteProtocolError for anything else."""
    if len(payload) > largest:
        raise RemoteProtocolError(f"the message is {len(payload)} bytes, the limit is {largest}")
    try:
        document = json.loads(
            payload.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except RecursionError as error:
        raise RemoteProtocolError(f"the message is nested deeper than {DEEPEST}") from error
    except ValueError as error:
        raise RemoteProtocolError(f"the message is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise RemoteProtocolError(f"the message is a JSON {type(document).__name__}, not an object")
    return {_text(key): _storable(value, DEEPEST) for key, value in document.items()}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


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
