"""What stands before the HTTP interfaces, as the gateway of a hosted project does: the check of the API key.

Faults on demand are carried out here too, so that all interfaces fail in the same ways.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mqtt_service.devstack.faults import Faults, RestFault
from mqtt_service.devstack.keys import JwtKeys

Answer = Callable[[], Awaitable[Response]]


class NoApiKeyError(Exception):
    """The gateway lets nobody through without a key of the project; `body` is its answer, with 401."""

    def __init__(self, message: str, hint: str) -> None:
        self.body = {"message": message, "hint": hint}
        super().__init__(message)


def check_api_key(keys: JwtKeys, headers: Mapping[str, str], url_key: str | None) -> str:
    """Return the project's key that the request brings, in a header or in its URL. Raises NoApiKeyError."""
    key = headers.get("apikey") or url_key
    if not key:
        hint = "No `apikey` request header or url param was found."
        raise NoApiKeyError("No API key found in request", hint)
    if not keys.is_api_key(key):
        hint = "Double check your Supabase `anon` or `service_role` API key."
        raise NoApiKeyError("Invalid API key", hint)
    return key


async def answer_through_faults(faults: Faults, request: Request, answer: Answer) -> Response:
    """Return what `answer` makes of the request, or what a fault makes of that."""
    fault = faults.take_rest(request.url.path)
    if fault is None:
        return await answer()
    if fault.kind == "status":
        return _refuse(fault)
    if fault.kind == "close":
        return _Cut()
    if fault.kind == "hang":
        await _until_gone_or_cleared(faults, request)
        return _Cut()
    await answer()
    if fault.kind == "lose_response":
        return _Cut()
    return Response(b'{"half": [', 200, media_type="application/json")


class _Cut(Response):
    """An answer whose body never comes: the server closes the connection, and the client gets an error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def _refuse(fault: RestFault) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    message = "An invalid response was received from the upstream server"
    return JSONResponse({"message": message}, fault.status, headers)


async def _until_gone_or_cleared(faults: Faults, request: Request) -> None:
    await request.body()
    gone = asyncio.create_task(_until_gone(request))
    cleared = asyncio.create_task(faults.cleared.wait())
    try:
        await asyncio.wait({gone, cleared}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        cleared.cancel()
        await asyncio.gather(gone, cleared, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
