"""The database API of the embedded stack: PostgREST 14's dialect under /rest/v1.

    HTTP request
      gateway      the API key, and faults on demand (for every interface)
      auth         who calls
      parse        the query string and headers become a RestRequest; grammar reads the values in them
      operations   the request becomes an Operation, by
                     plan                         which relationships of the schema are meant
                     read_sql write_sql call_sql  the statement; clauses are its small parts
      database     the statement runs in a transaction, in the caller's role; schema is read from the catalog
      response     the result becomes the HTTP response

It is no larger than what this project and the official clients use: aggregate functions, spread resources,
full-text search, CSV, PUT and the OpenAPI document are refused. Only the schema `public` is exposed.
"""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mqtt_service.devstack.caller import Pool, RequestContext
from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.gateway import NoApiKeyError, answer_through_faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.rest.auth import authenticate
from mqtt_service.devstack.rest.database import Database
from mqtt_service.devstack.rest.errors import ApiError, bad_body
from mqtt_service.devstack.rest.operations import call_operation, read_operation, write_operation
from mqtt_service.devstack.rest.parse import parse_preferences, parse_query, parse_range, parse_shape
from mqtt_service.devstack.rest.request import RestRequest, Window
from mqtt_service.devstack.rest.response import respond_to_call, respond_to_read, respond_to_write
from mqtt_service.devstack.rest.schema import EXPOSED

PREFIX = "/rest/v1"
_METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]


def rest_routes(pool: Pool, keys: JwtKeys, faults: Faults) -> list[BaseRoute]:
    """Return the routes under /rest/v1."""
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

    async def serve(self, http: Request) -> Response:
        return await answer_through_faults(self._faults, http, lambda: self._answer(http))

    async def _answer(self, http: Request) -> Response:
        try:
            return await self._perform(http)
        except NoApiKeyError as error:
            return JSONResponse(error.body, 401)
        except ApiError as error:
            return JSONResponse(error.body, error.status, error.headers)

    async def _perform(self, http: Request) -> Response:
        pairs = parse_qsl(http.url.query, keep_blank_values=True)
        caller = authenticate(self._keys, http.headers, dict(pairs).get("apikey"))
        path = http.url.path.removeprefix(PREFIX)
        context = RequestContext(caller, http.method, path, http.headers)
        request = await _read_request(http, [pair for pair in pairs if pair[0] != "apikey"])
        if "function" in http.path_params:
            return await self._call(context, http.path_params["function"], request)
        if "table" in http.path_params:
            return await self._use_table(context, http.path_params["table"], request)
        raise ApiError(404, "PGRST126", "Root endpoint metadata is disabled")

    async def _call(self, context: RequestContext, function: str, request: RestRequest) -> Response:
        if request.method not in {"GET", "HEAD", "POST"}:
            raise ApiError(405, "PGRST101", f"Cannot use the {request.method} method on RPC")
        result = await self._database.run(context, lambda schema: call_operation(schema, function, request))
        return respond_to_call(request, result)

    async def _use_table(self, context: RequestContext, table: str, request: RestRequest) -> Response:
        if request.method == "PUT":
            raise ApiError(405, "PGRST117", "Unsupported HTTP method: PUT")
        if request.method in {"GET", "HEAD"}:
            result = await self._database.run(context, lambda schema: read_operation(schema, table, request))
            return respond_to_read(request, result)
        result = await self._database.run(context, lambda schema: write_operation(schema, table, request))
        return respond_to_write(table, request, result)


async def _read_request(http: Request, pairs: list[tuple[str, str]]) -> RestRequest:
    """Read all that the http says about what it wants. Raises ApiError."""
    _check_profile(http.headers)
    reads = http.method in {"GET", "HEAD"}
    query = parse_query(pairs, is_call=reads and "function" in http.path_params)
    preferences = parse_preferences(http.headers.getlist("prefer"))
    body = await http.body()
    content_type = http.headers.get("content-type", "application/json").partition(";")[0].strip()
    if body and http.method in {"POST", "PATCH"} and content_type != "application/json":
        raise bad_body(f"Content-Type not acceptable: {content_type}")
    if reads:
        window = parse_range(http.headers.get("range"), query.windows.get((), Window()))
        query = replace(query, windows={**query.windows, (): window})
    shape = parse_shape(http.headers.get("accept", "*/*"))
    return RestRequest(http.method, query, preferences, shape, body)


def _check_profile(headers: Mapping[str, str]) -> None:
    for name in ("accept-profile", "content-profile"):
        schema = headers.get(name, EXPOSED)
        if schema != EXPOSED:
            hint = f"Only the following schemas are exposed: {EXPOSED}"
            raise ApiError(406, "PGRST106", f"Invalid schema: {schema}", hint=hint)
