"""Who calls the database API: the role that the bearer token claims, or that the API key stands for."""

from collections.abc import Mapping

from mqtt_service.devstack.caller import ANONYMOUS, Caller
from mqtt_service.devstack.gateway import check_api_key
from mqtt_service.devstack.keys import InvalidTokenError, JwtKeys
from mqtt_service.devstack.rest.errors import ApiError

LEEWAY_SECONDS = 30.0  # PostgREST forgives clocks that differ by so much


def authenticate(keys: JwtKeys, headers: Mapping[str, str], url_key: str | None) -> Caller:
    """Return who calls, from the headers `apikey` and `Authorization`; `url_key` is the parameter `apikey`.

    A bearer token goes before the key; an opaque key in its place, as clients send it, is ignored.
    Raises NoApiKeyError, or ApiError (PGRST301, PGRST303) for a token that does not hold.
    """
    key = check_api_key(keys, headers, url_key)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or token.startswith("sb_"):
        token = key
    try:
        claims = keys.claims(token.strip(), LEEWAY_SECONDS)
    except InvalidTokenError as error:
        raise ApiError(401, error.code, error.message, details=error.details) from error
    role = str(claims.get("role", ANONYMOUS))
    return Caller(role, {**claims, "role": role})
