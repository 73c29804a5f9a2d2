"""TLS in front of the stack, as before a hosted project: it offers HTTP/2, keeps connections, and ends them.

The stack speaks plain HTTP. What a hosted project's front does to a client, and a plain server cannot: it
hangs up while a call is under way whose work is done, and it answers all calls but one.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import h11
import httpx

from tests.integration.worker.test_mqtt_refusals import make_certificates

HOST = "127.0.0.1"
_PIECE = 65536
# Hop by hop, or written anew.
_NOT_PASSED_ON = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


@dataclass
class HttpsFront:
    """A running front; `url` is its address, `ca_file` what a client must trust (SSL_CERT_FILE).

    `protocols` are those that clients chose; `calls` counts what was passed on.
    """

    stack_url: str
    ca_file: Path
    port: int = 0
    calls: int = 0
    protocols: set[str | None] = field(default_factory=set)
    _breaks: list[str] = field(default_factory=list)
    _silences: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def left(self) -> list[str]:
        """The calls that something is still to happen to."""
        return [*self._breaks, *self._silences]

    def break_off(self, match: str, *, times: int = 1) -> None:
        """Do the work of the next calls whose path contains `match`, then hang up without answering them."""
        self._breaks.extend([match] * times)

    def leave_unanswered(self, match: str, *, times: int = 1) -> None:
        """Do the work of the next such calls, and never answer, on a connection that stays."""
        self._silences.extend([match] * times)

    def hangs_up(self, path: str) -> bool:
        """Whether the connection ends with this call."""
        return _take(self._breaks, path)

    def is_silent(self, path: str) -> bool:
        """Whether this call gets no answer."""
        return _take(self._silences, path)


def _take(matches: list[str], path: str) -> bool:
    found = next((match for match in matches if match in path), None)
    if found is not None:
        matches.remove(found)
    return found is not None


class _Connection:
    """One client's connection; it ends with the first call that is broken off."""

    def __init__(
        self,
        front: HttpsFront,
        stack: httpx.AsyncClient,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._front = front
        self._stack = stack
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)

    async def serve(self, first: bytes) -> None:
        """Serve until the client leaves; `first` was read already."""
        self._http.receive_data(first)
        while (call := await self._next_call()) is not None and await self._answer(*call):
            if self._http.our_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()

    async def _next_call(self) -> tuple[h11.Request, bytes] | None:
        request, body = None, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_PIECE))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return request, bytes(body)
            else:
                return None

    async def _answer(self, request: h11.Request, body: bytes) -> bool:
        """False where the connection ends with this call."""
        self._front.calls += 1
        path = request.target.decode("ascii")
        hangs_up, is_silent = self._front.hangs_up(path), self._front.is_silent(path)
        headers = [(name.decode(), value.decode()) for name, value in request.headers]
        response = await self._stack.request(request.method.decode(), path, headers=headers, content=body)
        if hangs_up:
            return False
        if is_silent:
            await self._reader.read()  # until the client has had enough
            return False
        passed_on = [(name, value) for name, value in response.headers.items() if name not in _NOT_PASSED_ON]
        passed_on.append(("content-length", str(len(response.content))))
        answer = h11.Response(status_code=response.status_code, headers=passed_on)
        for event in (answer, h11.Data(data=response.content), h11.EndOfMessage()):
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()
        return True


async def _tunnel(
    stack_url: str, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """A WebSocket: bytes as they come."""
    there, back = await asyncio.open_connection(HOST, httpx.URL(stack_url).port or 80)
    back.write(first)

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_PIECE):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(pass_on(reader, back), pass_on(there, writer))


@asynccontextmanager
async def https_front(stack_url: str, directory: Path) -> AsyncIterator[HttpsFront]:
    """A front for the time of the block, with a certificate of its own."""
    make_certificates(directory, f"IP:{HOST}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    front = HttpsFront(stack_url, directory / "ca.pem")
    connections: set[asyncio.Task[None]] = set()

    async with httpx.AsyncClient(base_url=stack_url, trust_env=False, timeout=30) as stack:

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            front.protocols.add(writer.get_extra_info("ssl_object").selected_alpn_protocol())
            try:
                first = await reader.read(_PIECE)
                if b"upgrade: websocket" in first.lower():
                    await _tunnel(stack_url, first, reader, writer)
                else:
                    await _Connection(front, stack, reader, writer).serve(first)
            except (OSError, h11.RemoteProtocolError, asyncio.CancelledError):
                pass  # the end of this connection is all that follows
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(accept, HOST, 0, ssl=context)
        front.port = server.sockets[0].getsockname()[1]
        try:
            yield front
        finally:
            server.close()
            for connection in list(connections):
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
