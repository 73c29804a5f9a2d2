"""What goes wrong when people sign in, as the real server (GoTrue) says it."""

_API_VERSION = "2024-01-01"  # from then on clients expect the code where the status was before
VERSION_HEADER = "x-supabase-api-version"


class AuthError(Exception):
    """An error as a client sees it: an HTTP status, a code, a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(message)

    def body(self, api_version: str) -> dict[str, object]:
        """Return the JSON document of the answer, for a client that asked for this version of the API."""
        if api_version >= _API_VERSION:
            return {"code": self.code, "message": self.message}
        return {"code": self.status, "error_code": self.code, "msg": self.message}

    def headers(self, api_version: str) -> dict[str, str]:
        """Return the headers that go with it."""
        return {VERSION_HEADER: _API_VERSION} if api_version >= _API_VERSION else {}


def invalid_login() -> AuthError:
    """Return the error for somebody unknown, or a wrong password: it does not say which."""
    return AuthError(400, "invalid_credentials", "Invalid login credentials")


def invalid_refresh(code: str, reason: str) -> AuthError:
    """Return the error for a refresh token that is not taken."""
    return AuthError(400, code, f"Invalid Refresh Token: {reason}")


def invalid_input(message: str) -> AuthError:
    """Return the error for a request that lacks something."""
    return AuthError(400, "validation_failed", message)


def bad_token(message: str) -> AuthError:
    """Return the error for an access token that does not hold."""
    return AuthError(403, "bad_jwt", message)
