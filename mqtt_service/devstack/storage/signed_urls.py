"""Signed URLs: each opens one object until its token expires, for whoever has it."""

from email.utils import formatdate
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from mqtt_service.devstack.keys import InvalidTokenError, JwtKeys
from mqtt_service.devstack.storage.auth import words_for
from mqtt_service.devstack.storage.downloads import find_any, serve
from mqtt_service.devstack.storage.errors import StorageError, invalid_request, no_object
from mqtt_service.devstack.storage.request import StorageRequest, number_of, texts_of
from mqtt_service.devstack.storage.validation import check_bucket_name, check_key

_SCOPE = "download"
_READABLE = "select name from storage.objects where bucket_id = %s and name = any(%s)"
_UNREADABLE = "Either the object does not exist or you do not have access to it"


async def sign_object(request: StorageRequest) -> Response:
    """Answer with an address for the object in the path, which the caller may read."""
    seconds = number_of(await request.document("expiresIn"), "expiresIn", None, 1)
    check_key(request.name)
    if not await _readable(request, [request.name]):
        raise no_object()
    return JSONResponse({"signedURL": _address(request, request.name, seconds)})


async def sign_objects(request: StorageRequest) -> Response:
    """Answer with an address for each name in the body, or with why there is none."""
    document = await request.document("expiresIn", "paths")
    seconds = number_of(document, "expiresIn", None, 1)
    names = texts_of(document, "paths")
    readable = await _readable(request, names)
    return JSONResponse([_signed(request, name, seconds, is_readable=name in readable) for name in names])


async def get_signed_object(request: StorageRequest) -> Response:
    """Answer GET of a signed address: the file, until the token's end."""
    token = request.http.query_params.get("token")
    if token is None:
        raise invalid_request("querystring must have required property 'token'")
    end = verify(request.keys, token, request.bucket, request.name)
    return await serve(request, find_any, expires=formatdate(end, usegmt=True))


def verify(keys: JwtKeys, token: str, bucket: str, name: str) -> float:
    """Return when the token ends (Unix seconds). Raises StorageError where it does not open this object."""
    try:
        claims = keys.claims(token)
    except InvalidTokenError as error:
        raise StorageError(400, "InvalidJWT", words_for(error)) from error
    if claims.get("scope") != _SCOPE:
        raise StorageError(400, "InvalidSignature", f"Token is not scoped for {_SCOPE}")
    if claims.get("url") != f"{bucket}/{name}":
        raise StorageError(400, "InvalidSignature", "Invalid signature")
    return float(claims["exp"])


async def _readable(request: StorageRequest, names: list[str]) -> set[str]:
    check_bucket_name(request.bucket)
    async with request.database.as_caller() as transaction:
        return {row["name"] for row in await transaction.rows(_READABLE, request.bucket, names)}


def _signed(request: StorageRequest, name: str, seconds: int, *, is_readable: bool) -> dict[str, Any]:
    address = _address(request, name, seconds) if is_readable else None
    return {"error": None if address else _UNREADABLE, "path": name, "signedURL": address}


def _address(request: StorageRequest, name: str, seconds: int) -> str:
    url = f"{request.bucket}/{name}"
    token = request.keys.sign({"url": url, "scope": _SCOPE}, seconds)
    return f"/object/sign/{url}?token={quote(token)}"
