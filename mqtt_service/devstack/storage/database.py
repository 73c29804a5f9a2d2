"""Transactions on storage.buckets and storage.objects, as the caller or as the service itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import PoolTimeout

from mqtt_service.devstack.caller import ACQUIRE_SECONDS, Pool, RequestContext, impersonate
from mqtt_service.devstack.storage.auth import SERVICE
from mqtt_service.devstack.storage.errors import from_postgres, timed_out

Row = dict[str, Any]


@dataclass(frozen=True)
class Transaction:
    """One transaction under way, in one role."""

    _connection: psycopg.AsyncConnection[Any]

    async def rows(self, query: str, *values: object) -> list[Row]:
        """Run a statement and return its rows."""
        cursor = self._connection.cursor(row_factory=dict_row)
        await cursor.execute(query.encode(), values)
        return await cursor.fetchall() if cursor.description else []

    async def row(self, query: str, *values: object) -> Row | None:
        """Run a statement and return its first row, if any."""
        return next(iter(await self.rows(query, *values)), None)


@dataclass(frozen=True)
class StorageDatabase:
    """The database as one request may use it; an error of Postgres comes out as StorageError."""

    _pool: Pool
    _context: RequestContext

    @asynccontextmanager
    async def as_caller(self, *, only_try: bool = False) -> AsyncIterator[Transaction]:
        """Run a transaction in which policies bind the caller; `only_try` undoes it at the end."""
        async with self._transaction(self._context, only_try=only_try) as transaction:
            yield transaction

    @asynccontextmanager
    async def as_service(self) -> AsyncIterator[Transaction]:
        """Run a transaction that policies do not bind."""
        context = replace(self._context, caller=SERVICE)
        async with self._transaction(context) as transaction:
            yield transaction

    @asynccontextmanager
    async def _transaction(
        self, context: RequestContext, *, only_try: bool = False
    ) -> AsyncIterator[Transaction]:
        try:
            async with (
                self._pool.connection(ACQUIRE_SECONDS) as connection,
                connection.transaction(force_rollback=only_try),
            ):
                await connection.execute(impersonate(context))
                yield Transaction(connection)
        except PoolTimeout as error:
            raise timed_out() from error
        except psycopg.Error as error:
            raise from_postgres(error) from error
