"""Make, show, change, empty and delete buckets."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from mqtt_service.devstack.storage.database import Row
from mqtt_service.devstack.storage.errors import (
    StorageError,
    duplicate,
    invalid_request,
    no_bucket,
    no_content,
)
from mqtt_service.devstack.storage.request import StorageRequest, number_of, text_of, to_json
from mqtt_service.devstack.storage.validation import check_bucket_name, check_mime_types, parse_size_limit

_SETTINGS = ("public", "file_size_limit", "allowed_mime_types")
_ORDERS = {"id", "name", "created_at", "updated_at"}
_DIRECTIONS = {"asc", "desc"}
_FIND = "select * from storage.buckets where id = %s"
_INSERT = """
insert into storage.buckets (id, name, owner_id, public, file_size_limit, allowed_mime_types)
values (%s, %s, %s, coalesce(%s, false), %s, %s)
"""
_NOT_EMPTY = "The bucket you tried to delete is not empty"
_EMPTIED = "Empty bucket has been queued. Completion may take up to an hour."


async def create_bucket(request: StorageRequest) -> Response:
    """Answer POST: a new bucket."""
    document = await request.document("name")
    name = text_of(document, "name")
    check_bucket_name(name)
    settings = _settings(document)
    values = (document.get("id") or name, name, request.owner, *(settings.get(key) for key in _SETTINGS))
    try:
        async with request.database.as_caller() as transaction:
            await transaction.rows(_INSERT, *values)
    except StorageError as error:
        taken = error.code == "ResourceAlreadyExists"
        raise (duplicate("BucketAlreadyExists") if taken else error) from error
    return JSONResponse({"name": name})


async def list_buckets(request: StorageRequest) -> Response:
    """Answer GET: the buckets that the caller may see."""
    asked = request.http.query_params
    column, direction = asked.get("sortColumn", "name"), asked.get("sortOrder", "asc")
    if column not in _ORDERS or direction not in _DIRECTIONS:
        raise invalid_request("querystring/sortColumn must be equal to one of the allowed values")
    limit = number_of(dict(asked), "limit", 1, 1) if "limit" in asked else None
    offset = number_of(dict(asked), "offset", 0, 0)
    query = f"""
        select * from storage.buckets where strpos(lower(name), lower(%s)) > 0
        order by {column} {direction} limit %s offset %s
    """  # noqa: S608 - both words are out of the lists above
    async with request.database.as_caller() as transaction:
        rows = await transaction.rows(query, asked.get("search", ""), limit, offset)
    return JSONResponse([_show(row) for row in rows])


async def get_bucket(request: StorageRequest) -> Response:
    """Answer GET of one bucket."""
    async with request.database.as_caller() as transaction:
        row = await transaction.row(_FIND, request.bucket)
    if row is None:
        raise no_bucket()
    return JSONResponse(_show(row))


async def update_bucket(request: StorageRequest) -> Response:
    """Answer PUT: other settings; those that are not named stay."""
    settings = _settings(await request.document())
    if not settings:
        raise no_content()
    assignments = ", ".join(f"{column} = %s" for column in settings)
    query = f"update storage.buckets set {assignments}, updated_at = now() where id = %s returning id"  # noqa: S608
    async with request.database.as_caller() as transaction:
        row = await transaction.row(query, *settings.values(), request.bucket)
    if row is None:
        raise no_bucket()
    return JSONResponse({"message": "Successfully updated"})


async def empty_bucket(request: StorageRequest) -> Response:
    """Delete the objects of a bucket, as far as the caller may; unlike hosted, at once."""
    async with request.database.as_caller() as transaction:
        if await transaction.row(_FIND, request.bucket) is None:
            raise no_bucket()
        query = "delete from storage.objects where bucket_id = %s returning version"
        rows = await transaction.rows(query, request.bucket)
    await request.files.remove([row["version"] for row in rows])
    return JSONResponse({"message": _EMPTIED})


async def delete_bucket(request: StorageRequest) -> Response:
    """Answer DELETE of an empty bucket."""
    async with request.database.as_service() as transaction:
        if await transaction.row(_FIND, request.bucket) is None:
            raise no_bucket()
        if await transaction.row(
            "select id from storage.objects where bucket_id = %s limit 1", request.bucket
        ):
            raise StorageError(409, "ResourceNotEmpty", _NOT_EMPTY)
    async with request.database.as_caller() as transaction:
        row = await transaction.row("delete from storage.buckets where id = %s returning id", request.bucket)
    if row is None:
        raise no_bucket()
    return JSONResponse({"message": "Successfully deleted"})


def _settings(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings that a body names, checked. Raises StorageError."""
    settings = {key: document[key] for key in _SETTINGS if key in document}
    if not isinstance(settings.get("public", False), bool):
        raise invalid_request("body/public must be boolean")
    limit = settings.get("file_size_limit")
    if limit is not None:
        if not isinstance(limit, int | str) or isinstance(limit, bool):
            raise invalid_request("body/file_size_limit must be integer,string,null")
        settings["file_size_limit"] = parse_size_limit(limit)
    mime_types = settings.get("allowed_mime_types")
    if mime_types is not None:
        if not isinstance(mime_types, list) or not all(isinstance(item, str) for item in mime_types):
            raise invalid_request("body/allowed_mime_types must be array")
        check_mime_types(mime_types)
    return settings


def _show(row: Row) -> dict[str, object]:
    shown = {key: to_json(value) for key, value in row.items() if key != "owner_id"}
    return {**shown, "owner": row["owner_id"] or "", "type": "STANDARD"}
