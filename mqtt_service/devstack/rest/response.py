"""From the result of a transaction to the HTTP answer: status, Content-Range and body."""

import json
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from mqtt_service.devstack.rest.database import Result
from mqtt_service.devstack.rest.errors import unsatisfiable
from mqtt_service.devstack.rest.request import RestRequest, Shape


def respond_to_read(request: RestRequest, result: Result) -> Response:
    """Return the rows: 200, 206 where they are a part of a known total; raises ApiError (416) beyond it."""
    offset = request.window.offset
    if result.total is not None and offset > result.total:
        raise unsatisfiable(f"An offset of {offset} was requested, but there are only {result.total} rows.")
    status = 206 if result.total is not None and result.rows < result.total else 200
    headers = {"Content-Range": _content_range(offset, result.rows, result.total)}
    return _with_body(result.body, status, headers, request.shape)


def respond_to_call(request: RestRequest, result: Result) -> Response:
    """Return what a function gave; 204 for one that returns void."""
    if result.body == "":
        headers = {"Content-Range": _content_range(request.window.offset, result.rows, result.total)}
        return Response(status_code=204, headers=headers)
    return respond_to_read(request, result)


def respond_to_write(table: str, request: RestRequest, result: Result) -> Response:
    """Return 201 for what is new, else 200 or 204, and the rows if they were asked for."""
    counted = result.rows if request.preferences.count is not None else None
    shown = result.rows if request.method == "PATCH" else 0
    headers = {"Content-Range": _content_range(0, shown, counted)}
    if request.preferences.returning == "headers-only":
        headers |= _location(table, result)
    if request.method == "POST":
        only_merged = request.preferences.resolution == "merge-duplicates" and not result.inserted
        status = 200 if only_merged else 201
    else:
        status = 200 if request.preferences.returning == "representation" else 204
    if request.preferences.returning != "representation":
        return Response(status_code=status, headers=headers)
    return _with_body(result.body, status, headers, request.shape)


def _with_body(body: str, status: int, headers: dict[str, str], shape: Shape) -> Response:
    return Response(body, status, {**headers, "Content-Type": shape.media_type})


def _content_range(offset: int, rows: int, total: int | None) -> str:
    shown = f"{offset}-{offset + rows - 1}" if rows and total != 0 else "*"
    return f"{shown}/{'*' if total is None else total}"


def _location(table: str, result: Result) -> dict[str, str]:
    """Return where the one new row can be read, if it has a primary key."""
    keys: list[dict[str, Any]] = json.loads(result.body or "[]")
    if len(keys) != 1:
        return {}
    where = "&".join(f"{quote(name)}=eq.{quote(str(value))}" for name, value in keys[0].items())
    return {"Location": f"/{table}?{where}"}
