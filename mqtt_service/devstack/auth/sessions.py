"""Users and their sessions, in the tables of the schema auth.

A session goes from one refresh token to the next. A token that was used before ends the whole session, since
somebody else may have it; for a few seconds it is forgiven, since two tabs of a browser may refresh at once.
"""

import secrets
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import DictRow, dict_row

from mqtt_service.devstack.auth.errors import invalid_refresh

REUSE_SECONDS = 10

Connection = psycopg.AsyncConnection[DictRow]


async def connect(db_url: str) -> Connection:
    """Return a connection for the calls below; they commit when its block ends."""
    return await psycopg.AsyncConnection.connect(db_url, row_factory=dict_row)


async def find_user(connection: Connection, *, email: str) -> dict[str, Any] | None:
    """Return the row of the user with this address, however it is capitalised."""
    return await _row(connection, "select * from auth.users where lower(email) = lower(%s)", email)


async def get_user(connection: Connection, user_id: UUID) -> dict[str, Any] | None:
    """Return a user's row."""
    return await _row(connection, "select * from auth.users where id = %s", user_id)


async def has_session(connection: Connection, session_id: str) -> bool:
    """Return whether a session goes on."""
    return await _row(connection, "select id from auth.sessions where id::text = %s", session_id) is not None


async def start_session(connection: Connection, user_id: UUID) -> tuple[str, str]:
    """Sign a user in; return the session's id and its first refresh token."""
    row = await _row(connection, "insert into auth.sessions (user_id) values (%s) returning id", user_id)
    session_id = str((row or {})["id"])
    return session_id, await _add_token(connection, session_id)


async def refresh(connection: Connection, token: str) -> tuple[str, str, UUID]:
    """Use a refresh token; return the session's id, the token to use next, and the user's id.

    Raises AuthError for a token that nobody was given, or that was used before.
    """
    query = """
        select t.session_id::text, t.revoked, s.user_id,
          t.updated_at > now() - make_interval(secs => %s) as used_just_now
        from auth.refresh_tokens t join auth.sessions s on s.id = t.session_id
        where t.token = %s for update
    """
    used = await _row(connection, query, REUSE_SECONDS, token)
    if used is None:
        raise invalid_refresh("refresh_token_not_found", "Refresh Token Not Found")
    session_id = used["session_id"]
    following = await _next_token(connection, token, used)
    if following is None:
        await connection.execute("delete from auth.sessions where id = %s", [session_id])
        await connection.commit()
        raise invalid_refresh("refresh_token_already_used", "Already Used")
    return session_id, following, used["user_id"]


async def end_sessions(connection: Connection, user_id: UUID, session_id: str | None, scope: str) -> None:
    """Sign a user out: of this session ("local"), of all others ("others"), or everywhere ("global")."""
    query = """
        delete from auth.sessions
        where user_id = %s and case %s when 'local' then id::text = %s when 'others' then id::text <> %s
          else true end
    """
    await connection.execute(query, [user_id, scope if session_id else "global", session_id, session_id])


async def _next_token(connection: Connection, token: str, used: dict[str, Any]) -> str | None:
    """Return the token that follows this one, or None where this one was used too long ago."""
    if not used["revoked"]:
        query = "update auth.refresh_tokens set revoked = true, updated_at = now() where token = %s"
        await connection.execute(query, [token])
        return await _add_token(connection, used["session_id"])
    if not used["used_just_now"]:
        return None
    query = "select token from auth.refresh_tokens where session_id = %s and not revoked"
    row = await _row(connection, query, used["session_id"])
    return row["token"] if row else None


async def _add_token(connection: Connection, session_id: str) -> str:
    token = secrets.token_urlsafe(18)
    query = "insert into auth.refresh_tokens (token, session_id) values (%s, %s)"
    await connection.execute(query, [token, session_id])
    return token


async def _row(connection: Connection, query: LiteralString, *values: object) -> dict[str, Any] | None:
    cursor = await connection.execute(query, values)
    return await cursor.fetchone()
