"""Pictures of inexact firmware, and pictures that can never succeed: with the real worker and stack."""

import base64
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mqtt_service.devstack.stack import Stack
from mqtt_service.service import Worker
from tests.integration.worker.harness import Rows, Wire, eventually, running_worker, wire
from tests.unit.protocol.jpeg_samples import WITH_THUMBNAIL

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPICS = ("device/+/cmd", "device/+/ack")
SIZE = 128
PADDED = WITH_THUMBNAIL + bytes(1000)
EVEN = WITH_THUMBNAIL + bytes(-len(WITH_THUMBNAIL) % SIZE)
CUT = WITH_THUMBNAIL[:-50]


def new_id() -> str:
    return f"cam-{uuid4().hex[:10]}"


def send(side: Wire, device: str, picture: bytes, **announced: object) -> None:
    total = -(-len(picture) // SIZE)
    metadata = {"image_name": "a.jpg", "total_chunks_count": total, "capture_timestamp": None, **announced}
    side.say(f"device/{device}/data", metadata)
    for number in range(total):
        payload = base64.b64encode(picture[number * SIZE : (number + 1) * SIZE]).decode()
        side.say(f"device/{device}/data", {"image_name": "a.jpg", "chunk_id": number, "payload": payload})


def told(side: Wire, device: str, key: str) -> list[dict[str, Any]]:
    topics = (f"device/{device}/cmd", f"device/{device}/ack")
    return [message for topic in topics for message in side.heard_on(topic) if key in message]


async def picture_of(database: Rows, device: str) -> dict[str, Any]:
    return await database.one(
        "select i.* from public.device_images i join public.devices using (device_id)"
        " where device_mac = %s and status <> 'pending'", device,
    )  # fmt: skip


async def stored(stack: Stack, path: str) -> bytes:
    key = stack.keys.service_role_key
    async with httpx.AsyncClient(headers={"apikey": key, "Authorization": f"Bearer {key}"}) as client:
        answer = await client.get(f"{stack.url}/storage/v1/object/authenticated/device-images/{path}")
        answer.raise_for_status()
        return answer.content


@pytest.mark.parametrize(
    ("sent", "announced", "kept"),
    [
        pytest.param(PADDED, {"image_size": len(PADDED)}, PADDED, id="padding that the size counts"),
        pytest.param(
            PADDED, {"image_size": len(WITH_THUMBNAIL)}, PADDED, id="padding that it does not count"
        ),
        pytest.param(EVEN, {"image_size": len(WITH_THUMBNAIL)}, WITH_THUMBNAIL, id="a padded last chunk"),
        pytest.param(
            EVEN,
            {"image_size": len(EVEN), "total_chunks_count": len(EVEN) // SIZE + 1},
            EVEN,
            id="a total one too high",
        ),
    ],
)
async def test_what_is_whole_is_stored_at_once_and_nothing_is_asked_for_again(
    stack: Stack, database: Rows, sent: bytes, announced: dict[str, Any], kept: bytes
) -> None:
    device = new_id()
    async with running_worker(stack, image_silence=30) as _, wire(stack, *TOPICS) as side:
        send(side, device, sent, **announced)
        await eventually(lambda: told(side, device, "ACK_OK"), "ACK_OK")
        row = await picture_of(database, device)
        assert told(side, device, "missing_chunks") == []
    assert await stored(stack, row["storage_path"]) == kept
    assert (row["status"], row["image_size"]) == ("complete", len(kept))


async def test_without_a_size_a_total_one_too_high_is_seen_through_when_the_device_is_silent(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    async with running_worker(stack, image_silence=0.3), wire(stack, *TOPICS) as side:
        send(side, device, EVEN, total_chunks_count=len(EVEN) // SIZE + 1)
        await eventually(lambda: told(side, device, "ACK_OK"), "ACK_OK")
        assert told(side, device, "missing_chunks") == []
        row = await picture_of(database, device)
    assert await stored(stack, row["storage_path"]) == EVEN


async def wake(side: Wire, device: str, visits: int) -> None:
    """The device wakes for the `visits`th time, offers its picture, and sends it if it is asked to."""
    asked = len(told(side, device, "send_image"))
    side.say(f"device/{device}/status", {"status": "alive", "pending_list": ["a.jpg"]})
    await eventually(lambda: len(told(side, device, "send_image")) > asked, "send_image")
    send(side, device, CUT, image_size=len(CUT))
    await eventually(
        lambda: len(told(side, device, "next_wake")) >= visits or told(side, device, "ACK_OK"), "its sleep"
    )


async def asleep(worker: Worker, device: str) -> None:
    await eventually(lambda: worker.visits.find(device) is None, "the end of the visit")
    await worker.visits.wait_for_end(device)


@pytest.mark.parametrize("mode", ["discard", "quarantine"])
async def test_a_picture_given_up_with_the_operators_consent_is_confirmed_and_kept_if_so_chosen(
    stack: Stack, database: Rows, mode: str
) -> None:
    device = new_id()
    options = {"image_give_up": mode, "image_give_up_after": 2, "image_silence": 0.5}
    # The second visit is another worker's: what counts is in the database.
    async with wire(stack, *TOPICS) as side:
        for visits in (1, 2):
            async with running_worker(stack, **options) as worker:
                assert told(side, device, "ACK_OK") == []
                await wake(side, device, visits)
                await asleep(worker, device)
            await database.all(  # a HELLO that another worker brings within 20 s is the same one
                "update mqtt_private.visits set began_at = began_at - interval '1 minute'"
            )
        assert len(told(side, device, "ACK_OK")) == 1
    row = await picture_of(database, device)
    assert (row["status"], row["given_up"]) == ("failed", mode)
    assert "cut off" in row["last_error"]
    if mode == "quarantine":
        assert await stored(stack, row["rejected_path"]) == CUT
        assert row["rejected_path"].split("/")[1] == "rejected"
    events = await database.all(
        "select event_data from public.device_history where device_id = %s and event_type = 'image_given_up'",
        row["device_id"],
    )
    assert [event["event_data"]["given_up"] for event in events] == [mode]


async def test_a_picture_that_is_kept_is_not_asked_for_again_and_taken_when_it_comes(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    async with (
        running_worker(stack, image_give_up_after=2, image_silence=0.5) as worker,
        wire(stack, *TOPICS) as side,
    ):
        for visits in (1, 2):
            await wake(side, device, visits)
            await asleep(worker, device)
        row = await picture_of(database, device)
        assert (row["status"], row["given_up"]) == ("failed", "keep")
        asked = len(told(side, device, "send_image"))
        side.say(f"device/{device}/status", {"status": "alive", "pending_list": ["a.jpg"]})
        await eventually(lambda: len(told(side, device, "next_wake")) >= 3, "its sleep")
        assert len(told(side, device, "send_image")) == asked
        assert told(side, device, "ACK_OK") == []
        send(side, device, WITH_THUMBNAIL)
        await eventually(lambda: told(side, device, "ACK_OK"), "ACK_OK")
        row = await picture_of(database, device)
    assert (row["status"], row["given_up"]) == ("complete", None)


async def test_a_picture_too_large_is_confirmed_where_the_operator_lets_it_be_deleted(
    stack: Stack, database: Rows
) -> None:
    device = new_id()
    options = {"image_give_up": "discard", "image_give_up_after": 1, "image_max_bytes": 1000}
    async with running_worker(stack, **options), wire(stack, *TOPICS) as side:
        side.say(f"device/{device}/status", {"status": "alive"})
        side.say(
            f"device/{device}/data",
            {"image_name": "a.jpg", "total_chunks_count": 3, "image_size": 1001},
        )
        await eventually(lambda: told(side, device, "ACK_OK"), "ACK_OK")
        row = await picture_of(database, device)
    assert (row["status"], row["given_up"]) == ("failed", "discard")
