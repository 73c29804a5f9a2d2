"""A way to Supabase on which Realtime can fail alone: one port, and a proxy of its own for its sockets."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.faults.bench.proxy import HOST, Proxy

_PIECE = 65536


class Fork:
    """An async context manager; `url` is a SUPABASE_URL, its requests go to `target`, a port on loopback.

    `realtime` is the proxy through which WebSockets go, and nothing else.
    """

    def __init__(self, target: int) -> None:
        self.realtime = Proxy(target)
        self.url = ""
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.realtime.admit()
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        await self.realtime.refuse()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        with suppress(OSError, asyncio.CancelledError):  # the end of this connection is all that follows
            request = await reader.read(_PIECE)
            port = self.realtime.port if b"/realtime/" in request.partition(b"\r\n")[0] else self._target
            there, back = await asyncio.open_connection(HOST, port)
            ends.append(back)
            back.write(request)
            pumps = {asyncio.ensure_future(_pump(reader, back)), asyncio.ensure_future(_pump(there, writer))}
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        for end in ends:
            end.close()
        self._connections.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
