"""Hand objects out, and what is known of them: to whoever may read them, or to all from a public bucket."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from mqtt_service.devstack.storage.call import Call, to_json
from mqtt_service.devstack.storage.database import Row
from mqtt_service.devstack.storage.errors import StorageError, no_bucket, no_object
from mqtt_service.devstack.storage.rules import check_key

_BUCKET = "select public from storage.buckets where id = %s"
_OBJECT = "select * from storage.objects where bucket_id = %s and name = %s"
_LOOKS = 3  # an object that is replaced just now has its old file removed: its row then names a new one

Find = Callable[[Call], Awaitable[Row]]


async def get_object(call: Call) -> Response:
    """Answer GET and HEAD of an object that the caller may read."""
    return await serve(call, find_readable)


async def get_public_object(call: Call) -> Response:
    """Answer GET and HEAD of an object in a public bucket."""
    return await serve(call, find_public)


async def get_info(call: Call) -> Response:
    """Answer what is known of an object that the caller may read."""
    return _describe(await find_readable(call))


async def get_public_info(call: Call) -> Response:
    """Answer what is known of an object in a public bucket."""
    return _describe(await find_public(call))


async def find_readable(call: Call) -> Row:
    """Return the row of the object in the path as the caller's policies show it. Raises StorageError."""
    async with call.database.as_service() as transaction:
        bucket = await transaction.row(_BUCKET, call.bucket)
    if bucket is None or not (call.is_known or bucket["public"]):
        raise no_bucket()
    if bucket["public"]:
        return await find_any(call)
    async with call.database.as_caller() as transaction:
        return _found(call, await transaction.row(_OBJECT, call.bucket, call.name))


async def find_public(call: Call) -> Row:
    """Return the row of the object in the path, whose bucket is public. Raises StorageError."""
    async with call.database.as_service() as transaction:
        bucket = await transaction.row(_BUCKET, call.bucket)
    if bucket is None or not bucket["public"]:
        raise no_bucket()
    return await find_any(call)


async def find_any(call: Call) -> Row:
    """Return the row of the object in the path, whoever asks. Raises StorageError."""
    async with call.database.as_service() as transaction:
        return _found(call, await transaction.row(_OBJECT, call.bucket, call.name))


async def serve(call: Call, find: Find, expires: str | None = None) -> Response:
    """Answer with the file of the object that `find` gives. Raises StorageError."""
    row, data = await _load(call, find)
    metadata = row["metadata"]
    headers = {
        "ETag": metadata["eTag"],
        "Last-Modified": format_datetime(datetime.fromisoformat(metadata["lastModified"]), usegmt=True),
        "X-Robots-Tag": "none",
        **({"Cache-Control": metadata["cacheControl"]} if expires is None else {"Expires": expires}),
        **_disposition(call.request.query_params.get("download")),
    }
    if call.request.headers.get("if-none-match") == metadata["eTag"]:
        return Response(None, 304, headers)
    # As the real server: a page that somebody uploaded must not run in the project's name.
    mime_type = "text/plain" if "text/html" in metadata["mimetype"] else metadata["mimetype"]
    headers["Content-Type"] = mime_type
    return Response(data, headers=headers)


async def _load(call: Call, find: Find) -> tuple[Row, bytes]:
    for _ in range(_LOOKS):
        row = await find(call)
        data = await call.files.read(row["version"])
        if data is not None:
            return row, data
    raise StorageError(404, "NoSuchKey", "The resource was not found", "Not found")


def _found(call: Call, row: Row | None) -> Row:
    check_key(call.name)
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
