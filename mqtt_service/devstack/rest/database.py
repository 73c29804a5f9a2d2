"""Run a request's statement in a transaction of its own, as the caller's role and with its claims.

It also keeps what is known of the schema: each pooled connection listens on the channel `pgrst`, and a word
there, or a request for something unknown, has the catalog read again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg import sql
from psycopg_pool import PoolTimeout

from mqtt_service.devstack.caller import ACQUIRE_SECONDS, Pool, RequestContext, impersonate
from mqtt_service.devstack.rest.clauses import Sql
from mqtt_service.devstack.rest.errors import ApiError, SchemaMissError, from_postgres
from mqtt_service.devstack.rest.schema import Schema, read_schema


@dataclass(frozen=True)
class Result:
    """The one row that each statement gives: see read_sql."""

    total: int | None
    rows: int
    body: str
    inserted: int | None


@dataclass(frozen=True)
class Operation:
    """What to run for a request.

    `check` may raise ApiError, which undoes it all. `estimate` is a query whose rows the planner guesses;
    the guess stands in for a count that was not made, or that went beyond `estimate_above`.
    """

    statement: sql.Composed
    read_only: bool
    check: Callable[[Result], None]
    estimate: Sql | None = None
    estimate_above: int = -1


class Database:
    """The database behind the REST interface, through one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._schema: Schema | None = None
        self._listening: WeakSet[psycopg.AsyncConnection[Any]] = WeakSet()

    async def run(self, context: RequestContext, prepare: Callable[[Schema], Operation]) -> Result:
        """Run what `prepare` makes of the schema, and commit. Raises ApiError if nothing was done."""
        try:
            async with self._pool.connection(ACQUIRE_SECONDS) as connection:
                operation = await self._prepare(connection, prepare)
                return await _run(connection, context, operation)
        except PoolTimeout as error:
            message = "Timed out acquiring connection from connection pool."
            raise ApiError(504, "PGRST003", message) from error
        except psycopg.Error as error:
            raise from_postgres(error, is_anonymous=context.caller.is_anonymous) from error

    async def _prepare(
        self, connection: psycopg.AsyncConnection[Any], prepare: Callable[[Schema], Operation]
    ) -> Operation:
        await self._listen(connection)
        if self._schema is not None:
            try:
                return prepare(self._schema)
            except SchemaMissError:
                self._schema = None
        async with connection.transaction():
            schema = await read_schema(connection)
        self._schema = schema  # which another request may take back before this one has prepared
        return prepare(schema)

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


async def _run(
    connection: psycopg.AsyncConnection[Any], context: RequestContext, operation: Operation
) -> Result:
    async with connection.transaction():
        if operation.read_only:
            await connection.execute("set transaction read only")
        await connection.execute(impersonate(context))
        cursor = await connection.execute(operation.statement, prepare=False)
        row = await cursor.fetchone()
        result = Result(*(row or (None, 0, "", None)))
        operation.check(result)
        return await _estimate(connection, operation, result)


async def _estimate(connection: psycopg.AsyncConnection[Any], operation: Operation, result: Result) -> Result:
    if operation.estimate is None or (result.total is not None and result.total <= operation.estimate_above):
        return result
    cursor = await connection.execute(
        sql.SQL("explain (format json) {}").format(operation.estimate), prepare=False
    )
    row = await cursor.fetchone()
    guess = row[0][0]["Plan"]["Plan Rows"] if row else 0
    return Result(max(guess, result.total or 0), result.rows, result.body, result.inserted)
