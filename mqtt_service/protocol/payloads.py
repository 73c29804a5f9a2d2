"""The bytes of a picture's chunk, as devices write them into JSON: only what surely holds them is read."""

import binascii
import re
from typing import Any

from mqtt_service.errors import RemoteProtocolError

# The alphabet for URLs, and line breaks, as section 3.1 of RFC 4648 lets a protocol have them.
_TO_STANDARD_BASE64 = str.maketrans("-_", "+/", " \t\r\n")
_ONLY_INTEGERS = {int}
_BLANKS_AND_NULS = " \t\r\n\0"
# RFC 2397, section 3: `data:[<mediatype>][;base64],<data>`.
_DATA_URI = re.compile(r"\s*data:[^,;]{0,100}(?:;[^,;]{0,100}){0,5};\s*base64\s*,", re.IGNORECASE)
# `FFD8…`, `0xFFD8…`, `FF-D8-…`: these, too, can be read as base64.
_HEX = re.compile(r"(?:0x)?[0-9a-f]{2}(?:[-_+/]?[0-9a-f]{2})*+", re.IGNORECASE)
_START_OF_JPEG_IN_HEX = re.compile(r"(?:0x)?ff[-_+/]?d8[-_+/]?ff", re.IGNORECASE)
_START_OF_HEX = ("ff", "FF", "fF", "Ff", "0x", "0X")
# Below this, base64 can be made of hex digits alone by chance.
_LEAST_HEX = 24


def chunk_bytes(payload: object, most: int | None) -> bytes:
    """The bytes in base64 text or an array, at least one; raises RemoteProtocolError for anything else.

    `most`: how many bytes the device says a chunk has at most (None: it does not say).
    """
    if isinstance(payload, str):
        data = _from_text(payload, most)
    elif isinstance(payload, list):
        data = _from_array(payload)
    else:
        raise RemoteProtocolError("the chunk's payload is neither base64 nor an array; the chunk is dropped")
    if not data:
        raise RemoteProtocolError("the chunk's payload is empty; the chunk is dropped")
    return data


def _from_text(text: str, most: int | None) -> bytes:
    """Base64 (RFC 4648, sections 4 and 5), also behind the head of a data URI, or with blanks around."""
    if text.startswith(_START_OF_HEX) or len(text) == 2 * (most or 0):
        _refuse_hex(text.strip(_BLANKS_AND_NULS), most)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        # Perhaps it has line breaks, the alphabet for URLs, no padding, or something around it.
        pass
    head = _DATA_URI.match(text)
    said = text[head.end() if head else 0 :].translate(_TO_STANDARD_BASE64)
    bare = said.rstrip("\0=")
    _refuse_hex(bare, most)
    # Where a NUL is behind, it may have taken the place of what the padding would complete.
    padded = said.rstrip("\0") if "\0" in said else bare + "=" * (-len(bare) % 4)
    try:
        return binascii.a2b_base64(padded, strict_mode=True)
    except ValueError as error:
        raise RemoteProtocolError(
            f"the chunk's payload is not base64 ({error}); the chunk is dropped"
        ) from error


def _refuse_hex(text: str, most: int | None) -> None:
    """Raise RemoteProtocolError where the bytes are written in hex, which would pass for base64.

    Hex digits are base64 as well, and zeros are `AAAA…` in it, so digits alone prove nothing. It is hex where
    all of at least 24 are digits, or signs between two bytes, and either they begin as a JPEG does in hex, or
    they are exactly twice as many as the device says a chunk has bytes. As base64, the first would be 7D F7
    …, with which no JPEG begins; a later chunk of random bytes is like that less than once in 10¹³. The
    second would be half as many bytes again as the device says. A later chunk in hex that names no size is
    not told from base64: its picture lacks the first, and fails.
    """
    if len(text) < _LEAST_HEX or not _HEX.fullmatch(text):
        return
    if _START_OF_JPEG_IN_HEX.match(text) or (len(text) == 2 * (most or 0) and text.strip("A")):
        raise RemoteProtocolError(
            "the chunk's payload is hex text; send base64 or an array of bytes; the chunk is dropped"
        )


def _from_array(values: list[Any]) -> bytes:
    if not set(map(type, values)) <= _ONLY_INTEGERS:
        raise RemoteProtocolError("the chunk's payload has values that are not bytes; the chunk is dropped")
    try:
        return bytes(values)
    except (ValueError, OverflowError) as error:
        raise RemoteProtocolError(
            "the chunk's payload has a value that is not a byte 0–255; the chunk is dropped"
        ) from error
