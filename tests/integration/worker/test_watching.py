"""A worker on the embedded stack: metrics after a command, what is removed when old, an alert of its own."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mqtt_service.adapters.supabase.retention import RetentionGateway
from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.devstack.stack import Stack
from mqtt_service.retention import Keep, Retention
from mqtt_service.service import Worker
from tests.integration.worker.harness import Rows, eventually, running_worker, settings, wire
from tests.integration.worker.test_alerts import receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def series(worker: Worker, *, password: str) -> dict[str, float]:
    """What /metrics of this worker says, by series."""
    transport = httpx.ASGITransport(worker.http_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        answer = await client.get("/metrics", auth=("prometheus", password))
    assert answer.status_code == 200
    lines = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_metrics_tell_a_commands_way_and_what_waits(stack: Stack, database: Rows) -> None:
    [device] = await database.add_active_devices(1)
    async with running_worker(stack, http_token="t0ken") as worker, wire(stack) as device_side:
        before = await series(worker, password="t0ken")
        command = await database.queue(device["device_id"], "ping")
        await database.becomes(command, "sent")
        device_side.say(
            f"device/{device['device_mac']}/ack",
            {"command_ack": "acknowledged", "command_id": str(command)},
        )
        await database.becomes(command, "acknowledged")
        outcome = 'mqtt_service_command_outcomes_total{outcome="%s",type="ping"}'

        async def counted() -> dict[str, float] | None:
            now = await series(worker, password="t0ken")
            done = outcome % "device_acknowledged"
            return now if now[done] > before[done] else None

        now: dict[str, float] = await eventually(counted, "the answer counted")
    for name in (
        outcome % "sent",
        'mqtt_service_command_send_seconds_count{type="ping"}',
        'mqtt_service_command_answer_seconds_count{type="ping"}',
    ):
        assert now[name] == before[name] + 1
    assert (
        now['mqtt_service_supabase_call_seconds_count{function="fn_claim_commands",outcome="answered"}'] > 0
    )
    assert now['mqtt_service_queued_commands{state="due"}'] == 0
    assert now["mqtt_service_broker_connected"] == now["mqtt_service_supabase_connected"] == 1
    assert now["mqtt_service_broker_connections_total"] >= 1


async def test_an_old_picture_goes_with_its_file(stack: Stack, database: Rows) -> None:
    [device] = await database.add_active_devices(1)
    client = await connect(stack.url, stack.keys.service_role_key)
    store = PictureStore(client)
    paths = [f"unassigned/{uuid4()}.jpg" for _ in range(3)]
    for path, age in zip(paths, ("100 days", "100 days", "1 day"), strict=True):
        await database.all(
            "insert into device_images"
            " (device_id, image_name, status, upload_path, storage_path, created_at, updated_at)"
            " values (%s, %s, 'complete', %s, %s, now() - %s::interval, now() - %s::interval)",
            device["device_id"], path, path, path, age, age,
        )  # fmt: skip
    for path in paths[1:]:  # the file of the first is gone already, as after a run that was interrupted
        await store.put(path, b"\xff\xd8\xff\xd9")
    gateway = RetentionGateway(DatabaseFunctions(client), "w1")
    retention = Retention(gateway, store, Keep(90, 90, 0, 90), pause=0)
    assert (await retention.run_once())["images"] == 2
    left = await database.all(
        "select image_name from device_images where device_id = %s", device["device_id"]
    )
    assert [row["image_name"] for row in left] == paths[2:]
    files = await database.all("select name from storage.objects where name = any(%s)", paths)
    assert [row["name"] for row in files] == paths[2:]
    assert (await retention.run_once())["images"] == 0
    await client.postgrest.aclose()


async def test_an_alert_reaches_its_receiver_and_so_does_its_end(stack: Stack, database: Rows) -> None:
    [device] = await database.add_active_devices(1)
    async with receiving() as receiver:
        chosen = settings(stack, alert_url=receiver.url, alert_secret="s3cret")
        client = await connect(chosen.supabase_url, chosen.supabase_secret_key.get_secret_value())
        worker = Worker(chosen, client, "w1:test")
        assert worker.alerts is not None
        for _ in range(3):
            await database.all(
                "insert into device_commands (device_id, command_type, status, last_error)"
                " values (%s, 'ping', 'failed', 'no camera')",
                device["device_id"],
            )
        await worker.alerts.look()
        await worker.alerts.look()
        assert states(receiver.came) == [["open"]]
        await database.all("delete from device_commands where device_id = %s", device["device_id"])
        await database.all("update mqtt_private.alerts set seen_at = seen_at - interval '6 minutes'")
        await worker.alerts.look()
        await worker.alerts.look()
        assert states(receiver.came) == [["open"], ["recovered"]]
        assert b"no camera" in receiver.came[0][1]
        await client.postgrest.aclose()
    assert await database.all("select * from mqtt_private.alerts") == []


def states(came: list[tuple[dict[str, str], bytes]]) -> list[list[Any]]:
    return [[alert["state"] for alert in json.loads(body)["alerts"]] for _, body in came]
