"""The API keys of a stack: what a client may send, and the claims that each stands for.

There are two kinds, as in hosted projects: JSON web tokens signed with the project's secret (the legacy
`anon` and `service_role` keys, and the tokens of signed-in users), and opaque `sb_publishable_…` and
`sb_secret_…` keys, for which the gateway puts the first two.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jwt
from jwt.types import Options

ISSUER = "mqtt-service-dev"
KEY_SECONDS = 10 * 365 * 24 * 3600
USER_TOKEN_SECONDS = 3600
_ALGORITHM = "HS256"
_JWT_PARTS = 3
# PostgREST looks at the other claims itself, and so do we: PyJWT reads the system's clock.
_SIGNATURE_ONLY: Options = {
    "verify_aud": False,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_sub": False,
}


class InvalidTokenError(Exception):
    """A token that is refused: PostgREST's code for the reason, and its words."""

    def __init__(self, code: str, message: str, details: str | None = None) -> None:
        self.code = code
        self.message = message
        self.details = details
        super().__init__(message)


@dataclass(frozen=True)
class JwtKeys:
    """All keys that follow from one `secret` (at least 32 characters); `clock` gives Unix seconds."""

    secret: str = field(repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)

    @classmethod
    def generate(cls) -> "JwtKeys":
        """Return keys nobody has seen before."""
        return cls(secrets.token_urlsafe(48))

    @classmethod
    def load_or_create(cls, file: Path) -> "JwtKeys":
        """Return the keys whose secret is in `file`; if absent, it is made, readable to its owner alone."""
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(48))
        return cls(file.read_text().strip())

    @cached_property
    def anon_key(self) -> str:
        """The legacy public key: role `anon`."""
        return self._role_key("anon")

    @cached_property
    def service_role_key(self) -> str:
        """The legacy secret key: role `service_role`, which row-level security does not bind."""
        return self._role_key("service_role")

    @cached_property
    def publishable_key(self) -> str:
        """The opaque public key."""
        return "sb_publishable_" + self._opaque("publishable")

    @cached_property
    def secret_key(self) -> str:
        """The opaque secret key."""
        return "sb_secret_" + self._opaque("secret")

    def user_token(self, user_id: str, email: str, seconds: float = USER_TOKEN_SECONDS) -> str:
        """Return the access token of a signed-in user, good for `seconds` (a negative number: expired)."""
        return self.sign({
            "sub": user_id,
            "email": email,
            "role": "authenticated",
            "aud": "authenticated",
            "is_anonymous": False,
        }, seconds)  # fmt: skip

    def is_api_key(self, key: str) -> bool:
        """Return whether the gateway lets a request with this `apikey` through."""
        known = (self.anon_key, self.service_role_key, self.publishable_key, self.secret_key)
        return any(hmac.compare_digest(key.encode(), other.encode()) for other in known)

    def to_token(self, key: str) -> str:
        """Return the web token that an opaque key stands for; anything else is returned as it is."""
        return {self.secret_key: self.service_role_key, self.publishable_key: self.anon_key}.get(key, key)

    def claims(self, token: str, leeway: float = 0.0) -> Mapping[str, Any]:
        """Return what a token (or an opaque key) claims, expired at most `leeway` seconds ago.

        Raises InvalidTokenError.
        """
        token = self.to_token(token)
        parts = token.count(".") + 1
        if not token:
            raise InvalidTokenError("PGRST301", "Empty JWT is sent in Authorization header")
        if parts != _JWT_PARTS:
            raise InvalidTokenError("PGRST301", f"Expected 3 parts in JWT; got {parts}")
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self.secret, algorithms=[_ALGORITHM], options=_SIGNATURE_ONLY
            )
        except jwt.InvalidTokenError as error:
            words = "No suitable key or wrong key type"
            details = "None of the keys was able to decode the JWT"
            raise InvalidTokenError("PGRST301", words, details) from error
        if "exp" in claims and claims["exp"] <= self.clock() - leeway:
            raise InvalidTokenError("PGRST303", "JWT expired")
        return claims

    def sign(self, claims: Mapping[str, Any], seconds: float) -> str:
        """Return a token of these claims, good for `seconds` from now on."""
        now = int(self.clock())
        return jwt.encode({**claims, "iat": now, "exp": int(now + seconds)}, self.secret, _ALGORITHM)

    def _role_key(self, role: str) -> str:
        return self.sign({"iss": ISSUER, "ref": "dev", "role": role}, KEY_SECONDS)

    def _opaque(self, purpose: str) -> str:
        digest = hmac.new(self.secret.encode(), purpose.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:24]).decode()
