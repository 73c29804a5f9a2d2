"""Run a request's statement in a transaction of its own, as the caller's role and with its claims.

It also keeps what is known of the schema: each pooled connection listens on the channel `pgrst`, and a word
there, or a request for something unknown, has the catalog read again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from mqtt_service.devstack.rest.auth import Caller
from mqtt_service.devstack.rest.errors import ApiError, SchemaMissError, from_postgres
from mqtt_service.devstack.rest.schema import Schema, read_schema
from mqtt_service.devstack.rest.sql import Sql, literal

SEARCH_PATH = "public, extensions"
ACQUIRE_SECONDS = 10.0


@dataclass(frozen=True)
class Result:
    """The one row that each statement gives: see rest_read."""

    total: int | None
    rows: int
    body: str
    inserted: int | None


@dataclass(frozen=True)
class Work:
    """What to run for a request.

    `check` may raise ApiError, which undoes it all. `estimate` is a query whose rows the planner guesses;
    the guess stands in for a count that was not made, or that went beyond `estimate_above`.
    """

    statement: sql.Composed
    read_only: bool
    check: Callable[[Result], None]
    estimate: Sql | None = None
    estimate_above: int = -1


@dataclass(frozen=True)
class Context:
    """What a function or policy can ask of the request: see `request.*` in PostgREST's reference."""

    caller: Caller
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)


class Database:
    """The database behind the REST interface, through one pool."""

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool
        self._schema: Schema | None = None
        self._listening: WeakSet[psycopg.AsyncConnection[Any]] = WeakSet()

    async def run(self, context: Context, plan: Callable[[Schema], Work]) -> Result:
        """Run what `plan` makes of the schema, and commit. Raises ApiError, and then nothing has happened."""
        try:
            async with self._pool.connection(ACQUIRE_SECONDS) as connection:
                work = await self._plan(connection, plan)
                return await _run(connection, context, work)
        except PoolTimeout as error:
            message = "Timed out acquiring connection from connection pool."
            raise ApiError(504, "PGRST003", message) from error
        except psycopg.Error as error:
            raise from_postgres(error, is_anonymous=context.caller.is_anonymous) from error

    async def _plan(self, connection: psycopg.AsyncConnection[Any], plan: Callable[[Schema], Work]) -> Work:
        await self._listen(connection)
        if self._schema is not None:
            try:
                return plan(self._schema)
            except SchemaMissError:
                self._schema = None
        async with connection.transaction():
            schema = await read_schema(connection)
        self._schema = schema  # which another request may take back before this one has planned
        return plan(schema)

    async def _listen(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Hear what was said on the channel since this connection was last used."""
        if connection in self._listening:
            connection.pgconn.consume_input()
            while connection.pgconn.notifies():
                self._schema = None
            return
        async with connection.transaction():
            await connection.execute("listen pgrst")
        self._listening.add(connection)
        self._schema = None  # nobody may have listened until now


async def _run(connection: psycopg.AsyncConnection[Any], context: Context, work: Work) -> Result:
    async with connection.transaction():
        if work.read_only:
            await connection.execute("set transaction read only")
        await connection.execute(impersonate(context))
        cursor = await connection.execute(work.statement, prepare=False)
        row = await cursor.fetchone()
        result = Result(*(row or (None, 0, "", None)))
        work.check(result)
        return await _estimate(connection, work, result)


async def _estimate(connection: psycopg.AsyncConnection[Any], work: Work, result: Result) -> Result:
    if work.estimate is None or (result.total is not None and result.total <= work.estimate_above):
        return result
    cursor = await connection.execute(
        sql.SQL("explain (format json) {}").format(work.estimate), prepare=False
    )
    row = await cursor.fetchone()
    guess = row[0][0]["Plan"]["Plan Rows"] if row else 0
    return Result(max(guess, result.total or 0), result.rows, result.body, result.inserted)


def impersonate(context: Context) -> sql.Composed:
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
        sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), literal(value))
        for name, value in settings.items()
    ]
    return sql.SQL("select {}").format(sql.SQL(", ").join(calls))
