"""A TCP proxy in front of the API that counts the calls of database functions."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx

HOST = "127.0.0.1"
_CALL = b"POST /rest/v1/rpc/"
_PIECE = 65536


class CountingProxy:
    """An async context manager; `url` leads to `target`, and `calls` grows with each call over it."""

    def __init__(self, target: str) -> None:
        self.calls = 0
        self._target = httpx.URL(target)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        if self._server is None:
            raise RuntimeError("the proxy is not running: enter it first")
        return f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

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
                group.create_task(self._pass_on(reader, target_writer, counting=True))
                group.create_task(self._pass_on(target_reader, writer, counting=False))
        writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counting: bool
    ) -> None:
        """Pass on until one side hangs up; then the other learns of it."""
        tail = b""
        try:
            while piece := await reader.read(_PIECE):
                if counting:
                    # One that spans two pieces is counted with the second; the tail cannot hold a whole one.
                    self.calls += (tail + piece).count(_CALL)
                    tail = piece[-len(_CALL) + 1 :]
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
