"""The benchmark's proxy: it passes everything on, and counts calls wherever they are cut in two."""

import asyncio

import httpx

from mqtt_service.bench.counting_proxy import HOST, CountingProxy

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
        writer.close()
        await writer.wait_closed()


async def test_a_server_that_hangs_up_is_heard_by_the_client() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0)
    async with server, CountingProxy(f"http://{HOST}:{server.sockets[0].getsockname()[1]}") as proxy:
        url = httpx.URL(proxy.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()
