"""HTTP/2 in front of the stack, as before a hosted project: TLS, many calls on one connection, and its end.

The stack speaks HTTP/1.1 alone. What a hosted project's front does to a client, and a plain server cannot: it
takes leave (GOAWAY) while calls are under way, and all of them are lost with the connection.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError

from tests.integration.worker.test_mqtt_refusals import make_certificates

HOST = "127.0.0.1"
_PIECE = 65536
# Hop by hop, or written anew for the other protocol.
_NOT_PASSED_ON = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


@dataclass
class _Call:
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


@dataclass
class Http2Front:
    """A running front; `url` is its address, `ca_file` what a client must trust (SSL_CERT_FILE)."""

    stack_url: str
    ca_file: Path
    port: int = 0
    calls: int = 0
    _breaks: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def breaks(self) -> list[str]:
        """The calls that are still to be broken off."""
        return list(self._breaks)

    def break_off(self, match: str, *, times: int = 1) -> None:
        """Do the work of the next calls whose path contains `match`, then leave without answering them."""
        self._breaks.extend([match] * times)

    def takes_leave(self, path: str) -> bool:
        """Whether the connection ends with this call."""
        for match in self._breaks:
            if match in path:
                self._breaks.remove(match)
                return True
        return False


class _Connection:
    """One client's connection."""

    def __init__(
        self,
        front: Http2Front,
        stack: httpx.AsyncClient,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._front = front
        self._stack = stack
        self._reader = reader
        self._writer = writer
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._calls: dict[int, _Call] = {}
        self._answers: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        self._h2.initiate_connection()
        self._flush()
        try:
            while data := await self._reader.read(_PIECE):
                for event in self._h2.receive_data(data):
                    self._take(event)
                self._flush()
        finally:
            for answer in self._answers:
                answer.cancel()
            await asyncio.gather(*self._answers, return_exceptions=True)

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            headers = [(str(name), str(value)) for name, value in event.headers or []]
            self._calls[event.stream_id or 0] = _Call(headers)
        elif isinstance(event, DataReceived):
            self._calls[event.stream_id].body += event.data or b""
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            stream_id = event.stream_id or 0
            answer = asyncio.create_task(self._answer(stream_id, self._calls.pop(stream_id)))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

    async def _answer(self, stream_id: int, call: _Call) -> None:
        self._front.calls += 1
        path = call.header(":path")
        leave = self._front.takes_leave(path)
        response = await self._stack.request(
            call.header(":method"),
            path,
            headers=[(name, value) for name, value in call.headers if not name.startswith(":")],
            content=bytes(call.body),
        )
        if leave:
            self._h2.close_connection()
            self._flush()
            self._writer.close()
            return
        headers = [(name, value) for name, value in response.headers.items() if name not in _NOT_PASSED_ON]
        with suppress(ProtocolError):  # the client took leave meanwhile
            self._h2.send_headers(stream_id, [(":status", str(response.status_code)), *headers])
            # A claim's answer can be larger than a frame, and the window is larger than any answer here.
            size = self._h2.max_outbound_frame_size
            pieces = [
                response.content[start : start + size] for start in range(0, len(response.content), size)
            ]
            for piece in pieces:
                self._h2.send_data(stream_id, piece)
            self._h2.end_stream(stream_id)
        self._flush()

    def _flush(self) -> None:
        if not self._writer.is_closing():
            self._writer.write(self._h2.data_to_send())


async def _tunnel(stack_url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP/1.1, so a WebSocket: bytes as they come."""
    there, back = await asyncio.open_connection(HOST, httpx.URL(stack_url).port or 80)

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_PIECE):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(pass_on(reader, back), pass_on(there, writer))


@asynccontextmanager
async def http2_front(stack_url: str, directory: Path) -> AsyncIterator[Http2Front]:
    """A front for the time of the block, with a certificate of its own."""
    make_certificates(directory, f"IP:{HOST}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    front = Http2Front(stack_url, directory / "ca.pem")
    connections: set[asyncio.Task[None]] = set()

    async with httpx.AsyncClient(base_url=stack_url, trust_env=False, timeout=30) as stack:

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
                    await _Connection(front, stack, reader, writer).serve()
                else:
                    await _tunnel(stack_url, reader, writer)
            except (OSError, asyncio.CancelledError):
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
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
