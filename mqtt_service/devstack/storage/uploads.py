"""Put objects into a bucket."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb
from starlette.responses import JSONResponse, Response

from mqtt_service.devstack.storage.database import Row, Transaction
from mqtt_service.devstack.storage.errors import StorageError, duplicate, no_bucket, too_large
from mqtt_service.devstack.storage.request import StorageRequest
from mqtt_service.devstack.storage.upload_body import parse_upload
from mqtt_service.devstack.storage.validation import MAX_OBJECT_BYTES, check_key, check_mime_type

_INSERT = """
insert into storage.objects (bucket_id, name, owner_id, metadata, user_metadata, version)
values (%s, %s, %s, %s, %s, %s)
"""
# "returning" is what makes an upsert need the right to read, as on the real server.
_UPSERT = f"""{_INSERT}
on conflict (bucket_id, name) do update set owner_id = excluded.owner_id, metadata = excluded.metadata,
  user_metadata = excluded.user_metadata, version = excluded.version, updated_at = now()
returning *
"""
_LOCK = "select version from storage.objects where bucket_id = %s and name = %s for update"
_BUCKET = "select file_size_limit, allowed_mime_types from storage.buckets where id = %s"

# Then the row may be committed, and its file stays; if it is not, the next start tidies up.
_OUTCOME_UNKNOWN = "DatabaseTimeout"


@dataclass(frozen=True)
class NewObject:
    """A row of storage.objects to be."""

    bucket: str
    name: str
    owner: str | None
    metadata: dict[str, Any] = field(repr=False)
    user_metadata: dict[str, Any] | None = field(repr=False)


async def create_object(request: StorageRequest) -> Response:
    """Answer POST: a new object, or with `x-upsert: true` whatever is there already."""
    return await _upload(request, is_upsert=request.http.headers.get("x-upsert") == "true")


async def update_object(request: StorageRequest) -> Response:
    """Answer PUT: an object that takes the place of one that is there, if any."""
    return await _upload(request, is_upsert=True)


async def check_permission(request: StorageRequest, new: NewObject, *, is_upsert: bool) -> None:
    """Return if policies let the caller write this object. Raises StorageError."""
    try:
        async with request.database.as_caller(only_try=True) as transaction:
            await transaction.rows(_UPSERT if is_upsert else _INSERT, *_values(new, "1"))
    except StorageError as error:
        raise (duplicate() if error.code == "ResourceAlreadyExists" else error) from error


async def keep_object(request: StorageRequest, new: NewObject, data: bytes) -> Row:
    """Keep an object that the caller may write, in place of what is there; return its row.

    The file is whole before the row is committed, and what it replaces is removed after.
    """
    version = await request.files.write(data)
    try:
        async with request.database.as_service() as transaction:
            replaced, row = await _upsert(transaction, new, version)
    except StorageError as error:
        if error.code != _OUTCOME_UNKNOWN:
            await request.files.remove([version])
        raise
    await request.files.remove(replaced)
    return row


async def _upsert(transaction: Transaction, new: NewObject, version: str) -> tuple[list[str], Row]:
    replaced = await transaction.rows(_LOCK, new.bucket, new.name)
    row = await transaction.row(_UPSERT, *_values(new, version))
    return [old["version"] for old in replaced], row or {}


def _values(new: NewObject, version: str) -> tuple[object, ...]:
    user_metadata = None if new.user_metadata is None else Jsonb(new.user_metadata)
    return new.bucket, new.name, new.owner, Jsonb(new.metadata), user_metadata, version


async def _upload(request: StorageRequest, *, is_upsert: bool) -> Response:
    async with request.database.as_service() as transaction:
        bucket = await transaction.row(_BUCKET, request.bucket)
    if bucket is None:
        raise no_bucket()
    upload = parse_upload(request.http.headers, await request.http.body())
    check_mime_type(upload.mime_type, bucket["allowed_mime_types"])
    if len(upload.data) > min(bucket["file_size_limit"] or MAX_OBJECT_BYTES, MAX_OBJECT_BYTES):
        raise too_large()
    check_key(request.name)
    metadata = describe(upload.data, upload.mime_type, upload.cache_control)
    new = NewObject(request.bucket, request.name, request.owner, metadata, upload.user_metadata)
    await check_permission(request, new, is_upsert=is_upsert)
    row = await keep_object(request, new, upload.data)
    return JSONResponse({"Id": str(row["id"]), "Key": f"{request.bucket}/{request.name}"})


def describe(data: bytes, mime_type: str, cache_control: str) -> dict[str, Any]:
    """Return the metadata that Storage keeps of a file."""
    tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {
        "eTag": f'"{tag}"',
        "size": len(data),
        "mimetype": mime_type,
        "cacheControl": cache_control,
        "lastModified": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "contentLength": len(data),
        "httpStatusCode": 200,
    }
