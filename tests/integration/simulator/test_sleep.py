"""The simulated device's wakes, over a real broker: a test plays the service's part."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mqtt_service.devstack.broker import Broker
from mqtt_service.errors import BrokerUnavailableError
from mqtt_service.simulator.radio import RadioOptions
from mqtt_service.simulator.wake import SleepOptions
from tests.integration.simulator.device_harness import QUICK, Service, camera

FIRST = "image_001.jpg"
# Asleep as soon as nothing is left to do; for as good as ever awake while there is.
AT_ONCE = SleepOptions(linger=0.0, settle=30.0, patience=30.0)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with Broker("auto", 0, tmp_path) as broker:
        service = Service(broker)
        async with service.link:
            yield service


async def test_it_sleeps_once_it_knows_when_to_wake_and_says_hello_when_it_wakes(service: Service) -> None:
    async with service.device(sleeps=QUICK) as device:
        for number in (1, 2):
            await service.hears("status")
            await service.commands(device, next_wake="5:30PM")
            wake = await device.asleep(5)
            assert wake.ended == "asleep"
            assert wake.heartbeats == 1
            assert wake.answer_seconds is not None
            assert wake.answer_seconds > 0
            assert len(device.wakes) == number
            if number == 1:
                await device.wake()
    assert device.complaints == []


async def test_a_sleeping_device_hears_nothing(service: Service) -> None:
    async with service.device(sleeps=QUICK) as device:
        await service.hears("status")
        await service.commands(device, next_wake="5:30PM")
        await device.asleep(5)
        await service.commands(device, reboot=True)
        await device.wake()
        await service.hears("status")
        await service.commands(device, next_wake="5:30PM")
        await device.asleep(5)
        assert [command.command_type for command in device.received] == ["set_wake_schedule"] * 2


async def test_a_device_that_is_awake_cannot_wake(service: Service) -> None:
    async with service.device() as device:
        with pytest.raises(RuntimeError, match="awake already"):
            await device.wake()


async def test_it_stays_awake_for_a_picture_that_is_not_confirmed_yet(service: Service) -> None:
    async with service.device(sleeps=AT_ONCE, camera=camera()) as device:
        await service.hears("status")
        await service.commands(device, capture_image=True)
        await service.hears_picture()
        await service.commands(device, next_wake="5:30PM")
        await service.hears("ack")
        await service.commands(device, interval=5)
        await service.hears("ack")
        assert device.wakes[-1].ended is None
        await service.confirms(device, FIRST)
        wake = await device.asleep(5)
    assert (wake.ended, wake.sent, wake.acknowledged) == ("asleep", [FIRST], [FIRST])


async def test_it_stays_awake_for_the_next_picture_it_said_is_pending(service: Service) -> None:
    device = service.device(sleeps=AT_ONCE, camera=camera())
    names = [device.camera.take().name for _ in range(2) if device.camera]
    async with device:
        await service.hears("status")
        for name in names:
            await service.commands(device, send_image=name)
            await service.hears_picture()
            await service.confirms(device, name)
        wake = await device.asleep(5)
    assert wake.acknowledged == names


async def test_a_picture_of_which_nothing_more_is_heard_stays_for_the_next_wake(service: Service) -> None:
    device = service.device(sleeps=SleepOptions(0.05, 0.3, 30), camera=camera())
    async with device:
        await service.hears("status")
        await service.commands(device, capture_image=True)
        await service.hears_picture()
        await service.commands(device, next_wake="5:30PM")
        assert (await device.asleep(5)).ended == "asleep"
        await device.wake()
        _, heartbeat = await service.hears("status")
    assert heartbeat["pending_list"] == [FIRST]


async def test_it_hangs_when_its_hello_is_not_answered(service: Service) -> None:
    async with service.device(sleeps=SleepOptions(patience=0.2)) as device:
        wake = await device.asleep(5)
        assert (wake.ended, wake.answered_at) == ("hung", None)
    assert device.complaints == ["hung awake: it waited in vain for any answer"]


async def test_it_hangs_when_it_is_not_told_when_to_wake(service: Service) -> None:
    async with service.device(sleeps=SleepOptions(patience=0.2)) as device:
        await service.commands(device, interval=5)
        assert (await device.asleep(5)).ended == "hung"
    assert device.complaints == ["hung awake: it waited in vain for its next wake time"]


async def test_a_hello_that_the_radio_lost_is_not_heard(service: Service) -> None:
    radio = RadioOptions(loss=1.0, scope="all")
    async with service.device(sleeps=SleepOptions(patience=0.2), radio=radio) as device:
        await device.asleep(5)
    async with service.device(device_id="other"):
        assert (await service.hears("status"))[1]["device_id"] == "other"


async def test_after_a_reboot_it_waits_to_be_told_again(service: Service) -> None:
    async with service.device(sleeps=SleepOptions(0.05, 0.05, 30)) as device:
        await service.hears("status")
        await service.commands(device, reboot=True)
        await service.hears("status")
        assert device.wakes[-1].ended is None
        await service.commands(device, next_wake="5:30PM")
        wake = await device.asleep(5)
    assert (wake.ended, wake.heartbeats) == ("asleep", 2)


async def test_a_wake_time_that_is_told_again_puts_it_to_sleep_again(service: Service) -> None:
    """The command of an earlier wake is published once more, since its acknowledgement did not arrive."""
    async with service.device(sleeps=QUICK) as device:
        for number in range(2):
            await service.hears("status")
            fields = {"device_id": device.options.device_id, "command_id": "c1", "next_wake": "5:30PM"}
            await service.says(device.topic("cmd"), **fields)
            assert (await device.asleep(5)).ended == "asleep"
            if number == 0:
                await device.wake()
    assert [command.duplicate for command in device.received] == [False, True]


async def test_a_wake_without_a_broker_is_none(service: Service) -> None:
    async with service.device(sleeps=QUICK) as device:
        await service.hears("status")
        await service.commands(device, next_wake="5:30PM")
        await device.asleep(5)
        await service.broker.stop()
        with pytest.raises(BrokerUnavailableError):
            await device.wake()
        assert len(device.wakes) == 1
        await service.broker.start()
        await device.wake()
        await device.wait_for(lambda device: device.wakes[-1].heartbeats == 1)
