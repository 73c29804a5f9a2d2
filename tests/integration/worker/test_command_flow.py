"""Row to wire and back, with the real worker, Postgres, API and broker."""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from mqtt_service.devstack.faults import RealtimeFaults
from mqtt_service.devstack.stack import Stack
from tests.integration.worker.harness import SITE, Rows, eventually, running_worker, wire

pytestmark = pytest.mark.asyncio(loop_scope="module")


ON_THE_WIRE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("capture_image", {}, {"capture_image": True}),
    ("send_image", {"image_name": "image_001.jpg"}, {"send_image": "image_001.jpg"}),
    ("set_wake_schedule", {"next_wake_time": "2026-01-01T16:00:00Z"}, {"next_wake": "4:00PM"}),
    ("update_config", {"quality": 10, "device_id": "other"}, {"quality": 10}),
    ("reboot", {}, {"reboot": True}),
    (
        "update_firmware",
        {"firmware_url": "https://firmware.example/1.bin", "version": "1.2"},
        {"firmware_url": "https://firmware.example/1.bin", "version": "1.2"},
    ),
]


@pytest.mark.parametrize(("command_type", "payload", "expected"), ON_THE_WIRE)
async def test_each_command_type_reaches_the_wire_and_its_answer_the_row(
    stack: Stack, database: Rows, command_type: str, payload: dict[str, Any], expected: dict[str, Any]
) -> None:
    (device,) = await database.add_active_devices(1)
    mac = device["device_mac"]
    async with running_worker(stack), wire(stack) as device_side:
        command_id = await database.queue(device["device_id"], command_type, payload)
        (message,) = await eventually(lambda: device_side.heard_on(f"device/{mac}/cmd"), "the command")
        assert message == {"device_id": mac, "command_id": str(command_id), **expected}
        await database.becomes(command_id, "sent")
        device_side.say(f"device/{mac}/ack", {"command_id": str(command_id), "command_ack": "success"})
        row = await database.becomes(command_id, "acknowledged")
    assert row["delivered_at"] <= row["acknowledged_at"]
    assert row["lease_worker"] is None
    assert row["retry_count"] == 0


async def test_a_wake_that_cannot_be_said_is_a_notice_in_the_row_and_in_the_log(
    stack: Stack, database: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    (device,) = await database.add_active_devices(1)
    async with running_worker(stack):
        payload = {"next_wake_time": "2099-01-01T16:00:00Z"}
        late = await database.queue(device["device_id"], "set_wake_schedule", payload)
        row = await database.becomes(late, "sent")
        near = await database.queue(device["device_id"], "set_wake_schedule", {"cron": "*/30 * * * *"})
        said = await database.becomes(near, "sent")
        await eventually(lambda: row["delivery_notice"] in caplog.text, "the warning")
    assert (
        "2099-01-01T16:00:00Z, is more than a day ahead, and the device is told 4:00PM"
        in row["delivery_notice"]
    )
    assert (row["last_error"], said["delivery_notice"]) == (None, None)


async def test_a_device_says_how_far_it_is_and_hangs_half_way(stack: Stack, database: Rows) -> None:
    (device,) = await database.add_active_devices(1)
    mac = device["device_mac"]
    async with running_worker(stack), running_worker(stack), wire(stack) as device_side:
        command_id = await database.queue(device["device_id"], "reboot", {})
        await database.all(
            "update device_commands set execution_timeout = '5 s' where command_id = %s", command_id
        )
        await eventually(lambda: device_side.heard_on(f"device/{mac}/cmd"), "the command")
        for percent in ("25%", 50):
            said = {"command_ack": "in_progress", "progress": percent, "message": f"{percent}"}
            device_side.say(f"device/{mac}/ack", said)

        async def progress() -> bool:
            row = await database.one("select * from device_commands where command_id = %s", command_id)
            return (row["status"], row["progress"], row["progress_message"]) == ("sent", 50, "50")

        await eventually(progress, "the second word")
        row = await database.becomes(command_id, "failed")
    assert row["last_error"] == (
        "the device has said nothing for 5 secs; its last word was that it is at it (50 %)"
    )
    assert (row["retry_count"], row["due_at"], row["response"]) == (1, None, None)


@pytest.mark.parametrize("root", ["device", "ESP32CAM"])
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"command_ack": "acknowledged"}, "acknowledged"),
        ({"command_ack": {"type": "reboot", "status": "success", "message": "ok"}}, "acknowledged"),
        ({"command_id": "ID", "command_ack": "rejected", "reason": "no reboot here"}, "rejected"),
    ],
)
async def test_all_three_forms_of_answer_count_on_both_roots(
    stack: Stack, database: Rows, root: str, answer: dict[str, Any], status: str
) -> None:
    (device,) = await database.add_active_devices(1)
    async with running_worker(stack), wire(stack) as device_side:
        command_id = await database.queue(device["device_id"], "reboot")
        await database.becomes(command_id, "sent")
        if "command_id" in answer:
            answer = {**answer, "command_id": str(command_id)}
        device_side.say(f"{root}/{device['device_mac'].lower()}/ack", answer)
        await database.becomes(command_id, status)
        # It is answered from now on where it spoke, as it spelled itself.
        second = await database.queue(device["device_id"], "reboot")
        await database.becomes(second, "sent")
        where = f"{root}/{device['device_mac'].lower()}/cmd"
        await eventually(lambda: device_side.heard_on(where), f"a command on {where}")


async def test_a_quick_answer_without_an_id_is_for_the_command_sent_last(
    stack: Stack, database: Rows
) -> None:
    """Take out `wait_until_sent_is_recorded`: an answer that overtakes the settling goes to the older one."""
    (device,) = await database.add_active_devices(1)
    mac = device["device_mac"]
    async with running_worker(stack), wire(stack) as device_side:
        unanswered = await database.queue(device["device_id"], "capture_image")
        await database.becomes(unanswered, "sent")

        def answer(client: mqtt.Client, _: object, __: mqtt.MQTTMessage) -> None:
            client.publish(f"device/{mac}/ack", '{"command_ack": "ok"}', qos=1)

        device_side.client.on_message = answer
        for _ in range(20):
            await database.becomes(await database.queue(device["device_id"], "reboot"), "acknowledged")
        assert (await database.command(unanswered))["status"] == "sent"


async def test_the_services_own_messages_on_ack_are_no_answers(stack: Stack, database: Rows) -> None:
    (device,) = await database.add_active_devices(1)
    mac = device["device_mac"]
    async with running_worker(stack), wire(stack) as device_side:
        command_id = await database.queue(device["device_id"], "reboot")
        await database.becomes(command_id, "sent")
        topic = f"device/{mac}/ack"
        device_side.say(
            topic, {"device_id": mac, "image_name": "a.jpg", "ACK_OK": {"next_wake_time": "5:30PM"}}
        )
        device_side.say(topic, {"device_id": mac, "image_name": "a.jpg", "missing_chunks": [1]})
        device_side.say(topic, b"\xff\x00 not json")
        device_side.say(topic, {"command_ack": {"type": "capture_image", "status": "success"}})
        assert (await database.command(command_id))["status"] == "sent"
        device_side.say(topic, {"command_ack": "ok"})
        row = await database.becomes(command_id, "acknowledged")
    assert row["response"]["command_ack"] == "ok"


async def test_a_device_that_fails_a_command_gets_it_again_until_the_retries_are_used(
    stack: Stack, database: Rows
) -> None:
    (device,) = await database.add_active_devices(1)
    mac = device["device_mac"]
    async with running_worker(stack, max_retries=2), wire(stack) as device_side:
        command_id = await database.queue(device["device_id"], "capture_image")
        for attempt in (1, 2):
            seen = partial(lambda count: len(device_side.heard_on(f"device/{mac}/cmd")) == count, attempt)
            await eventually(seen, f"try {attempt}")
            await database.becomes(command_id, "sent")
            device_side.say(
                f"device/{mac}/ack",
                {"command_id": str(command_id), "command_ack": "failed", "reason": "sd card full"},
            )
        row = await database.becomes(command_id, "failed")

        async def final() -> bool:
            return bool((await database.command(command_id))["retry_count"] == 2)

        await eventually(final, "the second failure")
        row = await database.command(command_id)
    assert row["due_at"] is None
    assert "sd card full" in row["last_error"]
    assert {message["command_id"] for message in device_side.heard_on(f"device/{mac}/cmd")} == {
        str(command_id)
    }


async def test_a_row_that_cannot_be_encoded_fails_alone_with_the_reason(stack: Stack, database: Rows) -> None:
    poison, healthy = await database.add_active_devices(2)
    await database.all(
        "update public.devices set device_mac = 'room/4+#' where device_id = %s", poison["device_id"]
    )
    async with running_worker(stack), wire(stack):
        bad = await database.queue(poison["device_id"], "reboot")
        good = await database.queue(healthy["device_id"], "reboot")
        await database.becomes(good, "sent")
        row = await database.becomes(bad, "failed")
    assert row["due_at"] is None
    assert "room/4+#" in row["last_error"]


async def test_commands_flow_at_the_pace_of_the_poll_while_realtime_is_deaf(
    stack: Stack, database: Rows
) -> None:
    (device,) = await database.add_active_devices(1)
    stack.faults.realtime = RealtimeFaults(drop=True)
    try:
        async with running_worker(stack), wire(stack):
            command_id = await database.queue(device["device_id"], "reboot")
            await database.becomes(command_id, "sent", deadline=5)
    finally:
        stack.faults.clear()


async def test_realtime_wakes_a_worker_long_before_its_poll(stack: Stack, database: Rows) -> None:
    (device,) = await database.add_active_devices(1)
    async with running_worker(stack, poll_interval=600) as worker, wire(stack):
        await eventually(lambda: worker.doorbell.status.connected, "the doorbell")
        command_id = await database.queue(device["device_id"], "reboot")
        await database.becomes(command_id, "sent")


@pytest.mark.parametrize("while_running", [True, False])
async def test_a_mapped_device_is_welcomed_once_also_when_it_was_mapped_while_no_worker_ran(
    stack: Stack, database: Rows, *, while_running: bool
) -> None:
    (device,) = await database.all(
        "insert into public.devices (device_mac) values ('esp32-' || gen_random_uuid()) returning device_id"
    )

    async def map_device() -> None:
        await database.all(
            "insert into public.device_site_assignments (device_id, site_id) values (%s, %s)",
            device["device_id"], SITE,
        )  # fmt: skip

    async def welcomed() -> list[dict[str, Any]]:
        return await database.all(
            "select * from public.device_commands where device_id = %s and status = 'sent'",
            device["device_id"],
        )

    if not while_running:
        await map_device()
    async with running_worker(stack), running_worker(stack), wire(stack):
        if while_running:
            await map_device()
        await eventually(welcomed, "the welcome")
        # A heartbeat and an edit of an active device make no other.
        await database.all(
            "update public.devices set last_seen_at = now(), device_name = 'x' where device_id = %s",
            device["device_id"],
        )
        marker = await database.queue(device["device_id"], "reboot")
        await database.becomes(marker, "sent")
    welcomes = [row for row in await database.all(
        "select * from public.device_commands where device_id = %s", device["device_id"]
    ) if row["command_type"] == "set_wake_schedule"]  # fmt: skip
    assert len(welcomes) == 1


async def test_four_processors_publish_1000_commands_once_each_in_the_order_of_every_device(
    stack: Stack, database: Rows
) -> None:
    devices = await database.add_active_devices(100)
    ids = [device["device_id"] for device in devices]
    async with AsyncExitStack() as exits:
        device_side = await exits.enter_async_context(wire(stack))
        await database.all(
            "insert into public.device_commands (device_id, command_type, command_payload)"
            " select d, 'update_config', jsonb_build_object('n', n)"
            " from generate_series(1, 10) n, unnest(%s::uuid[]) d order by n",
            ids,
        )
        await asyncio.gather(*(exits.enter_async_context(running_worker(stack)) for _ in range(4)))

        async def done() -> bool:
            left = await database.one(
                "select count(*) from public.device_commands where device_id = any(%s) and status <> 'sent'",
                ids,
            )
            return bool(left["count"] == 0)

        await eventually(done, "1,000 commands sent", 60)
        await eventually(lambda: len(device_side.heard) >= 1000, "1,000 commands on the wire")
    heard: dict[str, list[int]] = defaultdict(list)
    for topic, message in device_side.heard:
        heard[topic].append(message["n"])
    assert len(heard) == 100
    assert all(numbers == list(range(1, 11)) for numbers in heard.values())
