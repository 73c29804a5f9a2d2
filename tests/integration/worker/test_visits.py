"""A device wakes: what it is told, in which order, by whom; with the real worker, stack and broker."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mqtt_service.devstack.stack import Stack
from mqtt_service.metrics import REGISTRY
from tests.integration.worker.harness import Rows, Wire, eventually, running_worker, wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPICS = ("device/+/cmd", "ESP32CAM/+/cmd", "device/+/ack", "ESP32CAM/+/ack")
PICTURE = b"\xff\xd8" + bytes(range(256)) * 12 + b"\xff\xd9"


def new_id() -> str:
    """A name that no other test uses."""
    return f"cam-{uuid4().hex[:10]}"


async def told(side: Wire, root: str, device: str, key: str, count: int = 1) -> list[dict[str, Any]]:
    """What the device was told with this key, once it was told so `count` times."""

    def look() -> list[dict[str, Any]]:
        said = [
            message
            for channel in ("cmd", "ack")
            for message in side.heard_on(f"{root}/{device}/{channel}")
            if key in message
        ]
        return said if len(said) >= count else []

    found: list[dict[str, Any]] = await eventually(look, f"{key} ({count}) to {device}")
    return found


def chunks(name: str, picture: bytes, size: int = 512, first: int = 0) -> list[dict[str, Any]]:
    parts = [picture[start : start + size] for start in range(0, len(picture), size)]
    return [
        {"image_name": name, "chunk_id": number + first, "payload": base64.b64encode(part).decode()}
        for number, part in enumerate(parts)
    ]


def metadata(name: str, picture: bytes, size: int = 512, **more: object) -> dict[str, Any]:
    captured = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    return {
        "image_name": name,
        "capture_timestamp": captured,
        "image_size": len(picture),
        "max_chunk_size": size,
        "total_chunks_count": -(-len(picture) // size),
        "temperature": 25.5,
        "humidity": 45.2,
        **more,
    }


def send(side: Wire, device: str, messages: list[dict[str, Any]]) -> None:
    for message in messages:
        side.say(f"ESP32CAM/{device}/data", message)


def answers(result: str) -> float:
    return REGISTRY.get_sample_value("mqtt_service_acknowledgements_total", {"result": result}) or 0.0


async def image_of(database: Rows, device: str, status: str) -> dict[str, Any]:
    """The device's one picture, once it has this status."""

    async def look() -> dict[str, Any] | None:
        found = await database.all(
            "select i.*, d.device_code from public.device_images i join public.devices d using (device_id)"
            " where d.device_mac = %s and i.status = %s",
            device, status,
        )  # fmt: skip
        return found[0] if found else None

    row: dict[str, Any] = await eventually(look, f"a picture of {device} that is {status}")
    return row


async def stored(stack: Stack, path: str) -> bytes:
    key = stack.keys.service_role_key
    async with httpx.AsyncClient(headers={"apikey": key, "Authorization": f"Bearer {key}"}) as client:
        answer = await client.get(f"{stack.url}/storage/v1/object/authenticated/device-images/{path}")
        answer.raise_for_status()
        return answer.content


@pytest.mark.parametrize("root", ["device", "ESP32CAM"])
async def test_an_unknown_device_is_registered_once_and_told_when_to_wake(
    stack: Stack, database: Rows, root: str
) -> None:
    device = new_id()
    async with running_worker(stack), wire(stack, *TOPICS) as side:
        side.say(f"{root}/{device}/status", {"device_id": device, "status": "Alive", "battery_voltage": 3.7})
        (reply,) = await told(side, root, device, "next_wake")
        assert reply["device_id"] == device
        assert "command_id" in reply
        row = await database.one("select * from public.devices where device_mac = %s", device)
    assert (row["provisioning_status"], row["is_active"]) == ("pending_mapping", False)
    assert row["device_code"].startswith("DEVICE-ESP32S3-")
    assert float(row["battery_voltage"]) == 3.7
    assert row["next_wake_at"] > datetime.now(UTC)
    assert not row["welcome_due"]


async def test_due_commands_go_first_and_at_once_and_sleep_comes_after_their_answer(
    stack: Stack, database: Rows
) -> None:
    (device,) = await database.add_active_devices(1)
    mac = device["device_mac"]
    # The poll is far away, and Realtime rings for inserts alone.
    async with running_worker(stack, poll_interval=60) as worker, wire(stack, *TOPICS) as side:
        command_id = await database.queue(device["device_id"], "update_config", {"quality": 10})
        await database.becomes(command_id, "sent")
        await database.all(
            "update public.device_commands set no_listener = true where command_id = %s", command_id
        )
        side.say(f"device/{mac}/status", {"status": "alive"})
        twice = await told(side, "device", mac, "quality", count=2)
        assert {message["command_id"] for message in twice} == {str(command_id)}
        assert not side.heard_on(f"device/{mac}/ack")
        side.say(f"device/{mac}/ack", {"command_id": str(command_id), "command_ack": "ok"})
        await told(side, "device", mac, "next_wake")
        row = await database.becomes(command_id, "acknowledged")
        await eventually(lambda: not worker.visits.find(mac), "the end of the visit")
    assert row["redelivery_count"] == 1
    assert row["retry_count"] == 0


@pytest.mark.parametrize("first", [0, 1])
async def test_a_picture_arrives_in_storage_before_the_device_may_delete_it(
    stack: Stack, database: Rows, first: int
) -> None:
    device = new_id()
    async with running_worker(stack, image_silence=0.5), wire(stack, *TOPICS) as side:
        side.say(f"ESP32CAM/{device}/status", {"status": "alive", "pendingImg": 1, "pending_list": ["a.jpg"]})
        (ask,) = await told(side, "ESP32CAM", device, "send_image")
        assert ask["send_image"] == "a.jpg"
        parts = chunks("a.jpg", PICTURE, first=first)
        send(side, device, [parts[1], metadata("a.jpg", PICTURE), *reversed(parts[2:]), parts[1]])
        (missing,) = await told(side, "ESP32CAM", device, "missing_chunks")
        assert missing["image_name"] == "a.jpg"
        assert parts[0]["chunk_id"] in missing["missing_chunks"]
        send(side, device, [parts[0]])
        (done,) = await told(side, "ESP32CAM", device, "ACK_OK")
        row = await image_of(database, device, "complete")
        assert await stored(stack, row["storage_path"]) == PICTURE
    assert set(done["ACK_OK"]) == {"next_wake_time"}
    assert (row["image_size"], row["total_chunks"], row["received_chunks"]) == (3076, 7, 7)
    assert row["missing_requests"] == 1
    telemetry = await database.one(
        "select * from public.device_telemetry where image_id = %s", row["image_id"]
    )
    assert (telemetry["temperature"], telemetry["humidity"]) == (25.5, 45.2)


async def test_a_picture_that_is_there_is_acknowledged_at_once(stack: Stack, database: Rows) -> None:
    device = new_id()
    announced = metadata("a.jpg", PICTURE)
    async with wire(stack, *TOPICS) as side:
        async with running_worker(stack):
            send(side, device, [announced, *chunks("a.jpg", PICTURE)])
            await told(side, "device", device, "ACK_OK")
        async with running_worker(stack):  # one that remembers nothing
            send(side, device, [announced])
            await told(side, "device", device, "ACK_OK", count=2)
    assert len(await database.all(
        "select image_id from public.device_images join public.devices using (device_id)"
        " where device_mac = %s", device,
    )) == 1  # fmt: skip


async def test_pictures_are_asked_for_one_after_another(stack: Stack) -> None:
    device = new_id()
    names = ["a.jpg", "b.jpg", "c.jpg"]
    async with running_worker(stack), wire(stack, *TOPICS) as side:
        side.say(f"device/{device}/status", {"status": "alive", "pendingImg": 3, "pending_list": names})
        for number, name in enumerate(names, start=1):
            asked = await told(side, "device", device, "send_image", count=number)
            assert [ask["send_image"] for ask in asked] == names[:number]
            for message in [metadata(name, PICTURE), *chunks(name, PICTURE)]:
                side.say(f"ESP32CAM/{device}/data", message)
            acknowledged = await told(side, "device", device, "ACK_OK", count=number)
            assert acknowledged[-1]["image_name"] == name


async def test_unnamed_pictures_are_asked_for_by_capture_image(stack: Stack) -> None:
    device = new_id()
    async with running_worker(stack), wire(stack, *TOPICS) as side:
        side.say(f"ESP32CAM/{device}/status", {"alive": True, "pending_count": 2})
        for number in (1, 2):
            await told(side, "ESP32CAM", device, "capture_image", count=number)
            name = f"{number}.jpg"
            send(side, device, [metadata(name, PICTURE), *chunks(name, PICTURE)])
            await told(side, "ESP32CAM", device, "ACK_OK", count=number)


@pytest.mark.parametrize(
    ("picture", "announced", "reason"),
    [
        (PICTURE[2:], {}, "does not begin with FF D8"),
        (PICTURE[:-2], {}, "does not end with FF D9"),
        (PICTURE, {"image_size": 3000}, "more than the 3000 announced"),
        (PICTURE, {"image_size": 4000}, "fewer than the 4000 announced"),
    ],
)
async def test_what_is_not_the_picture_fails_with_the_reason_and_the_device_sleeps(
    stack: Stack, database: Rows, picture: bytes, announced: dict[str, Any], reason: str
) -> None:
    device = new_id()
    async with running_worker(stack), wire(stack, *TOPICS) as side:
        send(side, device, [metadata("a.jpg", picture, **announced), *chunks("a.jpg", picture)])
        await told(side, "device", device, "next_wake")
        row = await image_of(database, device, "failed")
        assert not [said for said in side.heard_on(f"device/{device}/ack") if "ACK_OK" in said]
    assert reason in row["last_error"]


async def test_a_picture_whose_chunks_never_come_fails_after_three_requests(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    async with running_worker(stack, image_silence=0.2), wire(stack, *TOPICS) as side:
        send(side, device, [metadata("a.jpg", PICTURE), *chunks("a.jpg", PICTURE)[:3]])
        await told(side, "device", device, "next_wake")
        row = await image_of(database, device, "failed")
        asked = await told(side, "device", device, "missing_chunks", count=3)
    assert len(asked) == 3
    assert row["missing_requests"] == 3
    assert "4 of 7 chunks did not come" in row["last_error"]
    events = await database.all(
        "select event_type from public.device_history join public.devices using (device_id)"
        " where device_mac = %s", device,
    )  # fmt: skip
    assert "image_failed" in {event["event_type"] for event in events}


async def test_of_two_workers_that_hear_a_device_one_answers(stack: Stack, database: Rows) -> None:
    device = new_id()
    async with running_worker(stack) as first, running_worker(stack) as second, wire(stack, *TOPICS) as side:
        side.say(f"ESP32CAM/{device}/status", {"status": "alive", "pending_list": ["a.jpg"]})
        await told(side, "ESP32CAM", device, "send_image")
        send(side, device, [metadata("a.jpg", PICTURE), *chunks("a.jpg", PICTURE)])
        await told(side, "ESP32CAM", device, "ACK_OK")
        await eventually(
            lambda: not first.visits.find(device) and not second.visits.find(device), "the end of the visit"
        )
        assert len(await told(side, "ESP32CAM", device, "ACK_OK")) == 1
        assert len(await told(side, "ESP32CAM", device, "send_image")) == 1
        assert first.pictures.unfinished(device) == second.pictures.unfinished(device) == []
    await image_of(database, device, "complete")


async def test_another_worker_goes_on_with_the_picture_of_one_that_leaves(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    parts = chunks("a.jpg", PICTURE)
    async with wire(stack, *TOPICS) as side, running_worker(stack) as survivor:
        async with running_worker(stack) as victim:
            side.say(f"ESP32CAM/{device}/status", {"status": "alive", "pending_list": ["a.jpg"]})
            await told(side, "ESP32CAM", device, "send_image")
            send(side, device, [metadata("a.jpg", PICTURE), *parts[:4]])
            await eventually(
                lambda: (
                    len(survivor.pictures.unfinished(device)) == len(victim.pictures.unfinished(device)) == 1
                ),
                "the picture's beginning on both sides",
            )
        send(side, device, parts[4:])
        await told(side, "ESP32CAM", device, "ACK_OK")
    row = await image_of(database, device, "complete")
    assert await stored(stack, row["storage_path"]) == PICTURE


async def test_a_device_that_may_not_register_is_told_to_come_back_and_leaves_no_row(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    async with running_worker(stack, register_devices=False), wire(stack, *TOPICS) as side:
        side.say(f"device/{device}/status", {"status": "alive"})
        await told(side, "device", device, "next_wake")
    assert not await database.all("select device_id from public.devices where device_mac = %s", device)


async def test_an_answer_without_an_id_to_what_has_no_row_acknowledges_no_command(
    stack: Stack, database: Rows
) -> None:
    """Whichever of two workers said it, and whichever hears the answer first."""
    (device,) = await database.add_active_devices(1)
    mac = device["device_mac"]
    async with running_worker(stack), running_worker(stack), wire(stack, *TOPICS) as side:
        command_id = await database.queue(device["device_id"], "reboot")
        await database.becomes(command_id, "sent")
        side.say(f"device/{mac}/status", {"status": "alive", "pending_list": ["a.jpg"]})
        await told(side, "device", mac, "send_image")
        before = answers("reply"), answers("duplicate")
        side.say(f"device/{mac}/ack", {"command_ack": "acknowledged"})
        after = (before[0] + 1, before[1] + 1)
        await eventually(
            lambda: (answers("reply"), answers("duplicate")) == after,
            "the answer of the reply, from each worker",
        )
        assert (await database.command(command_id))["status"] == "sent"


async def test_messages_of_every_broken_kind_leave_the_worker_as_it_was(stack: Stack) -> None:
    device = new_id()
    async with running_worker(stack) as worker, wire(stack) as side:
        for payload in (
            b"",
            b"\xff",
            b"[]",
            b"{",
            b'{"image_name": "../../x", "chunk_id": -1}',
            b"\x00" * 70_000,
        ):
            for topic in (f"device/{device}/status", f"device/{device}/ack", f"ESP32CAM/{device}/data"):
                side.say(topic, payload)
        side.say(f"device/{device}/status", json.dumps({"status": "alive"}).encode())
        await told(side, "device", device, "next_wake")
        assert worker.snapshot().ready


async def test_a_picture_whose_name_is_too_long_has_a_row_that_says_so_and_the_device_sleeps(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    name = "../" * 3_000 + "a.jpg"
    async with running_worker(stack, image_silence=0.3) as worker, wire(stack, *TOPICS) as side:
        send(side, device, [metadata(name, PICTURE), *chunks(name, PICTURE)[:2]])
        await told(side, "device", device, "next_wake")
        row = await image_of(database, device, "failed")
        await eventually(lambda: not worker.visits.find(device), "the end of the visit")
    assert row["image_name"] == name[:254] + "…"
    assert "9005 characters, the limit is 255" in row["last_error"]


async def test_a_picture_beyond_a_bound_has_a_row_that_says_which_and_the_device_sleeps(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    async with running_worker(stack, image_max_chunks=3) as worker, wire(stack, *TOPICS) as side:
        send(side, device, [metadata("a.jpg", PICTURE), *chunks("a.jpg", PICTURE)])
        await told(side, "device", device, "next_wake")
        row = await image_of(database, device, "failed")
        await eventually(lambda: not worker.visits.find(device), "the end of the visit")
        assert worker.pictures.unfinished(device) == []
    assert "announced with 7 chunks, the limit is 3" in row["last_error"]


WORST_HELLOS = [
    b'{"status": "alive"}\0\0\0',
    b'{"status": "alive"}rest of the buffer\xff\xfe',
    b'{"status": "alive",}',
    b"{'status': 'alive'}",
    b'{"status": "alive", "location": "k\xfcche\n"}',
    b'{"status":"Alive"',
    b'{"status": "alive", "status": "alive"}',
    b'{"status": "online"}',
    b"awake\n",
    b"\xff\xd8\xff",
    b"[" * 5000,
    b'{"status":"alive","x":"' + b"x" * 70_000,
]


async def test_the_worst_hellos_are_answered_each_and_a_last_will_is_not(
    stack: Stack, database: Rows
) -> None:
    async with running_worker(stack) as worker, wire(stack, *TOPICS) as side:
        devices = {new_id(): payload for payload in WORST_HELLOS}
        gone = {new_id(): payload for payload in (b"", b"offline", b'{"status": "offline"}\0')}
        for device, payload in {**gone, **devices}.items():
            side.say(f"device/{device}/status", payload)
        for device in devices:
            await told(side, "device", device, "next_wake")
        assert worker.snapshot().ready
        assert [device for device in gone if side.heard_on(f"device/{device}/cmd")] == []
        known = await database.all(
            "select device_mac from public.devices where device_mac = any (%s)", list(gone)
        )
        assert known == []


async def test_an_answer_with_a_nul_behind_it_reaches_its_command(stack: Stack, database: Rows) -> None:
    [device] = await database.add_active_devices(1)
    async with running_worker(stack), wire(stack) as side:
        command_id = await database.queue(device["device_id"], "reboot")
        await database.becomes(command_id, "sent")
        answer = json.dumps({"command_id": str(command_id), "command_ack": "success"}).encode() + b"\0"
        side.say(f"device/{device['device_mac']}/ack", answer)
        await database.becomes(command_id, "acknowledged")


async def test_readings_alone_are_one_row_though_two_workers_hear_them(stack: Stack, database: Rows) -> None:
    device = new_id()
    timed = {"timestamp": "2025-11-7T6:33:4Z", "sensor_data": {"temperature": 21.5}}
    untimed = {"humidity": 45.2}

    def heard() -> float:
        return sum(
            REGISTRY.get_sample_value("mqtt_service_telemetry_total", {"result": result}) or 0.0
            for result in ("recorded", "duplicate")
        )

    async with running_worker(stack), running_worker(stack), wire(stack) as side:
        before = heard()
        for message in (timed, timed, untimed, untimed):
            side.say(f"device/{device}/data", message)
        await eventually(lambda: heard() - before == 8, "all readings with both workers")
    found = await database.all(
        "select t.* from public.device_telemetry t join public.devices d using (device_id)"
        " where d.device_mac = %s order by t.captured_at",
        device,
    )
    assert [(row["temperature"], row["humidity"], row["image_id"]) for row in found] == [
        (21.5, None, None), (None, 45.2, None), (None, 45.2, None),
    ]  # fmt: skip
