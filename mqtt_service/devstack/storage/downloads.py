"""Serve objects and their metadata: to whoever may read them, and from a public bucket to everybody."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from mqtt_service.devstack.storage.database import Row
from mqtt_service.devstack.storage.errors import StorageError, no_bucket, no_object
from mqtt_service.devstack.storage.request import StorageRequest, to_json
from mqtt_service.devstack.storage.validation import check_key

_BUCKET = "select public from storage.buckets where id = %s"
_OBJECT = "select * from storage.objects where bucket_id = %s and name = %s"
# An object that is replaced just now has its old file removed: its row then names a new one.
_READ_ATTEMPTS = 3

Find = Callable[[StorageRequest], Awaitable[Row]]


async def get_object(request: StorageRequest) -> Response:
    """Answer GET and HEAD of an object that the caller may read."""
    return await serve(request, find_readable)


async def get_public_object(request: StorageRequest) -> Response:
    """Answer GET and HEAD of an object in a public bucket."""
    return await serve(request, find_public)


async def get_info(request: StorageRequest) -> Response:
    """Answer what is known of an object that the caller may read."""
    return _describe(await find_readable(request))


async def get_public_info(request: StorageRequest) -> Response:
    """Answer what is known of an object in a public bucket."""
    return _describe(await find_public(request))


async def find_readable(request: StorageRequest) -> Row:
    """Return the row of the object in the path as the caller's policies show it. Raises StorageError."""
    async with request.database.as_service() as transaction:
        bucket = await transaction.row(_BUCKET, request.bucket)
    if bucket is None or not (request.is_known or bucket["public"]):
        raise no_bucket()
    if bucket["public"]:
        return await find_any(request)
    async with request.database.as_caller() as transaction:
        return _found(request, await transaction.row(_OBJECT, request.bucket, request.name))


async def find_public(request: StorageRequest) -> Row:
    """Return the row of the object in the path, whose bucket is public. Raises StorageError."""
    async with request.database.as_service() as transaction:
        bucket = await transaction.row(_BUCKET, request.bucket)
    if bucket is None or not bucket["public"]:
        raise no_bucket()
    return await find_any(request)


async def find_any(request: StorageRequest) -> Row:
    """Return the row of the object in the path, whoever asks. Raises StorageError."""
    async with request.database.as_service() as transaction:
        return _found(request, await transaction.row(_OBJECT, request.bucket, request.name))


async def serve(request: StorageRequest, find: Find, expires: str | None = None) -> Response:
    """Answer with the file of the object that `find` gives. Raises StorageError."""
    row, data = await _load(request, find)
    metadata = row["metadata"]
    headers = {
        "ETag": metadata["eTag"],
        "Last-Modified": format_datetime(datetime.fromisoformat(metadata["lastModified"]), usegmt=True),
        "X-Robots-Tag": "none",
        **({"Cache-Control": metadata["cacheControl"]} if expires is None else {"Expires": expires}),
        **_disposition(request.http.query_params.get("download")),
    }
    if request.http.headers.get("if-none-match") == metadata["eTag"]:
        return Response(None, 304, headers)
    # As the real server: a page that somebody uploaded must not run in the project's name.
    mime_type = "text/plain" if "text/html" in metadata["mimetype"] else metadata["mimetype"]
    headers["Content-Type"] = mime_type
    return Response(data, headers=headers)


async def _load(request: StorageRequest, find: Find) -> tuple[Row, bytes]:
    for _ in range(_READ_ATTEMPTS):
        row = await find(request)
        data = await request.files.read(row["version"])
        if data is not None:
            return row, data
    raise StorageError(404, "NoSuchKey", "The resource was not found", "Not found")


def _found(request: StorageRequest, row: Row | None) -> Row:
    check_key(request.name)
    if row is None:
        raise no_object()
    return row


def _disposition(download: str | None) -> dict[str, str]:
    if download is None:
        return {}
    name = quote(download, safe="")
    named = f" filename={name}; filename*=UTF-8''{name}" if download else ""
    return {"Content-Disposition": f"attachment;{named}"}


def _describe(row: Row) -> Response:
    metadata = row["metadata"]
    shown = {
        "id": row["id"],
        "name": row["name"],
        "version": row["version"],
        "bucket_id": row["bucket_id"],
        "size": metadata.get("size"),
        "content_type": metadata.get("mimetype"),
        "cache_control": metadata.get("cacheControl"),
        "etag": metadata.get("eTag"),
        "metadata": row["user_metadata"],
        "last_modified": row["updated_at"],
        "created_at": row["created_at"],
    }
    return JSONResponse({key: to_json(value) for key, value in shown.items()})
