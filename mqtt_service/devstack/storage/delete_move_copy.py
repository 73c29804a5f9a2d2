"""Delete, move and copy objects."""

from typing import Any

from starlette.responses import JSONResponse, Response

from mqtt_service.devstack.storage.database import Row, Transaction
from mqtt_service.devstack.storage.errors import StorageError, denied, no_object
from mqtt_service.devstack.storage.request import StorageRequest, text_of, texts_of, to_json
from mqtt_service.devstack.storage.uploads import NewObject, check_permission, keep_object
from mqtt_service.devstack.storage.validation import check_key

_FIND = "select * from storage.objects where bucket_id = %s and name = %s"
_DELETE = "delete from storage.objects where bucket_id = %s and name = any(%s) returning *"
_MOVE = """
update storage.objects
set bucket_id = %s, name = %s, owner_id = coalesce(%s, owner_id), updated_at = now()
where bucket_id = %s and name = %s
returning id
"""


async def delete_objects(request: StorageRequest) -> Response:
    """Answer DELETE of a bucket's objects: those named in the body that the caller may delete."""
    names = texts_of(await request.document("prefixes"), "prefixes")
    async with request.database.as_caller() as transaction:
        rows = await transaction.rows(_DELETE, request.bucket, names)
    await request.files.remove([row["version"] for row in rows])
    return JSONResponse([_show(row) for row in rows])


async def delete_object(request: StorageRequest) -> Response:
    """Answer DELETE of one object."""
    async with request.database.as_service() as transaction:
        if await transaction.row(_FIND, request.bucket, request.name) is None:
            raise no_object()
    async with request.database.as_caller() as transaction:
        row = await transaction.row(_DELETE, request.bucket, [request.name])
    if row is None:
        raise denied()
    await request.files.remove([row["version"]])
    return JSONResponse({"message": "Successfully deleted"})


async def move_object(request: StorageRequest) -> Response:
    """Give an object another name, or another bucket; its file stays what it is."""
    document = await request.document("bucketId", "sourceKey", "destinationKey")
    bucket, source = text_of(document, "bucketId"), text_of(document, "sourceKey")
    target = text_of(document, "destinationKey")
    check_key(target)
    values = (text_of(document, "destinationBucket", bucket), target, request.owner, bucket, source)
    async with request.database.as_caller(only_try=True) as transaction:
        await _find(transaction, bucket, source)
        await _move(transaction, values)
    async with request.database.as_service() as transaction:
        row = await _move(transaction, values)
    return JSONResponse({"message": "Successfully moved", "Id": str(row["id"]), "Key": target})


async def copy_object(request: StorageRequest) -> Response:
    """Keep an object that the caller may read once more, under another name."""
    document = await request.document("bucketId", "sourceKey", "destinationKey")
    bucket, target = text_of(document, "bucketId"), text_of(document, "destinationKey")
    check_key(target)
    async with request.database.as_caller() as transaction:
        source = await _find(transaction, bucket, text_of(document, "sourceKey"))
    target_bucket = text_of(document, "destinationBucket", bucket)
    new = NewObject(target_bucket, target, request.owner, source["metadata"], source["user_metadata"])
    await check_permission(request, new, is_upsert=request.http.headers.get("x-upsert") == "true")
    data = await request.files.read(source["version"])
    if data is None:
        raise StorageError(404, "NoSuchKey", "The resource was not found", "Not found")
    row = await keep_object(request, new, data)
    return JSONResponse({"Id": str(row["id"]), "Key": f"{target_bucket}/{target}", **_show(row)})


async def _find(transaction: Transaction, bucket: str, name: str) -> Row:
    row = await transaction.row(_FIND, bucket, name)
    if row is None:
        raise no_object()
    return row


async def _move(transaction: Transaction, values: tuple[str | None, ...]) -> Row:
    row = await transaction.row(_MOVE, *values)
    if row is None:
        raise no_object()
    return row


def _show(row: Row) -> dict[str, Any]:
    owner = row["owner_id"] or ""
    return {**{key: to_json(value) for key, value in row.items()}, "owner": owner, "owner_id": owner}
