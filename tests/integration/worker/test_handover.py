"""The hand-over against a real HTTP server: answers in sequence, silence, connections that break."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mqtt_service import backoff
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.supabase.edge_function import EdgeFunction
from mqtt_service.devices.handover import Handover
from tests.integration.worker.mqtt_harness import eventually

HOST = "127.0.0.1"
TOPIC = "device/AABBCCDDEEFF/status"
Answer = Callable[[Request], Awaitable[Response]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.01)


class Script:
    """An edge function that gives these answers one after another, then 200; keeps what it was sent."""

    def __init__(self, *answers: int | Answer) -> None:
        self.heard: list[dict[str, Any]] = []
        self._answers = list(answers)

    async def answer(self, request: Request) -> Response:
        self.heard.append(json.loads(await request.body()))
        answer = self._answers.pop(0) if self._answers else 200
        if isinstance(answer, int):
            return JSONResponse({"error": "as the script says"}, answer)
        return await answer(request)

    @property
    def payloads(self) -> list[Any]:
        return [document["payload"] for document in self.heard]


@asynccontextmanager
async def serving(function: Script) -> AsyncIterator[str]:
    """The function under the path that Supabase has it on; yields the project's URL."""
    routes = [Route("/functions/v1/mqtt_device_handler", function.answer, methods=["POST"])]
    config = uvicorn.Config(Starlette(routes=routes), host=HOST, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run
    )  # signals stay the test run's: uvicorn asks for the main thread
    thread.start()
    try:
        await eventually(lambda: server.started, "a server that listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{HOST}:{port}"
    finally:
        server.force_exit = server.should_exit = True
        await asyncio.to_thread(thread.join)


@asynccontextmanager
async def handing_over(url: str, mode: Any = "only", patience: float = 10.0) -> AsyncIterator[Handover]:
    function = EdgeFunction(url, "sb_secret_test", "mqtt_device_handler", timeout=patience)
    handover = Handover(function, mode=mode, limit=100)
    task = asyncio.create_task(handover.run())
    try:
        async with asyncio.timeout(30):
            yield handover
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await function.close()


def said(payload: bytes, topic: str = TOPIC) -> InboundMessage:
    return InboundMessage(topic, payload, 1, duplicate=False)


async def test_messages_reach_the_function_as_topic_and_payload() -> None:
    script = Script()
    async with serving(script) as url, handing_over(url) as handover:
        await handover.submit(said(b'{"status": "alive"}'))
        await handover.submit(said(b"\xff"))
    assert script.heard == [
        {"topic": TOPIC, "payload": {"status": "alive"}},
        {"topic": TOPIC, "payload": "/w==", "payload_encoding": "base64"},
    ]


async def test_a_function_that_stumbles_gets_each_message_again_in_order() -> None:
    script = Script(503, 500, 200, 429, 200, 408, 546)
    async with serving(script) as url, handing_over(url, "also") as handover:
        for payload in (b"a", b"b", b"c"):
            await handover.submit(said(payload))
        await handover.drained()
    assert script.payloads == ["a", "a", "a", "b", "b", "c", "c", "c"]


async def test_a_refused_message_is_sent_once_and_the_next_follows() -> None:
    script = Script(400)
    async with serving(script) as url, handing_over(url) as handover:
        await handover.submit(said(b"a"))
        await handover.submit(said(b"b"))
    assert script.payloads == ["a", "b"]


async def test_a_function_that_hangs_is_left_after_the_time_out_and_asked_again() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hang(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        loop.call_soon_threadsafe(ended.set)
        return Response()

    script = Script(hang)
    async with serving(script) as url, handing_over(url, patience=0.3) as handover:
        await handover.submit(said(b"a"))
        await ended.wait()
    assert script.payloads == ["a"] * len(script.heard)
    assert len(script.heard) > 1


async def test_an_answer_that_trickles_for_ever_is_bounded_as_well() -> None:
    async def trickle(_: Request) -> Response:
        async def drops() -> AsyncIterator[bytes]:
            while True:
                yield b"."
                await asyncio.sleep(0.05)

        return StreamingResponse(drops())

    script = Script(trickle)
    async with serving(script) as url, handing_over(url, patience=0.3) as handover:
        await handover.submit(said(b"a"))
    assert len(script.heard) > 1


async def test_connections_that_break_cost_an_attempt_each() -> None:
    requests = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        if requests == 2:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal")  # breaks off within its body
        elif requests == 3:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(break_off, HOST, 0)
    async with server, handing_over(f"http://{HOST}:{server.sockets[0].getsockname()[1]}") as handover:
        await handover.submit(said(b"a"))
    assert requests == 3


async def test_a_function_that_cannot_be_reached_is_given_up_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as deaf:
        deaf.bind((HOST, 0))  # taken, but nobody listens
        async with handing_over(f"http://{HOST}:{deaf.getsockname()[1]}") as handover:
            await handover.submit(said(b"a"))
            assert "cannot be reached" in (handover.last_error or "")
    assert sum("given up after" in record.getMessage() for record in caplog.records) == 1


async def test_many_devices_share_the_function_while_one_hangs() -> None:
    async def hang(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        return Response()

    script = Script(hang)
    async with serving(script) as url, handing_over(url, patience=60) as handover:
        stuck = asyncio.create_task(handover.submit(said(b"stuck", "device/d0/status")))
        await eventually(lambda: script.heard, "the call that hangs")
        await asyncio.gather(*(handover.submit(said(b"x", f"device/d{n}/status")) for n in range(1, 41)))
        assert not stuck.done()
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
    assert len(script.heard) == 41
