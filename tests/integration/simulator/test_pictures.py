"""The simulated device's pictures, over a real broker: a test plays the service's part."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mqtt_service.devstack.broker import Broker
from mqtt_service.simulator.camera import Camera
from mqtt_service.simulator.device import SimulatedDevice
from mqtt_service.simulator.pictures import ENCODINGS, SPELLINGS, Encoding, Spelling
from mqtt_service.simulator.radio import RadioOptions
from tests.integration.simulator.device_harness import MAC, Service, camera, content

FIRST = "image_001.jpg"
SECOND = "image_002.jpg"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with Broker("auto", 0, tmp_path) as broker:
        service = Service(broker)
        async with service.link:
            yield service


def camera_of(device: SimulatedDevice) -> Camera:
    assert device.camera is not None
    return device.camera


def data_of(device: SimulatedDevice, name: str) -> bytes:
    pending = camera_of(device).card.get(name)
    assert pending is not None
    return pending.picture.data


async def heard_until_answer(
    service: Service, device: SimulatedDevice, **command: Any
) -> list[dict[str, Any]]:
    """All data messages until the device acknowledges this command, and one after it.

    An upload that the first one begins says its first word before the second is acknowledged.
    """
    heard: list[dict[str, Any]] = []
    for fields in (command, {"interval": 5}):
        await service.commands(device, **fields)
        async with asyncio.timeout(5):
            while True:
                topic, document = await service.heard.get()
                if topic.endswith("/ack"):
                    break
                heard += [document] if topic.endswith("/data") else []
    return heard


@pytest.mark.parametrize("first_chunk", [0, 1])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_pending_picture_arrives_byte_for_byte_in_every_form(
    service: Service, spelling: Spelling, encoding: Encoding, first_chunk: int
) -> None:
    options = camera(spelling=spelling, encoding=encoding, first_chunk=first_chunk)
    device = service.device(camera=options)
    camera_of(device).take()
    async with device:
        _, heartbeat = await service.hears("status")
        await service.commands(device, send_image=FIRST)
        metadata, chunks = await service.hears_picture()
        assert heartbeat["pending_list"] == [FIRST]
        assert metadata["image_name"] == FIRST
        assert metadata["image_size"] == 1000
        assert [chunk["chunk_id"] for chunk in chunks] == list(range(first_chunk, first_chunk + 10))
        assert b"".join(map(content, chunks)) == data_of(device, FIRST)
    assert device.complaints == []


async def test_every_root_sends_its_pictures_on_the_same_topic(service: Service) -> None:
    for root in ("device", "ESP32CAM"):
        async with service.device(root=root, camera=camera()) as device:
            await service.commands(device, capture_image=True)
            assert (await service.hears("data"))[0] == f"ESP32CAM/{MAC}/data"


async def test_a_device_without_a_clock_says_1970(service: Service) -> None:
    device = service.device(camera=camera(clock_set=False))
    async with device:
        await service.commands(device, capture_image=True)
        _, metadata = await service.hears("data")
    assert metadata["capture_timestamp"] == "1970-01-01T00:00:00Z"


async def test_a_picture_is_deleted_once_it_is_confirmed_and_its_hash_remembered(service: Service) -> None:
    async with service.device(camera=camera()) as device:
        picture = camera_of(device).take()
        await service.commands(device, send_image=FIRST)
        await service.hears_picture()
        await service.confirms(device, FIRST)
        await device.wait_for(lambda device: len(camera_of(device).card) == 0)
        assert [each.sha256 for each in camera_of(device).card.confirmed] == [picture.sha256]
        assert device.next_wake == "5:30PM"
        assert device.wakes[-1].acknowledged == [FIRST]
    assert device.complaints == []


async def test_missing_chunks_alone_are_sent_again(service: Service) -> None:
    async with service.device(camera=camera(first_chunk=1)) as device:
        await service.commands(device, capture_image=True)
        _, chunks = await service.hears_picture()
        await service.replies(device, FIRST, missing_chunks=[0, 3, 10])
        again = [(await service.hears("data"))[1] for _ in range(2)]
        assert again == [chunks[2], chunks[9]]


async def test_an_asked_for_picture_is_sent_once_however_often_metadata_is_answered(service: Service) -> None:
    async with service.device(camera=camera()) as device:
        await service.commands(device, capture_image=True)
        await service.hears_picture()
        assert await heard_until_answer(service, device, send_image=FIRST) == []


async def test_send_image_while_it_is_being_sent_begins_nothing(service: Service) -> None:
    async with service.device(camera=camera(chunk_seconds=0.02)) as device:
        await service.commands(device, capture_image=True)
        await service.hears("data")
        for _ in range(2):
            await service.commands(device, send_image=FIRST)
        await device.wait_for(lambda device: device.wakes[-1].sent == [FIRST])
        await device.wait_for(lambda device: len(device.received) == 3)
        assert camera_of(device).chunks_sent == 10


async def test_a_picture_that_did_not_arrive_is_sent_again_as_a_whole(service: Service) -> None:
    async with service.device(camera=camera()) as device:
        camera_of(device).take()
        for _ in range(2):
            await service.commands(device, send_image=FIRST)
            await service.hears_picture()
            await service.commands(device, send_image=FIRST)  # the answer to its metadata
        await service.commands(device, send_image=FIRST)
        await service.hears_picture()


async def test_a_device_that_waits_sends_chunks_when_its_metadata_is_answered(service: Service) -> None:
    async with service.device(camera=camera(waits_for_send_image=True)) as device:
        (metadata,) = await heard_until_answer(service, device, capture_image=True)
        await service.commands(device, send_image=FIRST)
        chunks = [(await service.hears("data"))[1] for _ in range(10)]
        assert metadata["total_chunks_count"] == 10
        assert b"".join(map(content, chunks)) == data_of(device, FIRST)


async def test_a_device_that_rebooted_while_it_was_idle_still_uploads(service: Service) -> None:
    async with service.device(camera=camera()) as device:
        await service.hears("status")
        await service.commands(device, reboot=True)
        await service.hears("status")
        await service.commands(device, capture_image=True)
        await service.hears_picture()


async def test_a_picture_that_is_not_on_the_card_is_a_failure(service: Service) -> None:
    async with service.device(camera=camera()) as device:
        await service.commands(device, send_image="other.jpg")
        assert (await service.hears("ack"))[1]["command_ack"] == "failed"


async def test_without_a_list_capture_image_uploads_what_is_pending_then_takes_a_new_picture(
    service: Service,
) -> None:
    device = service.device(camera=camera(lists_pending=False))
    for _ in range(2):
        camera_of(device).take()
    async with device:
        _, heartbeat = await service.hears("status")
        assert heartbeat["pendingImg"] == 2
        assert "pending_list" not in heartbeat
        names = []
        for _ in range(3):
            await service.commands(device, capture_image=True)
            names.append((await service.hears_picture())[0]["image_name"])
    assert names == [FIRST, SECOND, "image_003.jpg"]


async def test_a_hello_names_ten_pictures_and_capture_image_brings_the_eleventh(service: Service) -> None:
    device = service.device(camera=camera())
    for _ in range(11):
        camera_of(device).take()
    async with device:
        _, heartbeat = await service.hears("status")
        assert heartbeat["pendingImg"] == 11
        assert heartbeat["pending_list"] == [f"image_{number:03}.jpg" for number in range(1, 11)]
        await service.commands(device, capture_image=True)
        assert (await service.hears_picture())[0]["image_name"] == "image_011.jpg"


async def test_new_pictures_are_uploaded_unasked_each_after_the_one_before_is_confirmed(
    service: Service,
) -> None:
    device = service.device(camera=camera(uploads_new=True))
    for _ in range(2):
        camera_of(device).take()
    async with device:
        _, heartbeat = await service.hears("status")
        assert heartbeat["pendingImg"] == 0
        assert (await service.hears_picture())[0]["image_name"] == FIRST
        assert await heard_until_answer(service, device, interval=6) == []
        await service.confirms(device, FIRST)
        assert (await service.hears_picture())[0]["image_name"] == SECOND


async def test_what_the_radio_loses_never_reaches_the_broker_until_it_is_asked_for(service: Service) -> None:
    radio = RadioOptions(loss=0.3, duplicates=0.2, shuffle=True)
    async with service.device(camera=camera(), radio=radio) as device:
        await service.commands(device, capture_image=True)
        chunks: list[dict[str, Any]] = []
        while missing := sorted(set(range(10)) - {chunk["chunk_id"] for chunk in chunks}):
            await service.replies(device, FIRST, missing_chunks=missing)
            # Once this is answered, the reply is obeyed or being obeyed; and what is said last comes last.
            data = await heard_until_answer(service, device, interval=6)
            await device.wait_for(lambda device: not device.busy)
            data += await heard_until_answer(service, device, interval=7)
            chunks += [document for document in data if "chunk_id" in document]
        arrived = {chunk["chunk_id"]: content(chunk) for chunk in chunks}
        assert b"".join(arrived[number] for number in range(10)) == data_of(device, FIRST)
        assert len(chunks) == camera_of(device).chunks_sent
        assert len(chunks) > 10


@pytest.mark.parametrize(
    ("name", "fields", "complaint"),
    [
        (
            FIRST,
            {"ACK_OK": {"next_wake_time": "5:30PM"}},
            f"ACK_OK for '{FIRST}', of which 10 chunk(s) never left",
        ),
        ("x", {"ACK_OK": {"next_wake_time": "5:30PM"}}, "ACK_OK for 'x', which never was on the card"),
        (FIRST, {"ACK_OK": {"next_wake_time": "17:30"}}, "next_wake_time is '17:30'"),
        (FIRST, {"missing_chunks": ["1"]}, "missing_chunks is ['1']"),
        (FIRST, {"thanks": True}, "no answer that is known"),
    ],
)
async def test_it_complains_about_answers_that_break_the_protocol(
    service: Service, name: str, fields: dict[str, Any], complaint: str
) -> None:
    async with service.device(camera=camera()) as device:
        camera_of(device).take()
        await service.replies(device, name, **fields)
        await device.wait_for(lambda device: bool(device.complaints))
    assert device.complaints == [f"device/{MAC}/ack: {complaint}"]


async def test_chunks_can_be_sent_at_qos_0(service: Service) -> None:
    async with service.device(camera=camera(qos=0)) as device:
        await service.commands(device, capture_image=True)
        await service.hears_picture()
    assert service.data_qos == {0}
