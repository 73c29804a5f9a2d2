"""Who calls Storage: the role and the claims of the bearer token.

Storage asks for no API key of its own, since public and signed addresses must open without one.
"""

from collections.abc import Mapping

from mqtt_service.devstack.caller import ANONYMOUS, Caller
from mqtt_service.devstack.keys import InvalidTokenError, JwtKeys
from mqtt_service.devstack.storage.errors import denied, invalid_request

SERVICE = Caller("service_role", {"role": "service_role"})
EXPIRED = '"exp" claim timestamp check failed'


def authenticate(keys: JwtKeys, headers: Mapping[str, str]) -> Caller:
    """Return who calls. Raises StorageError for no token, or one that does not hold."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or token.startswith("sb_"):
        token = keys.to_token(headers.get("apikey", token))
    if not token:
        raise invalid_request("headers must have required property 'authorization'")
    try:
        claims = keys.claims(token.strip())
    except InvalidTokenError as error:
        raise denied(words_for(error)) from error
    role = str(claims.get("role", ANONYMOUS))
    return Caller(role, {**claims, "role": role})


def words_for(error: InvalidTokenError) -> str:
    """Return the words of the library that the real server checks tokens with."""
    if error.code == "PGRST303":
        return EXPIRED
    return "Invalid Compact JWS" if "parts" in error.message else "signature verification failed"
