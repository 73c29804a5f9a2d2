"""List a folder of a bucket: its objects, and its folders as rows without an id."""

from starlette.responses import JSONResponse, Response

from mqtt_service.devstack.storage.errors import invalid_request
from mqtt_service.devstack.storage.request import StorageRequest, number_of, text_of, to_json

_COLUMNS = ("name", "updated_at", "created_at", "last_accessed_at")
_DEFAULT_LIMIT = 100
_MAX_LIMIT = 1500

# The folder, what its names begin with, the bucket; then limit and offset.
_LIST = """
with below as (
  select *, substr(name, length(%s) + 1) as rest from storage.objects
  where bucket_id = %s and starts_with(lower(name), lower(%s))
), children as (
  select split_part(rest, '/', 1) as child, true as is_folder, null::uuid as id,
    null::timestamptz as updated_at, null::timestamptz as created_at, null::timestamptz as last_accessed_at,
    null::jsonb as metadata
  from below where strpos(rest, '/') > 0 group by 1
  union all
  select rest, false, id, updated_at, created_at, last_accessed_at, metadata
  from below where strpos(rest, '/') = 0
)
select child as name, id, updated_at, created_at, last_accessed_at, metadata
from children order by {order} limit %s offset %s
"""


async def list_objects(request: StorageRequest) -> Response:
    """Answer with what the caller may read of a folder."""
    document = await request.document("prefix")
    prefix = text_of(document, "prefix")
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    limit = min(number_of(document, "limit", _DEFAULT_LIMIT, 1), _MAX_LIMIT)
    offset = number_of(document, "offset", 0, 0)
    begin = folder + text_of(document, "search", "")
    query = _LIST.format(order=_order(document.get("sortBy", {})))
    async with request.database.as_caller() as transaction:
        rows = await transaction.rows(query, folder, request.bucket, begin, limit, offset)
    return JSONResponse([{key: to_json(value) for key, value in row.items()} for row in rows])


def _order(sort_by: object) -> str:
    """Return the order as SQL: folders stand among the objects by name, and before them by time."""
    if not isinstance(sort_by, dict):
        raise invalid_request("body/sortBy must be object")
    column, direction = sort_by.get("column") or "name", sort_by.get("order") or "asc"
    if column not in _COLUMNS:
        raise invalid_request("body/sortBy/column must be equal to one of the allowed values")
    if direction not in {"asc", "desc"}:
        raise invalid_request("body/sortBy/order must be equal to one of the allowed values")
    if column == "name":
        return f"""lower(child || case when is_folder then '/' else '' end) collate "C" {direction}"""
    return f"is_folder desc, case when is_folder then child end {direction}, {column} {direction}, child"
