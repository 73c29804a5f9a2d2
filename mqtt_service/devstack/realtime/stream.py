"""The write-ahead log as a stream: Postgres sends what is committed, at once and unasked.

"Streaming Replication Protocol" in the Postgres manual, spoken over libpq since psycopg has no interface for
it. The slot is temporary and dies with the connection.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from mqtt_service.devstack.realtime.catalog import Connection

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_BATCH = 1000
# Lengths of what stands before the data of a message, and of a keepalive; positions are of 8 bytes.
_HEADER, _POSITION = 25, slice(1, 9)


class ReplicationStream:
    """What is committed to the tables of `publication` from `open` on, as messages of pgoutput."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._position = 0

    @classmethod
    async def open(cls, url: str, publication: str) -> Self:
        """Connect to the database at `url` (a superuser's). Raises psycopg.Error, as `read` does."""
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True, replication="database")
        stream = cls(connection)
        try:
            await stream._start(publication)
        except BaseException:
            await connection.close()
            raise
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def read(self, timeout: float) -> Sequence[bytes]:  # noqa: ASYNC109 - nothing is cancelled by it
        """Return the next messages, up to 1,000; none after so many seconds, or a mere sign of life."""
        messages = self._received()
        if not messages:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._readable()
            self._pgconn.consume_input()
            messages = self._received()
        return messages

    async def _start(self, publication: str) -> None:
        slot = f"realtime_{secrets.token_hex(8)}"
        await self._connection.execute(
            f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"
        )
        names = sql.Literal(sql.Identifier(publication).as_string()).as_string()
        start = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names {names})"
        self._pgconn.send_query(start.encode())
        self._pgconn.flush()
        while self._pgconn.is_busy():
            await self._readable()
            self._pgconn.consume_input()
        result = self._pgconn.get_result()
        if result is None or result.status != ExecStatus.COPY_BOTH:
            reason = self._pgconn.get_error_message()
            raise psycopg.OperationalError(f"the write-ahead log cannot be read: {reason}")

    def _received(self) -> list[bytes]:
        messages: list[bytes] = []
        asked = False
        while len(messages) < _BATCH:
            length, data = self._pgconn.get_copy_data(1)
            if length < 0:
                raise psycopg.OperationalError("the stream of the write-ahead log ended")
            if length == 0:
                break
            message = bytes(data)
            self._position = max(self._position, int.from_bytes(message[_POSITION]))
            if message[:1] == b"w":
                messages.append(message[_HEADER:])
            else:
                asked = asked or message[-1:] == b"\x01"
        if messages or asked:
            self._confirm()
        return messages

    def _confirm(self) -> None:
        """Say that all is read up to here, so that the server neither keeps it nor takes us for gone."""
        position = self._position.to_bytes(8)
        moment = int((datetime.now(UTC) - _POSTGRES_EPOCH).total_seconds() * 1_000_000)
        self._pgconn.put_copy_data(b"r" + position * 3 + moment.to_bytes(8) + b"\x00")
        self._pgconn.flush()

    async def _readable(self) -> None:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pgconn.socket, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(self._pgconn.socket)
