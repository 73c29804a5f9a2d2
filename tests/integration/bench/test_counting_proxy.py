"""The benchmark's proxy: it passes everything on, and counts calls wherever they are cut in two."""

import asyncio
import time

import httpx

from mqtt_service.bench.counting_proxy import HOST, CountingProxy, Traffic

CALL = b"POST /rest/v1/rpc/fn_claim_commands HTTP/1.1\r\n\r\n"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1000):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def test_every_byte_passes_both_ways_and_every_call_is_counted_once() -> None:
    server = await asyncio.start_server(echo, HOST, 0)
    async with server, CountingProxy(f"http://{HOST}:{server.sockets[0].getsockname()[1]}") as proxy:
        url = httpx.URL(proxy.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        sent = b""
        for cut in range(len(CALL)):
            for piece in (CALL[:cut], CALL[cut:]):
                writer.write(piece)
                sent += piece
                # Each piece makes the way there and back before the next: they cannot grow together.
                assert await asyncio.wait_for(reader.readexactly(len(piece)), 10) == piece
        assert proxy.calls == len(CALL)
        assert proxy.traffic == (len(CALL), len(CALL), len(sent), len(sent))
        writer.close()
        await writer.wait_closed()


async def test_an_api_that_is_far_away_answers_no_sooner_and_in_order() -> None:
    round_trip = 0.05
    server = await asyncio.start_server(echo, HOST, 0)
    target = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    async with server, CountingProxy(target, round_trip) as proxy:
        url = httpx.URL(proxy.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        began = time.monotonic()
        for piece in (b"first ", b"second ", b"third"):
            writer.write(piece)
        assert await asyncio.wait_for(reader.readexactly(18), 10) == b"first second third"
        assert time.monotonic() - began >= round_trip
        writer.close()
        await writer.wait_closed()


async def test_what_went_over_it_since_then_is_the_difference() -> None:
    earlier = Traffic(requests=1, calls=1, sent=10, received=100)
    assert Traffic(3, 2, 40, 500).since(earlier) == Traffic(2, 1, 30, 400)


async def test_a_server_that_hangs_up_is_heard_by_the_client() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0)
    async with server, CountingProxy(f"http://{HOST}:{server.sockets[0].getsockname()[1]}") as proxy:
        url = httpx.URL(proxy.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()
