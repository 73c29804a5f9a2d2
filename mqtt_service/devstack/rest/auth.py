"""Who calls: the gateway's check of the API key, and the role that the token claims."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mqtt_service.devstack.keys import InvalidTokenError, JwtKeys
from mqtt_service.devstack.rest.errors import ApiError

ANONYMOUS = "anon"
LEEWAY_SECONDS = 30.0  # PostgREST forgives clocks that differ by so much


class NoApiKeyError(Exception):
    """The gateway lets nobody through without a key of the project; `body` is its answer, with 401."""

    def __init__(self, message: str, hint: str) -> None:
        self.body = {"message": message, "hint": hint}
        super().__init__(message)


@dataclass(frozen=True)
class Caller:
    """A database role and the claims that the request's transaction sees."""

    role: str
    claims: Mapping[str, Any]

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody is signed in."""
        return self.role == ANONYMOUS


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


def authenticate(keys: JwtKeys, headers: Mapping[str, str], url_key: str | None) -> Caller:
    """Return who calls, from the headers `apikey` and `Authorization`; `url_key` is the parameter `apikey`.

    A bearer token goes before the key; an opaque key in its place, as clients send it, is passed over.
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
