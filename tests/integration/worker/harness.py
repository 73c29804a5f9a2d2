"""A worker in this process against the embedded stack, and the view of a test on both ends of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import paho.mqtt.client as mqtt
import psycopg
from paho.mqtt.enums import CallbackAPIVersion
from psycopg.rows import dict_row

from mqtt_service.adapters.supabase.transport import connect
from mqtt_service.config import Settings
from mqtt_service.devstack.stack import Stack
from mqtt_service.service import Worker

COMPANY = "a0000000-0000-4000-8000-000000000001"
PROGRAM = "a0000000-0000-4000-8000-000000000011"
SITE = "a0000000-0000-4000-8000-000000000021"


async def eventually(look: Callable[[], Any], what: str, deadline: float = 20.0) -> Any:
    """What `look` (sync or async) returns once it is truthy; fails after `deadline` seconds."""
    try:
        async with asyncio.timeout(deadline):
            while True:
                found = look()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.02)  # the pause between two looks, not the wait itself
    except TimeoutError:
        raise AssertionError(f"not seen within {deadline:.0f} s: {what}") from None


class Rows:
    """The database as a superuser sees it."""

    def __init__(self, connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        self._connection = connection

    async def all(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        cursor = await self._connection.execute(query, parameters)
        return await cursor.fetchall() if cursor.description else []

    async def one(self, query: str, *parameters: object) -> dict[str, Any]:
        (row,) = await self.all(query, *parameters)
        return row

    async def add_active_devices(self, count: int) -> list[dict[str, Any]]:
        """Devices as after mapping and welcome, each with a MAC of its own."""
        return await self.all(
            """
            insert into public.devices
                (device_mac, device_code, provisioning_status, is_active, company_id, program_id, site_id)
            select upper(substr(md5(gen_random_uuid()::text), 1, 12)), 'TEST-' || gen_random_uuid(),
                   'active', true, %s, %s, %s
            from generate_series(1, %s)
            returning device_id, device_mac, device_code
            """,
            COMPANY, PROGRAM, SITE, count,
        )  # fmt: skip

    async def queue(self, device_id: UUID, command_type: str, payload: dict[str, Any] | None = None) -> UUID:
        row = await self.one(
            "insert into public.device_commands (device_id, command_type, command_payload)"
            " values (%s, %s, %s) returning command_id",
            device_id, command_type, json.dumps(payload or {}),
        )  # fmt: skip
        command_id: UUID = row["command_id"]
        return command_id

    async def command(self, command_id: UUID) -> dict[str, Any]:
        return await self.one("select * from public.device_commands where command_id = %s", command_id)

    async def becomes(self, command_id: UUID, status: str, deadline: float = 20.0) -> dict[str, Any]:
        """The row, once it has that status."""

        async def look() -> dict[str, Any] | None:
            row = await self.command(command_id)
            return row if row["status"] == status else None

        row: dict[str, Any] = await eventually(look, f"status {status} of {command_id}", deadline)
        return row


@asynccontextmanager
async def rows(stack: Stack) -> AsyncIterator[Rows]:
    connection = await psycopg.AsyncConnection.connect(stack.db_url, autocommit=True, row_factory=dict_row)
    async with connection:
        yield Rows(connection)


def settings(stack: Stack, **changes: object) -> Settings:
    """Settings for this stack, with a client id of its own and a short poll."""
    return Settings(
        _env_file=None,
        **{
            "supabase_url": stack.url,
            "SUPABASE_SECRET_KEY": stack.keys.service_role_key,
            "mqtt_host": stack.mqtt_host,
            "mqtt_port": stack.mqtt_port,
            "mqtt_tls": False,
            "mqtt_client_id": f"worker-{uuid4().hex[:8]}",
            "poll_interval": 0.5,
            "retry_delay": 0.2,
            **changes,
        },  # type: ignore[arg-type]  # pydantic checks the values
    )


@asynccontextmanager
async def running_worker(stack: Stack, **changes: object) -> AsyncIterator[Worker]:
    """A worker with all its parts running, connected to the broker."""
    chosen = settings(stack, **changes)
    client = await connect(chosen.supabase_url, chosen.supabase_secret_key.get_secret_value())
    worker = Worker(chosen, client, f"{chosen.mqtt_client_id}:{uuid4().hex[:8]}", visit_lease=3.0)
    tasks = [asyncio.create_task(part(), name=name) for name, part in worker.parts().items()]
    try:
        await eventually(lambda: worker.snapshot().ready, "a ready worker")
        yield worker
        await worker.stop()
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await client.postgrest.aclose()
    faults = [end for end in ended if isinstance(end, Exception)]
    assert not faults, faults


@dataclass
class Wire:
    """An MQTT client of the test: what it heard, in order, and a way to speak."""

    client: mqtt.Client
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def say(self, topic: str, payload: object) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload)
        self.client.publish(topic, data, qos=1).wait_for_publish(10)

    def heard_on(self, topic: str) -> list[dict[str, Any]]:
        return [payload for where, payload in list(self.heard) if where == topic]


@asynccontextmanager
async def wire(stack: Stack, *topics: str) -> AsyncIterator[Wire]:
    """Subscribed to `topics` (default: every command of both roots) before it is handed over."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    made = Wire(client)
    subscribed = asyncio.Event()
    loop = asyncio.get_running_loop()
    client.on_message = lambda _c, _u, message: made.heard.append(
        (message.topic, json.loads(message.payload))
    )

    def on_subscribe(*_: object) -> None:
        loop.call_soon_threadsafe(subscribed.set)

    client.on_subscribe = on_subscribe
    client.connect(stack.mqtt_host, stack.mqtt_port)
    client.subscribe([(topic, 1) for topic in topics or ("device/+/cmd", "ESP32CAM/+/cmd")])
    client.loop_start()
    try:
        await asyncio.wait_for(subscribed.wait(), 10)
        yield made
    finally:
        client.disconnect()
        client.loop_stop()
