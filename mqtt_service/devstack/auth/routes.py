"""Signing in to the embedded stack, under /auth/v1: what `signInWithPassword` of the official clients needs.

    POST /token?grant_type=password        a session for a user of auth.users
    POST /token?grant_type=refresh_token   its next hour
    GET  /user                             who the access token is
    POST /logout?scope=global|local|others

Users of seed.sql have no password of their own: all of them sign in with SEEDED_PASSWORD. Nobody can sign up,
and a user with an `encrypted_password` cannot sign in, since nothing here reads it.
"""

import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mqtt_service.devstack.auth import sessions
from mqtt_service.devstack.auth.errors import (
    VERSION_HEADER,
    AuthError,
    bad_token,
    invalid_input,
    invalid_login,
)
from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.gateway import NoApiKeyError, answer_through_faults, check_api_key
from mqtt_service.devstack.keys import USER_TOKEN_SECONDS, InvalidTokenError, JwtKeys

PREFIX = "/auth/v1"
SEEDED_PASSWORD = "local-password"  # noqa: S105 - no secret: it opens made-up users on this machine alone
_SCOPES = {"global", "local", "others"}


def auth_routes(db_url: str, keys: JwtKeys, faults: Faults) -> list[BaseRoute]:
    """Return the routes under /auth/v1; `db_url` reaches the database as its owner."""
    api = _AuthApi(db_url, keys, faults)
    return [
        Route(f"{PREFIX}/token", api.serving(api.token), methods=["POST"]),
        Route(f"{PREFIX}/user", api.serving(api.user), methods=["GET"]),
        Route(f"{PREFIX}/logout", api.serving(api.log_out), methods=["POST"]),
    ]


class _AuthApi:
    def __init__(self, db_url: str, keys: JwtKeys, faults: Faults) -> None:
        self._db_url = db_url
        self._keys = keys
        self._faults = faults

    def serving(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return `handler` behind the gateway, with errors as answers."""

        async def answer(request: Request) -> Response:
            try:
                check_api_key(self._keys, request.headers, request.query_params.get("apikey"))
                return await handler(request)
            except NoApiKeyError as error:
                return JSONResponse(error.body, 401)
            except AuthError as error:
                version = request.headers.get(VERSION_HEADER, "")
                return JSONResponse(error.body(version), error.status, error.headers(version))

        async def serve(request: Request) -> Response:
            return await answer_through_faults(self._faults, request, lambda: answer(request))

        return serve

    async def token(self, request: Request) -> Response:
        grant, document = request.query_params.get("grant_type"), await _document(request)
        if grant == "password":
            return await self._sign_in(document)
        if grant == "refresh_token":
            return await self._refresh(document)
        raise AuthError(400, "invalid_credentials", "unsupported_grant_type")

    async def user(self, request: Request) -> Response:
        claims = self._claims(request)
        async with await sessions.connect(self._db_url) as connection:
            return JSONResponse(show_user(await _known_user(connection, claims)))

    async def log_out(self, request: Request) -> Response:
        claims, scope = self._claims(request), request.query_params.get("scope", "global")
        if scope not in _SCOPES:
            raise invalid_input(f'Unsupported logout scope "{scope}"')
        async with await sessions.connect(self._db_url) as connection:
            user = await _known_user(connection, claims)
            await sessions.end_sessions(connection, user["id"], claims.get("session_id"), scope)
        return Response(status_code=204)

    async def _sign_in(self, document: dict[str, Any]) -> Response:
        email, password = str(document.get("email", "")), str(document.get("password", ""))
        if not email:
            raise invalid_input("missing email or phone")
        async with await sessions.connect(self._db_url) as connection:
            user = await sessions.find_user(connection, email=email)
            if user is None or user["encrypted_password"] or not _is_right(password):
                raise invalid_login()
            return self._session(user, *await sessions.start_session(connection, user["id"]))

    async def _refresh(self, document: dict[str, Any]) -> Response:
        token = str(document.get("refresh_token", ""))
        if not token:
            raise invalid_input("Refresh token is not valid")
        async with await sessions.connect(self._db_url) as connection:
            session_id, token, user_id = await sessions.refresh(connection, token)
            user = await sessions.get_user(connection, user_id)
        return self._session(user or {}, session_id, token)

    def _session(self, user: dict[str, Any], session_id: str, refresh_token: str) -> Response:
        shown = show_user(user)
        claims = {
            key: shown[key]
            for key in ("aud", "role", "email", "app_metadata", "user_metadata", "is_anonymous")
        }
        claims |= {"sub": shown["id"], "session_id": session_id, "aal": "aal1", "phone": ""}
        return JSONResponse({
            "access_token": self._keys.sign(claims, USER_TOKEN_SECONDS),
            "token_type": "bearer",
            "expires_in": USER_TOKEN_SECONDS,
            "expires_at": int(self._keys.clock()) + USER_TOKEN_SECONDS,
            "refresh_token": refresh_token,
            "user": shown,
        })  # fmt: skip

    def _claims(self, request: Request) -> dict[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            return dict(self._keys.claims(token))
        except InvalidTokenError as error:
            words = f"invalid JWT: unable to parse or verify signature, {error.message}"
            raise bad_token(words) from error


def show_user(row: dict[str, Any]) -> dict[str, Any]:
    """Return a user's row as clients see it."""
    moments = {name: _moment(row[name]) for name in ("email_confirmed_at", "created_at", "updated_at")}
    return {
        "id": str(row["id"]),
        "aud": row["aud"] or "authenticated",
        "role": row["role"] or "authenticated",
        "email": row["email"] or "",
        "phone": "",
        "app_metadata": row["raw_app_meta_data"] or {},
        "user_metadata": row["raw_user_meta_data"] or {},
        "identities": [],
        "is_anonymous": False,
        **{name: moment for name, moment in moments.items() if moment is not None},
    }


async def _known_user(connection: sessions.Connection, claims: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the user that a token claims. Raises AuthError if user or session are gone."""
    try:
        user_id = UUID(claims["sub"])
    except KeyError as error:
        raise bad_token("invalid claim: missing sub claim") from error
    except ValueError as error:
        raise bad_token("invalid claim: sub claim must be a UUID") from error
    user = await sessions.get_user(connection, user_id)
    if user is None:
        raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
    if "session_id" in claims and not await sessions.has_session(connection, claims["session_id"]):
        words = "Session from session_id claim in JWT does not exist"
        raise AuthError(403, "session_not_found", words)
    return user


async def _document(request: Request) -> dict[str, Any]:
    try:
        document = await request.json()
    except ValueError as error:
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from error
    if not isinstance(document, dict):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON")
    return document


def _is_right(password: str) -> bool:
    return hmac.compare_digest(password.encode(), SEEDED_PASSWORD.encode())


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")
