"""Replies: what a device that woke is told without a row of `device_commands`.

    cmd   send_image, capture_image, next_wake
    ack   missing_chunks, ACK_OK

Those on `cmd` carry a command_id as commands do. It is a UUID of version 8 that begins with a mark, so that
the device's acknowledgement is recognised, and never looked for among the rows.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from mqtt_service.errors import LocalProtocolError
from mqtt_service.protocol.commands import WakeFormat, wire_time

_MARK = bytes.fromhex("6d717474")
_LENGTH = 16
_REPLY_ID = re.compile(rf"{_MARK.hex()}[0-9a-f]{{4}}8[0-9a-f]{{3}}[89ab][0-9a-f]{{15}}")


def reply_id(random_bytes: bytes) -> UUID:
    """A new id for a reply, made of 16 random bytes."""
    if len(random_bytes) != _LENGTH:
        raise ValueError(f"an id is made of {_LENGTH} random bytes, not {len(random_bytes)}")
    raw = bytearray(_MARK + random_bytes[len(_MARK) :])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes=bytes(raw))


def is_reply_id(text: str | None) -> bool:
    """Whether a command_id, as a device spells it, is that of a reply, and so of no row."""
    bare = text.strip().strip("{}").replace("-", "").lower() if text else ""
    return _REPLY_ID.fullmatch(bare) is not None


def encode_send_image(device: str, reply_id: UUID, name: str) -> bytes:
    """`cmd`: upload the picture of this name."""
    return _command(device, reply_id, send_image=name)


def encode_capture_image(device: str, reply_id: UUID) -> bytes:
    """`cmd`: take a picture, or upload a pending one."""
    return _command(device, reply_id, capture_image=True)


def encode_next_wake(device: str, reply_id: UUID, moment: datetime, wake_format: WakeFormat) -> bytes:
    """`cmd`: sleep until this aware time; raises LocalProtocolError for one without a zone."""
    return _command(device, reply_id, next_wake=wire_time(moment, wake_format))


def encode_missing_chunks(device: str, name: str, chunks: Sequence[int]) -> bytes:
    """`ack`: send these chunks of the picture again, by the device's own numbering."""
    return _to_json({"device_id": device, "image_name": name, "missing_chunks": list(chunks)})


def encode_ack_ok(device: str, name: str, next_wake: datetime, wake_format: WakeFormat) -> bytes:
    """`ack`: the picture is safely stored and may be deleted; sleep until this aware time."""
    ack_ok = {"next_wake_time": wire_time(next_wake, wake_format)}
    return _to_json({"device_id": device, "image_name": name, "ACK_OK": ack_ok})


def _command(device: str, reply_id: UUID, **fields: object) -> bytes:
    return _to_json({"device_id": device, "command_id": str(reply_id), **fields})


def _to_json(document: dict[str, Any]) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"the reply holds text that no message can carry: {error}") from error
