"""On whose behalf a request is made, and what its transaction in the database knows of that.

The same for rest/ and storage/: policies and functions see the role, the claims of the token, and the
request.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

ANONYMOUS = "anon"
SEARCH_PATH = "public, extensions"
ACQUIRE_SECONDS = 10.0

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
"""Connections as `authenticator`, which may become the roles of the API and nothing more."""


@dataclass(frozen=True)
class Caller:
    """A database role and the claims that the request's transaction sees."""

    role: str
    claims: Mapping[str, Any]

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody is signed in."""
        return self.role == ANONYMOUS


@dataclass(frozen=True)
class RequestContext:
    """What a function or a policy can ask of the request: see `request.*` in PostgREST's reference."""

    caller: Caller
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)


def impersonate(context: RequestContext) -> sql.Composed:
    """Return the statement that gives the transaction the caller's role and the request's settings."""
    settings = {
        "search_path": SEARCH_PATH,
        "role": context.caller.role,
        "request.jwt.claims": json.dumps(dict(context.caller.claims)),
        "request.method": context.method,
        "request.path": context.path,
        "request.headers": json.dumps(dict(context.headers)),
        "request.cookies": "{}",
    }
    calls = [
        sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value.replace("\0", "")))
        for name, value in settings.items()
    ]
    return sql.SQL("select {}").format(sql.SQL(", ").join(calls))
