"""A TCP proxy that a test can slow down, cut, or turn into a black hole.

It listens on one port for as long as it lives, so a client under test knows one address; `target` may be
changed (the next connections go there).
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

HOST = "127.0.0.1"
Direction = Literal["up", "down"]
Filter = Callable[[bytes], bytes]

_PIECE = 65536
# SO_LINGER, on, 0 s: close sends RST instead of FIN, and what was not sent yet is lost.
_NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """An async context manager; clients connect to `port` and reach `target` (a port on loopback).

    `delay` (seconds) is how long each piece of data waits, in each direction. `accepted` counts connections
    since the start, `bytes_up` and `bytes_down` what was passed on. `filter_down`, where set, is asked for a
    filter for each new connection: it gets each piece from the target, and returns what of it goes on.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.accepted = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.filter_down: Callable[[], Filter] = lambda: bytes
        self._server: asyncio.Server | None = None
        self._flowing = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self.flow()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        await self.admit()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    def black_hole(self, *directions: Direction) -> None:
        """Let connections stand and pass nothing on, towards the target ("up"), from it ("down"), or both.

        New connections are accepted, and nothing answers. As in a network that fails for a while, what was
        under way arrives after `flow`, unless the connections were ended before.
        """
        for direction in directions or ("up", "down"):
            self._flowing[direction].clear()

    def flow(self) -> None:
        """Pass everything on again."""
        for event in self._flowing.values():
            event.set()

    async def cut(self) -> None:
        """End all connections as a server does that goes away in peace (FIN)."""
        await self._end(abruptly=False)

    async def reset(self) -> None:
        """End all connections as a server does that died (RST); what was under way is lost."""
        await self._end(abruptly=True)

    async def refuse(self) -> None:
        """Nothing listens any more: connections end, new ones are refused."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._end(abruptly=True)

    async def admit(self) -> None:
        """Listen (again), on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self, *, abruptly: bool) -> None:
        ending = dict(self._connections)
        for task, writers in ending.items():
            for writer in writers if abruptly else ():
                _reset(writer)
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = (writer,)
        back: asyncio.StreamWriter | None = None
        try:
            await self._flowing["up"].wait()
            there, back = await asyncio.open_connection(HOST, self.target)
            self._connections[task] = (writer, back)
            await _first_of(
                self._pump(reader, back, "up", bytes), self._pump(there, writer, "down", self.filter_down())
            )
        except (OSError, asyncio.CancelledError):
            pass  # the end of this connection is all that follows
        finally:
            del self._connections[task]
            for end in (writer, back):
                if end is not None:
                    end.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        filtered: Filter,
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                piece = filtered(piece)
                if self.delay:
                    await asyncio.sleep(self.delay)  # what this proxy is for
                await self._flowing[direction].wait()
                writer.write(piece)
                await writer.drain()
                if direction == "up":
                    self.bytes_up += len(piece)
                else:
                    self.bytes_down += len(piece)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


async def _first_of(*pumps: Coroutine[Any, Any, None]) -> None:
    """Run these until one ends: then the connection is over."""
    tasks = [asyncio.create_task(pump) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
