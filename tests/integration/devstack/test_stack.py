"""The embedded stack as a whole: what is there inside the block, and that nothing stays behind."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import httpx
import psycopg
import pytest
import pytest_asyncio
from dotenv import dotenv_values
from postgrest import APIError
from realtime import RealtimePostgresChangesListenEvent
from supabase import AsyncClient, AsyncClientOptions

from mqtt_service.config import Settings
from mqtt_service.devstack.broker import BrokerStartError
from mqtt_service.devstack.faults import RestFault
from mqtt_service.devstack.postgres import PostgresStartError
from mqtt_service.devstack.stack import Stack, StackStartError, running_stack
from mqtt_service.simulator.device import DeviceOptions, SimulatedDevice

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICE = "a0000000-0000-4000-8000-000000000031"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running_stack(data_dir=None) as stack:
        yield stack


async def client(stack: Stack, key: str) -> AsyncClient:
    return await AsyncClient.create(
        stack.url, key, AsyncClientOptions(httpx_client=httpx.AsyncClient(trust_env=False))
    )


def listens(url_or_port: str | int) -> bool:
    port = url_or_port if isinstance(url_or_port, int) else int(url_or_port.rsplit(":", 1)[1].split("/")[0])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)  # the pause between two looks


async def test_the_api_answers_for_the_service_and_refuses_anon(stack: Stack) -> None:
    service = await client(stack, stack.keys.service_role_key)
    seeded = await service.table("devices").select("device_code").eq("device_id", DEVICE).execute()
    assert seeded.data == [{"device_code": "DEVICE-ESP32S3-001"}]
    anon = await client(stack, stack.keys.anon_key)
    with pytest.raises(APIError) as refused:
        await anon.table("devices").select("device_code").execute()
    assert refused.value.code == "42501"
    for each in (service, anon):
        await each.postgrest.aclose()


async def test_a_change_in_the_database_comes_over_realtime(stack: Stack) -> None:
    service = await client(stack, stack.keys.service_role_key)
    events: asyncio.Queue[object] = asyncio.Queue()
    flowing = asyncio.Event()
    channel = service.channel("commands")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.Insert, events.put_nowait, table="device_commands", schema="public"
    )
    channel.on_system(lambda _: flowing.set())
    await channel.subscribe()
    await asyncio.wait_for(flowing.wait(), 10)
    row = {"device_id": DEVICE, "command_type": "reboot"}
    await service.table("device_commands").insert(row).execute()
    await asyncio.wait_for(events.get(), 10)
    await service.realtime.close()
    await service.postgrest.aclose()


async def test_the_broker_takes_devices(stack: Stack) -> None:
    options = DeviceOptions("AA:BB:CC:DD:EE:FF")
    async with SimulatedDevice(options, stack.mqtt_host, stack.mqtt_port, rng=Random(1)) as device:
        await device.send_heartbeat()


async def test_the_database_url_is_what_psql_takes(stack: Stack) -> None:
    async with await psycopg.AsyncConnection.connect(stack.db_url) as connection:
        cursor = await connection.execute("select count(*) from supabase_migrations.schema_migrations")
        row = await cursor.fetchone()
    assert row is not None
    assert row[0] > 0


async def test_faults_can_be_set_over_http(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False) as http:
        rule = {"rest": [{"match": "devices", "kind": "status", "status": 503, "times": 1}]}
        assert (await http.post("/devstack/v1/faults", json=rule)).status_code == httpx.codes.OK
        answer = await http.get("/rest/v1/devices", headers={"apikey": stack.keys.service_role_key})
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE


async def test_the_env_file_holds_what_the_worker_and_clients_need(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "stack.env"
    stack.write_env_file(path)
    assert dotenv_values(path) == stack.env()
    assert set(stack.env()) == {
        "SUPABASE_URL", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_JWT_SECRET",
        "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_DB_URL", "MQTT_HOST", "MQTT_PORT", "MQTT_TLS",
    }  # fmt: skip
    settings = Settings(_env_file=path)
    assert (settings.supabase_url, settings.mqtt_port, settings.mqtt_tls) == (
        stack.url, stack.mqtt_port, False,
    )  # fmt: skip


async def test_the_env_file_is_for_its_owner_alone_and_leaves_no_other_file(
    stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "stack.env"
    stack.write_env_file(path)
    stack.write_env_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == [path.name]


async def test_two_stacks_run_side_by_side(stack: Stack) -> None:
    async with running_stack(data_dir=None) as other:
        assert {other.url, other.db_url, other.mqtt_port}.isdisjoint(
            {stack.url, stack.db_url, stack.mqtt_port}
        )
        assert other.keys.secret != stack.keys.secret


async def test_rows_and_keys_outlive_a_restart_on_the_same_data_directory(tmp_path: Path) -> None:
    async with running_stack(data_dir=tmp_path / "data") as first:
        secret = first.keys.secret
        async with await psycopg.AsyncConnection.connect(first.db_url) as connection:
            await connection.execute("update public.devices set device_name = 'kept'")
    async with running_stack(data_dir=tmp_path / "data") as second:
        assert second.keys.secret == secret
        async with await psycopg.AsyncConnection.connect(second.db_url) as connection:
            cursor = await connection.execute("select distinct device_name from public.devices")
            assert await cursor.fetchall() == [("kept",)]


async def test_nothing_listens_and_nothing_is_kept_after_the_end() -> None:
    async with running_stack(data_dir=None) as stack:
        assert stack.data_dir.is_dir()
    assert not any(listens(place) for place in (stack.url, stack.db_url, stack.mqtt_port))
    assert not stack.data_dir.exists()


async def test_a_request_that_hangs_does_not_hold_up_the_end() -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http, asyncio.timeout(30):
        async with running_stack(data_dir=None) as stack:
            stack.faults.add_rest(RestFault("devices", "hang", times=1))
            headers = {"apikey": stack.keys.service_role_key}
            request = asyncio.create_task(http.get(f"{stack.url}/rest/v1/devices", headers=headers))
            await until(lambda: not stack.faults.rest)
            assert not request.done()
        await asyncio.gather(request, return_exceptions=True)


async def test_a_port_of_the_api_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StackStartError, match=f"port {port} cannot be had.*--port"):
            async with running_stack(data_dir=tmp_path, port=port):
                pass
    assert not (tmp_path / "postgres").exists()


async def test_a_broker_that_cannot_start_leaves_no_postgres_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerStartError, match=f"MQTT port {port} cannot be had"):
            async with running_stack(data_dir=tmp_path, mqtt_port=port):
                pass
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


async def test_a_data_directory_of_another_postgres_is_refused(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresStartError, match="made by Postgres 9"):
        async with running_stack(data_dir=tmp_path):
            pass


async def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StackStartError, match="cannot be the data directory"):
        async with running_stack(data_dir=file):
            pass
