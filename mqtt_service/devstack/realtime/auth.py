"""Whether Realtime accepts a token, and with which error it refuses one."""

from collections.abc import Mapping
from typing import Any

import jwt

from mqtt_service.devstack.keys import InvalidTokenError, JwtKeys
from mqtt_service.errors import PermanentError

_EXPIRED = "PGRST303"


class TokenRefusedError(PermanentError):
    """A token that Realtime does not accept; `code` is what its logs and join replies begin with."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"{code}: {text}")


def authorize(keys: JwtKeys, token: str) -> Mapping[str, Any]:
    """Return the claims of a token, `role` and `exp` among them. Raises TokenRefusedError."""
    try:
        claims = keys.claims(token)
    except InvalidTokenError as error:
        raise _refusal(keys, token, error) from error
    if "role" not in claims or not isinstance(claims.get("exp"), int | float):
        raise TokenRefusedError("InvalidJWTToken", "Fields `role` and `exp` are required in JWT")
    return claims


def _refusal(keys: JwtKeys, token: str, error: InvalidTokenError) -> TokenRefusedError:
    if error.code == _EXPIRED:
        expired_at = jwt.decode(token, options={"verify_signature": False})["exp"]
        return expired(int(keys.clock() - expired_at))
    if isinstance(error.__cause__, jwt.InvalidSignatureError):
        return TokenRefusedError("JwtSignatureError", "Failed to validate JWT signature")
    return TokenRefusedError("MalformedJWT", "The token provided is not a valid JWT")


def expired(seconds_ago: int) -> TokenRefusedError:
    """Return the refusal of a token that expired so long ago."""
    return TokenRefusedError("InvalidJWTToken", f"Token has expired {seconds_ago} seconds ago")
