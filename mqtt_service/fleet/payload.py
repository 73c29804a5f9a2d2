"""The payload of a command as people write it: `key=value` words, or one JSON object."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from mqtt_service.errors import UsageError


def read_payload(pairs: Sequence[str], text: str | None) -> dict[str, Any]:
    """The payload that `pairs` or `text` mean; {} for neither. Raises UsageError, also where both are given.

    A value is JSON where it can be read as such (`30`, `true`, `["a"]`, `"30"` for a text of digits), else
    text.
    """
    if text is not None and pairs:
        raise UsageError("give key=value words or --payload, not both")
    return _read_pairs(pairs) if text is None else _read_object(text)


def _read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{pair!r} is not key=value; a device is named with --device")
        if key in payload:
            raise UsageError(f"{key} is given twice")
        try:
            payload[key] = _loads(value)
        except (ValueError, RecursionError):
            payload[key] = value
    return payload


def _read_object(text: str) -> dict[str, Any]:
    try:
        payload = _loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--payload is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise UsageError('--payload is not an object: write e.g. {"image_name": "image_001.jpg"}')
    return payload


def _loads(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON (RFC 8259, section 6)")
