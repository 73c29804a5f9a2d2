"""A stand-in for the service that this one replaces: it polls `pending`, publishes, and then sets `sent`.

Like that one it leases nothing, sends a device that became active one set_wake_schedule, and writes devices'
acknowledgements into the rows. What it has begun when it is stopped, it finishes.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from mqtt_service.devstack.stack import Stack
from tests.integration.worker.harness import eventually


class NodeService:
    """`interval` is in seconds; `sent` are the ids of the commands that it published."""

    def __init__(self, stack: Stack, client: mqtt.Client, http: httpx.AsyncClient, interval: float) -> None:
        self.sent: list[str] = []
        self._client = client
        self._http = http
        self._interval = interval
        self._active: set[str] | None = None
        self._stopping = asyncio.Event()
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        client.on_message = self._on_message

    async def run(self) -> None:
        """Poll until `stop`."""
        while not self._stopping.is_set():
            await self._welcome()
            for row in await self._get("device_commands", _PENDING):
                await self._send(row)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._stopping.wait()

    async def run_answers(self) -> None:
        """Write acknowledgements until cancelled."""
        while True:
            command_id = await self._answers.get()
            await self._change(command_id, {"status": "acknowledged", "acknowledged_at": _now()})

    def stop(self) -> None:
        """End after what is under way."""
        self._stopping.set()

    async def _send(self, row: dict[str, Any]) -> None:
        mac = row["devices"]["device_mac"]
        is_schedule = row["command_type"] == "set_wake_schedule"
        own = {"next_wake": "5:30PM"} if is_schedule else row["command_payload"]
        body = {"device_id": mac, "command_id": row["command_id"], **own}
        published = self._client.publish(f"device/{mac}/cmd", json.dumps(body), qos=1)
        await asyncio.to_thread(published.wait_for_publish, 10)
        self.sent.append(row["command_id"])
        await self._change(row["command_id"], {"status": "sent", "delivered_at": _now()})

    async def _welcome(self) -> None:
        active = {row["device_id"] for row in await self._get("devices", _ACTIVE)}
        new = set() if self._active is None else active - self._active
        self._active = active
        for device_id in new:
            command = {"device_id": device_id, "command_type": "set_wake_schedule",
                       "command_payload": {"next_wake_time": "2030-01-01T17:30:00Z"}}  # fmt: skip
            (await self._http.post("device_commands", json=command)).raise_for_status()

    async def _get(self, table: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        response = await self._http.get(table, params=parameters)
        response.raise_for_status()
        rows: list[dict[str, Any]] = response.json()
        return rows

    async def _change(self, command_id: str, values: dict[str, str]) -> None:
        """A refusal (the answer was faster) is no more to it than a line in its log."""
        await self._http.patch("device_commands", params={"command_id": f"eq.{command_id}"}, json=values)

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        command_id = json.loads(message.payload).get("command_id")
        if command_id is not None:
            self._loop.call_soon_threadsafe(self._answers.put_nowait, command_id)


_PENDING = {
    "status": "eq.pending",
    "select": "command_id,command_type,command_payload,devices!inner(device_mac,is_active)",
    "devices.is_active": "is.true",
    "order": "issued_at",
}
_ACTIVE = {"provisioning_status": "eq.active", "select": "device_id"}


def _now() -> str:
    return datetime.now(UTC).isoformat()


@asynccontextmanager
async def node_service(stack: Stack, mqtt_port: int, *, interval: float) -> AsyncIterator[NodeService]:
    """It runs in the block and has ended after it."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2)

    def on_connect(*_: object) -> None:
        client.subscribe("device/+/ack", 1)

    client.on_connect = on_connect
    key = stack.keys.service_role_key
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=f"{stack.url}/rest/v1/", headers=headers, trust_env=False) as http:
        service = NodeService(stack, client, http, interval)
        client.connect("127.0.0.1", mqtt_port)
        client.loop_start()
        await eventually(client.is_connected, "the other service's connection")
        answers = asyncio.create_task(service.run_answers())
        polling = asyncio.create_task(service.run())
        try:
            yield service
            service.stop()
            await polling
        finally:
            polling.cancel()
            answers.cancel()
            await asyncio.gather(polling, answers, return_exceptions=True)
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)
