"""What is said of a Realtime that cannot be reached: never the key, which is a part of its address."""

import asyncio
from uuid import UUID

import pytest

from mqtt_service.adapters.supabase.realtime import Doorbell
from mqtt_service.adapters.supabase.realtime_session import Listeners
from tests.integration.worker.harness import eventually

KEY = "sb_secret_of_this_test"


async def never() -> bool:
    """No database is asked to ring here."""
    return False


def ignore(_: UUID) -> None:
    """Nothing is mapped here."""


async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a proxy does that wants TLS: the library quotes the address it comes to."""
    request = await reader.readuntil(b"\r\n\r\n")
    target = request.split(b" ")[1]
    place = b"https://127.0.0.1:1" + target
    writer.write(b"HTTP/1.1 301 Moved\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_an_error_that_quotes_the_address_shows_no_key(caplog: pytest.LogCaptureFixture) -> None:
    """Fails without `RealtimeSession._describe`."""
    caplog.set_level("INFO", "mqtt_service")
    server = await asyncio.start_server(redirect, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        doorbell = Doorbell(url, KEY, Listeners(lambda: None, ignore, lambda: None), never)
        task = asyncio.create_task(doorbell.run())
        await eventually(lambda: doorbell.status.last_error, "a failed attempt")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert str(doorbell.status.last_error).startswith("Realtime cannot be reached: ")
    # The library's own lines show it; a worker's log has none of them (`configure_logging`).
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("mqtt_service")]
    assert ours
    assert KEY not in f"{doorbell.status.last_error} {ours}"
