"""The bench itself: what the other tests rely on."""

import asyncio

import pytest

from tests.faults.bench.proxy import Proxy
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_commands_go_through_a_worker_process_and_both_proxies(bench: Bench) -> None:
    devices = await bench.database.add_active_devices(2)
    async with bench.devices() as fleet, bench.worker() as worker:
        await bench.database.queue_each([row["device_id"] for row in devices], 3)

        async def answered() -> bool:
            return await bench.database.statuses() == {"acknowledged": 6}

        await eventually(answered, "six answered commands")

        # A device can answer before the worker knows that its command is settled, which is when it counts it.
        async def counted() -> bool:
            return await worker.metric('mqtt_service_commands_total{outcome="sent"}') == 6

        await eventually(counted, "six commands counted as sent")
        assert bench.api.accepted
        assert bench.mqtt.accepted == 1
        took = await worker.stop()
    assert took < 5
    assert set(map(tuple, fleet.numbers().values())) == {(1, 2, 3)}
    assert fleet.repeats() == 0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def test_the_proxy_delays_cuts_resets_refuses_and_swallows() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"

        proxy.black_hole("down")
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        proxy.flow()
        assert await reader.readexactly(3) == b"two"

        await proxy.cut()
        assert await reader.read() == b""
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"three")
        await reader.readexactly(5)
        await proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.admit()
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.close()
    assert proxy.accepted == 3
