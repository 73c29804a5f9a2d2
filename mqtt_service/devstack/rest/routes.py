"""The REST interface of the embedded stack: PostgREST 14's dialect under /rest/v1.

    request ─▶ rest_faults ─▶ rest_auth ─▶ rest_parse ─▶ rest_plan ─▶ rest_read/write/call ─▶ rest_transaction
                               who          what          of what       SQL                     role, commit

It is no larger than what this project and the official clients use: aggregate functions, spread resources,
full-text search, CSV, PUT and the OpenAPI document are refused. Only the schema `public` is exposed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import psycopg
from psycopg_pool import AsyncConnectionPool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.rest.auth import NoApiKeyError, authenticate
from mqtt_service.devstack.rest.errors import ApiError, bad_body
from mqtt_service.devstack.rest.faults import answer_through_faults
from mqtt_service.devstack.rest.parse import parse_preferences, parse_query, parse_range, parse_shape
from mqtt_service.devstack.rest.request import Window
from mqtt_service.devstack.rest.respond import respond_to_call, respond_to_read, respond_to_write
from mqtt_service.devstack.rest.schema import EXPOSED
from mqtt_service.devstack.rest.transaction import Context, Database
from mqtt_service.devstack.rest.work import Wish, plan_call, plan_read, plan_write

PREFIX = "/rest/v1"
_METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]


def rest_routes(
    pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], keys: JwtKeys, faults: Faults
) -> list[BaseRoute]:
    """Return the routes under /rest/v1.

    `pool` should connect as `authenticator`, which may become the roles of the API and nothing more.
    """
    api = _RestApi(Database(pool), keys, faults)
    return [
        Route(f"{PREFIX}/rpc/{{function}}", api.serve, methods=_METHODS),
        Route(f"{PREFIX}/{{table}}", api.serve, methods=_METHODS),
        Route(f"{PREFIX}/", api.serve, methods=_METHODS),
    ]


class _RestApi:
    def __init__(self, database: Database, keys: JwtKeys, faults: Faults) -> None:
        self._database = database
        self._keys = keys
        self._faults = faults

    async def serve(self, request: Request) -> Response:
        return await answer_through_faults(self._faults, request, lambda: self._answer(request))

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._perform(request)
        except NoApiKeyError as error:
            return JSONResponse(error.body, 401)
        except ApiError as error:
            return JSONResponse(error.body, error.status, error.headers)

    async def _perform(self, request: Request) -> Response:
        pairs = parse_qsl(request.url.query, keep_blank_values=True)
        caller = authenticate(self._keys, request.headers, dict(pairs).get("apikey"))
        path = request.url.path.removeprefix(PREFIX)
        context = Context(caller, request.method, path, request.headers)
        wish = await _read_wish(request, [pair for pair in pairs if pair[0] != "apikey"])
        if "function" in request.path_params:
            return await self._call(context, request.path_params["function"], wish)
        if "table" in request.path_params:
            return await self._use_table(context, request.path_params["table"], wish)
        raise ApiError(404, "PGRST126", "Root endpoint metadata is disabled")

    async def _call(self, context: Context, function: str, wish: Wish) -> Response:
        if wish.method not in {"GET", "HEAD", "POST"}:
            raise ApiError(405, "PGRST101", f"Cannot use the {wish.method} method on RPC")
        result = await self._database.run(context, lambda schema: plan_call(schema, function, wish))
        return respond_to_call(wish, result)

    async def _use_table(self, context: Context, table: str, wish: Wish) -> Response:
        if wish.method == "PUT":
            raise ApiError(405, "PGRST117", "Unsupported HTTP method: PUT")
        if wish.method in {"GET", "HEAD"}:
            result = await self._database.run(context, lambda schema: plan_read(schema, table, wish))
            return respond_to_read(wish, result)
        result = await self._database.run(context, lambda schema: plan_write(schema, table, wish))
        return respond_to_write(table, wish, result)


async def _read_wish(request: Request, pairs: list[tuple[str, str]]) -> Wish:
    """Read all that the request says about what it wants. Raises ApiError."""
    _check_profile(request.headers)
    reads = request.method in {"GET", "HEAD"}
    query = parse_query(pairs, is_call=reads and "function" in request.path_params)
    preferences = parse_preferences(request.headers.getlist("prefer"))
    body = await request.body()
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if body and request.method in {"POST", "PATCH"} and content_type != "application/json":
        raise bad_body(f"Content-Type not acceptable: {content_type}")
    if reads:
        window = parse_range(request.headers.get("range"), query.windows.get((), Window()))
        query = replace(query, windows={**query.windows, (): window})
    shape = parse_shape(request.headers.get("accept", "*/*"))
    return Wish(request.method, query, preferences, shape, body)


def _check_profile(headers: Mapping[str, str]) -> None:
    for name in ("accept-profile", "content-profile"):
        schema = headers.get(name, EXPOSED)
        if schema != EXPOSED:
            hint = f"Only the following schemas are exposed: {EXPOSED}"
            raise ApiError(406, "PGRST106", f"Invalid schema: {schema}", hint=hint)
