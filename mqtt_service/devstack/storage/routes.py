"""The Storage interface of the embedded stack, under /storage/v1: what supabase-py and supabase-js use of it.

    HTTP request
      gateway           faults on demand
      auth              who calls
      buckets uploads downloads listing signed_urls delete_move_copy
                        what is asked for, each a function of a StorageRequest; validation says what is
                        refused
      database, files   rows in a transaction of the caller or of the service itself; bytes on disk

Rows stand in storage.buckets and storage.objects, where policies decide; bytes are files of the data
directory. Left out are resumable and signed uploads, transformed images, ranges, and the S3 dialect.
"""

from pathlib import Path

import psycopg
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mqtt_service.devstack.caller import ANONYMOUS, Caller, Pool, RequestContext
from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.gateway import answer_through_faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.storage.auth import authenticate
from mqtt_service.devstack.storage.buckets import (
    create_bucket,
    delete_bucket,
    empty_bucket,
    get_bucket,
    list_buckets,
    update_bucket,
)
from mqtt_service.devstack.storage.database import StorageDatabase
from mqtt_service.devstack.storage.delete_move_copy import (
    copy_object,
    delete_object,
    delete_objects,
    move_object,
)
from mqtt_service.devstack.storage.downloads import get_info, get_object, get_public_info, get_public_object
from mqtt_service.devstack.storage.errors import StorageError
from mqtt_service.devstack.storage.files import FileStore
from mqtt_service.devstack.storage.listing import list_objects
from mqtt_service.devstack.storage.request import Handler, StorageRequest
from mqtt_service.devstack.storage.signed_urls import get_signed_object, sign_object, sign_objects
from mqtt_service.devstack.storage.uploads import create_object, update_object

PREFIX = "/storage/v1"
_NOBODY = Caller(ANONYMOUS, {"role": ANONYMOUS})
_OBJECT = "/object/{bucket}/{name:path}"
_CLIENT_GONE = 499

# What needs a token that holds, and what does not; the more particular paths stand first.
_SIGNED_IN: list[tuple[str, str, Handler]] = [
    ("GET", "/bucket", list_buckets),
    ("POST", "/bucket", create_bucket),
    ("GET", "/bucket/{bucket}", get_bucket),
    ("PUT", "/bucket/{bucket}", update_bucket),
    ("DELETE", "/bucket/{bucket}", delete_bucket),
    ("POST", "/bucket/{bucket}/empty", empty_bucket),
    ("POST", "/object/list/{bucket}", list_objects),
    ("POST", "/object/move", move_object),
    ("POST", "/object/copy", copy_object),
    ("POST", "/object/sign/{bucket}", sign_objects),
    ("POST", "/object/sign/{bucket}/{name:path}", sign_object),
    ("GET", "/object/authenticated/{bucket}/{name:path}", get_object),
    ("GET", "/object/info/authenticated/{bucket}/{name:path}", get_info),
    ("DELETE", "/object/{bucket}", delete_objects),
    ("DELETE", _OBJECT, delete_object),
    ("POST", _OBJECT, create_object),
    ("PUT", _OBJECT, update_object),
]
_OPEN: list[tuple[str, str, Handler]] = [
    ("GET", "/object/public/{bucket}/{name:path}", get_public_object),
    ("GET", "/object/sign/{bucket}/{name:path}", get_signed_object),
    ("GET", "/object/info/public/{bucket}/{name:path}", get_public_info),
    ("GET", "/object/info/{bucket}/{name:path}", get_info),
    ("GET", _OBJECT, get_object),
]


def storage_routes(pool: Pool, keys: JwtKeys, faults: Faults, files: FileStore) -> list[BaseRoute]:
    """Return the routes under /storage/v1; `pool` connects as `authenticator`, as for rest_routes."""
    api = _StorageApi(pool, keys, faults, files)
    return [
        api.route(method, path, handler, needs_token=needs_token)
        for table, needs_token in ((_SIGNED_IN, True), (_OPEN, False))
        for method, path, handler in table
    ]


async def open_files(directory: Path, db_url: str) -> FileStore:
    """Return the files in `directory` (made if absent), without those that no object needs any more."""
    files = FileStore(directory)
    async with await psycopg.AsyncConnection.connect(db_url) as connection:
        cursor = await connection.execute("select version from storage.objects")
        files.keep_only({version for (version,) in await cursor.fetchall()})
    return files


class _StorageApi:
    def __init__(self, pool: Pool, keys: JwtKeys, faults: Faults, files: FileStore) -> None:
        self._pool = pool
        self._keys = keys
        self._faults = faults
        self._files = files

    def route(self, method: str, path: str, handler: Handler, *, needs_token: bool) -> Route:
        async def serve(http: Request) -> Response:
            try:
                await http.body()  # an answer before its end would cut the client off
            except ClientDisconnect:
                return Response(status_code=_CLIENT_GONE)
            return await answer_through_faults(
                self._faults, http, lambda: self._answer(http, handler, needs_token=needs_token)
            )

        return Route(PREFIX + path, serve, methods=[method])

    async def _answer(self, http: Request, handler: Handler, *, needs_token: bool) -> Response:
        try:
            return await handler(self._storage_request(http, needs_token=needs_token))
        except StorageError as error:
            return JSONResponse(error.body, error.http_status)

    def _storage_request(self, http: Request, *, needs_token: bool) -> StorageRequest:
        is_known, caller = True, _NOBODY
        try:
            caller = authenticate(self._keys, http.headers)
        except StorageError:
            if needs_token:
                raise
            is_known = False
        context = RequestContext(caller, http.method, http.url.path.removeprefix(PREFIX), http.headers)
        database = StorageDatabase(self._pool, context)
        return StorageRequest(http, database, self._files, self._keys, caller.claims.get("sub"), is_known)
