"""A TCP proxy in front of the API: it counts requests, calls and bytes, and can be far away."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

import httpx

HOST = "127.0.0.1"
_CALL = b"POST /rest/v1/rpc/"
# Each request has one such line, the one that opens Realtime's WebSocket too.
_REQUEST = b" HTTP/1.1\r\n"
_PIECE = 65536


class Traffic(NamedTuple):
    """What went over a proxy so far; `received` are the bytes that came from the API."""

    requests: int
    calls: int
    sent: int
    received: int

    def since(self, earlier: "Traffic") -> "Traffic":
        """What went over it after `earlier` was read."""
        return Traffic(*(now - then for now, then in zip(self, earlier, strict=True)))


class CountingProxy:
    """An async context manager; `url` leads to `target`, which seems `round_trip` seconds away.

    `calls` grows with each call of a database function, `requested` has the time of each request on the
    monotonic clock.
    """

    def __init__(self, target: str, round_trip: float = 0.0) -> None:
        self.calls = 0
        self.requested: list[float] = []
        self._sent = 0
        self._received = 0
        self._one_way = round_trip / 2
        self._target = httpx.URL(target)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        if self._server is None:
            raise RuntimeError("the proxy is not running: enter it first")
        return f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def traffic(self) -> Traffic:
        """What went over it so far."""
        return Traffic(len(self.requested), self.calls, self._sent, self._received)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        with suppress(OSError, asyncio.CancelledError):
            target_reader, target_writer = await asyncio.open_connection(
                self._target.host, self._target.port or 80
            )
            async with asyncio.TaskGroup() as group:
                for source, sink, count in (
                    (reader, target_writer, _Requests(self).count),
                    (target_reader, writer, self._count_received),
                ):
                    line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
                    group.create_task(self._take(source, line, count))
                    group.create_task(_deliver(line, sink))
        writer.close()

    async def _take(
        self,
        reader: asyncio.StreamReader,
        line: "asyncio.Queue[tuple[float, bytes]]",
        count: Callable[[bytes], None],
    ) -> None:
        """Put on the line when each piece is due at the other end; nothing stands for the end."""
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                count(piece)
                line.put_nowait((time.monotonic() + self._one_way, piece))
        line.put_nowait((time.monotonic() + self._one_way, b""))

    def count_sent(self, piece: bytes, requests: int, calls: int) -> None:
        """Count what a client sent."""
        self._sent += len(piece)
        self.calls += calls
        self.requested.extend([time.monotonic()] * requests)

    def _count_received(self, piece: bytes) -> None:
        self._received += len(piece)


class _Requests:
    """Finds requests in what one client sends, wherever they are cut in two."""

    def __init__(self, proxy: CountingProxy) -> None:
        self._proxy = proxy
        self._tail = b""

    def count(self, piece: bytes) -> None:
        """What spans two pieces is counted with the second; the tail cannot hold a whole one."""
        found = [
            (self._tail[max(len(self._tail) - len(mark) + 1, 0) :] + piece).count(mark)
            for mark in (_REQUEST, _CALL)
        ]
        self._tail = (self._tail + piece)[-len(_CALL) + 1 :]
        self._proxy.count_sent(piece, *found)


async def _deliver(line: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    """Write each piece when it is due, until one side hangs up; then the other learns of it."""
    try:
        while True:
            due, piece = await line.get()
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
