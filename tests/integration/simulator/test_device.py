"""The simulated device, over a real broker: a test plays the service's part."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mqtt_service.devstack.broker import Broker
from mqtt_service.errors import BrokerUnavailableError
from mqtt_service.simulator.device import AckForm, DeviceOptions, SimulatedDevice
from tests.integration.simulator.device_harness import MAC, Service

COMMANDS: dict[str, dict[str, Any]] = {
    "capture_image": {"capture_image": True},
    "send_image": {"send_image": "image_001.jpg"},
    "set_wake_schedule": {"next_wake": "5:30PM"},
    "update_config": {"interval": 5},
    "reboot": {"reboot": True},
    "update_firmware": {"firmware_url": "https://example.test/1.bin", "version": "2"},
}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with Broker("auto", 0, tmp_path) as broker:
        service = Service(broker)
        async with service.link:
            yield service


async def test_it_says_hello_when_it_connects(service: Service) -> None:
    async with service.device(pending_images=("a.jpg",)):
        topic, heartbeat = await service.hears("status")
    assert topic == f"device/{MAC}/status"
    assert heartbeat["device_id"] == MAC
    assert heartbeat["status"] == "alive"
    assert (heartbeat["pendingImg"], heartbeat["pending_list"]) == (1, ["a.jpg"])


async def test_its_readings_follow_from_the_seed(service: Service) -> None:
    heartbeats = []
    for _ in range(2):
        async with service.device():
            heartbeats.append((await service.hears("status"))[1])
    assert heartbeats[0] == heartbeats[1]


@pytest.mark.parametrize(("name", "fields"), COMMANDS.items())
async def test_it_obeys_and_acknowledges_each_command(
    service: Service, name: str, fields: dict[str, Any]
) -> None:
    async with service.device() as device:
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", **fields)
        _, ack = await service.hears("ack")
        (command,) = device.received
    assert ack == {"device_id": MAC, "command_id": "c1", "command_ack": "acknowledged"}
    assert (command.command_type, command.command_id, command.duplicate) == (name, "c1", False)
    assert device.complaints == []


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("plain", {"command_ack": "acknowledged"}),
        ("typed", {"command_ack": {"type": "reboot", "status": "success", "message": "done"}}),
        ("by_id", {"command_id": "c1", "command_ack": "acknowledged"}),
    ],
)
async def test_it_acknowledges_in_the_form_asked_for(
    service: Service, form: AckForm, expected: dict[str, Any]
) -> None:
    async with service.device(ack_form=form):
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", reboot=True)
        _, ack = await service.hears("ack")
    assert ack == {"device_id": MAC, **expected}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("plain", {"command_ack": "failed", "reason": "simulated: failed"}),
        (
            "typed",
            {"command_ack": {"type": "capture_image", "status": "failed", "message": "simulated: failed"}},
        ),
        ("by_id", {"command_id": "c1", "command_ack": "failed", "reason": "simulated: failed"}),
    ],
)
async def test_it_says_so_when_it_is_told_to_fail(
    service: Service, form: AckForm, expected: dict[str, Any]
) -> None:
    async with service.device(ack_form=form, answers={"capture_image": "failed"}):
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", capture_image=True)
        _, ack = await service.hears("ack")
    assert ack == {"device_id": MAC, **expected}


async def test_it_ignores_what_it_is_told_to_ignore_and_answers_the_rest(service: Service) -> None:
    async with service.device(answers={"capture_image": "none"}) as device:
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", capture_image=True)
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c2", reboot=True)
        _, ack = await service.hears("ack")
        assert ack["command_id"] == "c2"
        assert [command.command_id for command in device.received] == ["c1", "c2"]


async def test_a_command_that_comes_twice_is_obeyed_once_and_acknowledged_twice(service: Service) -> None:
    async with service.device() as device:
        for _ in range(2):
            await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", reboot=True)
        acks = [(await service.hears("ack"))[1] for _ in range(2)]
    assert acks[0] == acks[1]
    assert [command.duplicate for command in device.received] == [False, True]


async def test_a_command_that_failed_is_tried_again_when_it_comes_again(service: Service) -> None:
    async with service.device(answers={"reboot": "failed"}) as device:
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", reboot=True)
        assert (await service.hears("ack"))[1]["command_ack"] == "failed"
        device.answers.clear()
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", reboot=True)
        assert (await service.hears("ack"))[1]["command_ack"] == "acknowledged"
    assert [command.duplicate for command in device.received] == [False, False]


async def test_the_other_root_and_spelling_are_its_own(service: Service) -> None:
    async with service.device(root="ESP32CAM", device_id="aabbccddee01") as device:
        await service.says("ESP32CAM/aabbccddee01/cmd", device_id=MAC, command_id="c1", reboot=True)
        topic, ack = await service.hears("ack")
    assert topic == "ESP32CAM/aabbccddee01/ack"
    assert ack["device_id"] == "aabbccddee01"
    assert device.complaints == []


async def test_a_wake_time_is_remembered(service: Service) -> None:
    async with service.device() as device:
        await service.says(f"device/{MAC}/cmd", device_id=MAC, next_wake="12:00AM")
        await device.wait_for(lambda device: device.next_wake == "12:00AM")
    assert device.complaints == []


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"device_id": MAC, "reboot": True}, "no command_id"),
        ({"device_id": "other", "command_id": "c1", "reboot": True}, "device_id is 'other'"),
        ({"device_id": MAC, "command_id": "c1", "next_wake": "17:30"}, "next_wake is '17:30'"),
    ],
)
async def test_it_complains_about_what_breaks_the_protocol(
    service: Service, fields: dict[str, Any], complaint: str
) -> None:
    async with service.device() as device:
        await service.says(f"device/{MAC}/cmd", **fields)
        await device.wait_for(lambda device: len(device.received) == 1)
    assert device.complaints == [f"device/{MAC}/cmd: {complaint}"]


async def test_after_a_lost_connection_it_says_hello_again(service: Service) -> None:
    async with service.device() as device:
        await service.hears("status")
        device.lose_connection()
        await service.hears("status")
        await service.says(f"device/{MAC}/cmd", device_id=MAC, command_id="c1", reboot=True)
        assert (await service.hears("ack"))[1]["command_id"] == "c1"


async def test_without_a_broker_it_says_where_it_looked(tmp_path: Path) -> None:
    async with Broker("auto", 0, tmp_path) as broker:
        port = broker.port
    device = SimulatedDevice(DeviceOptions(MAC), "127.0.0.1", port, rng=Random(1))
    with pytest.raises(BrokerUnavailableError, match=f"127.0.0.1:{port}"):
        await device.__aenter__()
