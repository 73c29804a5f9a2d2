"""Read what is uploaded: a form with one file, or the file as it is. Pure."""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from mqtt_service.devstack.storage.errors import no_content


@dataclass(frozen=True)
class Upload:
    """A file, and what is kept with it."""

    data: bytes = field(repr=False)
    mime_type: str
    cache_control: str
    user_metadata: dict[str, Any]


def parse_upload(headers: Mapping[str, str], body: bytes) -> Upload:
    """Return the file that a request carries. Raises StorageError where it carries none."""
    content_type = headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        return _parse_form(content_type, body)
    return Upload(
        body,
        content_type or "application/octet-stream",
        headers.get("cache-control", "no-cache"),
        _decode_metadata(headers.get("x-metadata")),
    )


def _parse_form(content_type: str, body: bytes) -> Upload:
    fields: dict[str, str] = {}
    for headers, content in _parts(content_type, body):
        if headers.get_filename() is None:
            name = headers.get_param("name", header="content-disposition")
            fields[str(name)] = content.decode("utf-8", errors="replace")
            continue
        seconds = fields.get("cacheControl")
        return Upload(
            content,
            fields.get("contentType") or headers.get("content-type") or "application/octet-stream",
            f"max-age={seconds}" if seconds else "no-cache",
            _to_object(fields.get("metadata", fields.get("userMetadata"))),
        )
    raise no_content()


def _parts(content_type: str, body: bytes) -> Iterator[tuple[Message, bytes]]:
    """Yield the headers and the content of each part of a form. Raises StorageError."""
    envelope = Message()
    envelope["content-type"] = content_type
    boundary = envelope.get_boundary()
    if not boundary:
        raise no_content("Multipart: Boundary not found")
    delimiter = b"\r\n--" + boundary.encode("latin-1", errors="replace")
    for part in (b"\r\n" + body).split(delimiter)[1:]:
        if part.startswith(b"--"):
            return
        head, blank_line, content = part.partition(b"\r\n\r\n")
        if not blank_line:
            break
        yield BytesHeaderParser().parsebytes(head.lstrip()), content
    raise no_content("Unexpected end of form")


def _decode_metadata(header: str | None) -> dict[str, Any]:
    try:
        return _to_object(base64.b64decode(header or "").decode())
    except (binascii.Error, UnicodeDecodeError):
        return {}


def _to_object(text: str | None) -> dict[str, Any]:
    """Return the JSON object in `text`, and an empty one for anything else, as the real server does."""
    try:
        value = json.loads(text or "")
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
