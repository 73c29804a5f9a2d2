"""What Storage accepts: names of objects and buckets, media types, sizes. Pure."""

import re
from collections.abc import Sequence

from mqtt_service.devstack.storage.errors import (
    StorageError,
    invalid_bucket_name,
    invalid_key,
    too_large,
    wrong_mime_type,
)

MAX_OBJECT_BYTES = 50 * 1024 * 1024  # as supabase/config.toml has it
_MAX_BUCKET_NAME = 100
_SAFE = r"[A-Za-z0-9_!.*'() &$=@;:+,?{slash}-]"
_KEY = re.compile(_SAFE.format(slash="/") + "+")
_BUCKET = re.compile(_SAFE.format(slash="") + f"{{1,{_MAX_BUCKET_NAME}}}")
_MIME_TYPE = re.compile(r"[a-zA-Z0-9\-+.]+/(?:[a-zA-Z0-9\-+.]+|\*)(?:;\s*charset=[a-zA-Z0-9\-]+)?|\*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(gb|mb|kb|b)", re.IGNORECASE)
_UNITS = {"gb": 10**9, "mb": 10**6, "kb": 1000, "b": 1}


def check_key(name: str) -> None:
    """Return if an object can have this name: it leads nowhere else. Raises StorageError."""
    if not _KEY.fullmatch(name) or not {".", ".."}.isdisjoint(name.split("/")):
        raise invalid_key(name)


def check_bucket_name(name: str) -> None:
    """Return if a bucket can have this name. Raises StorageError."""
    if not _BUCKET.fullmatch(name) or name != name.strip() or name in {".", ".."}:
        raise invalid_bucket_name()


def check_mime_type(mime_type: str, allowed: Sequence[str] | None) -> None:
    """Return if a bucket that takes only `allowed` (empty: anything) takes this. Raises StorageError."""
    kind, slash, _ = mime_type.partition("/")
    if allowed and not (slash and {mime_type, f"{kind}/*"} & set(allowed)):
        raise wrong_mime_type(mime_type)


def check_mime_types(allowed: Sequence[str]) -> None:
    """Return if these can be a bucket's list. Raises StorageError."""
    for mime_type in allowed:
        if not _MIME_TYPE.fullmatch(mime_type):
            raise wrong_mime_type(mime_type)


def parse_size_limit(value: int | str) -> int:
    """Return the bytes of a bucket's limit: a number, or text such as 20MB. Raises StorageError."""
    size = value if isinstance(value, int) else _parse_size(value)
    if size > MAX_OBJECT_BYTES:
        raise too_large()
    return size


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        words = "Invalid file size format, hint: use 20GB / 20MB / 30KB / 3B"
        raise StorageError(400, "InvalidRequest", words)
    return int(float(match[1]) * _UNITS[match[2].lower()])
