"""Publishing: it returns when the broker has the message, else says why; it is never repeated by itself."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mqtt_service.errors import BrokerUnavailableError, OutcomeUnknownError, PermanentError
from tests.integration.worker.mosquitto import Mosquitto, peer
from tests.integration.worker.mqtt_harness import (
    DEADLINE,
    TOPIC,
    eventually,
    options,
    running,
)


async def test_a_publish_returns_when_the_broker_has_it(broker: Mosquitto) -> None:
    async with peer(broker.port, TOPIC) as device, running(options(broker.port)) as link:
        result = await link.publish(TOPIC, b"{}", expiry_seconds=60)
        assert not result.no_subscriber
        await eventually(lambda: device.received, "the message")
        (message,) = device.received
        assert (message.payload, message.qos, message.retain) == (b"{}", 1, False)
        assert 1 <= message.properties.MessageExpiryInterval <= 60  # type: ignore[union-attr]  # MQTT 5 sets them


async def test_a_publish_says_that_nobody_listens(broker: Mosquitto) -> None:
    async with running(options(broker.port)) as link:
        assert (await link.publish(TOPIC, b"{}", expiry_seconds=None)).no_subscriber


async def test_a_publish_while_offline_fails_at_once_and_says_why(broker: Mosquitto) -> None:
    await broker.kill()
    async with running(options(broker.port), wait=False) as link:
        await eventually(lambda: link.describe().last_error, "the failed attempt")
        with pytest.raises(BrokerUnavailableError, match=r"nothing listens on 127\.0\.0\.1:"):
            await link.publish(TOPIC, b"{}", expiry_seconds=60)


async def test_what_was_pending_when_the_broker_died_fails_and_is_never_sent_again(broker: Mosquitto) -> None:
    reconnect = asyncio.Event()

    async def when_told(_seconds: float) -> None:
        await reconnect.wait()

    async with running(options(broker.port), sleep=when_told) as link:
        broker.freeze()
        pending = [asyncio.create_task(link.publish(TOPIC, b"old", expiry_seconds=60)) for _ in range(150)]
        await asyncio.sleep(0)
        await broker.kill()
        outcomes = await asyncio.wait_for(asyncio.gather(*pending, return_exceptions=True), DEADLINE)
        # Those beyond the broker's window were never sent.
        assert {type(outcome) for outcome in outcomes} == {BrokerUnavailableError, OutcomeUnknownError}
        assert not link.connected

        await broker.start()
        async with peer(broker.port, TOPIC) as device:
            reconnect.set()
            await eventually(lambda: link.connected, "the link is up again")
            await link.publish(TOPIC, b"new", expiry_seconds=60)
            await eventually(lambda: device.received, "the new message")
            assert device.payloads == [b"new"]


async def test_a_broker_that_sends_no_puback_is_left(broker: Mosquitto) -> None:
    async with running(options(broker.port, puback_timeout=0.2, connect_timeout=2.0)) as link:
        broker.freeze()
        with pytest.raises(BrokerUnavailableError, match="sent no PUBACK"):
            await link.publish(TOPIC, b"{}", expiry_seconds=60)
        assert not link.connected
        broker.thaw()
        await eventually(lambda: link.connected, "the link is up again")
        await link.publish(TOPIC, b"{}", expiry_seconds=60)


async def test_a_caller_that_gave_up_keeps_its_slot_until_the_puback(broker: Mosquitto) -> None:
    async with running(options(broker.port, max_in_flight=1)) as link:
        broker.freeze()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.publish(TOPIC, b"given up", expiry_seconds=60), 0.05)
        second = asyncio.create_task(link.publish(TOPIC, b"second", expiry_seconds=60))
        done, _ = await asyncio.wait({second}, timeout=0.05)
        assert not done
        broker.thaw()
        await asyncio.wait_for(second, DEADLINE)


async def test_a_puback_may_come_before_the_publish_has_returned_its_id(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(options(broker.port)) as link:
        client = link._connection._client  # type: ignore[union-attr]  # it is up
        publish = client.publish

        def slow(*args: Any, **kwargs: Any) -> Any:
            info = publish(*args, **kwargs)
            info.wait_for_publish(DEADLINE)
            return info

        monkeypatch.setattr(client, "publish", slow)
        await asyncio.wait_for(link.publish(TOPIC, b"{}", expiry_seconds=60), DEADLINE)


async def test_the_brokers_receive_maximum_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Mosquitto(tmp_path, "max_inflight_messages 3") as broker,
        running(options(broker.port)) as link,
    ):
        await asyncio.gather(*(link.publish(TOPIC, b"%d" % n, expiry_seconds=60) for n in range(200)))
        assert "Receive Maximum" not in (tmp_path / "mosquitto.log").read_text()

        sent: list[bytes] = []
        client = link._connection._client  # type: ignore[union-attr]  # it is up
        publish = client.publish

        def noted(topic: str, payload: bytes, **kwargs: Any) -> Any:
            sent.append(payload)
            return publish(topic, payload, **kwargs)

        monkeypatch.setattr(client, "publish", noted)
        broker.freeze()
        more = [asyncio.create_task(link.publish(TOPIC, b"%d" % n, expiry_seconds=60)) for n in range(20)]
        await asyncio.wait(more, timeout=0.2)
        assert sent == [b"0", b"1", b"2"]
        broker.thaw()
        await asyncio.wait_for(asyncio.gather(*more), DEADLINE)


async def test_thousands_of_publishes_arrive_once_and_in_order(tmp_path: Path) -> None:
    bodies = [b"%d" % n for n in range(3000)]
    async with (
        Mosquitto(tmp_path, "max_queued_messages 0") as broker,  # the test reads more slowly than this
        peer(broker.port, TOPIC) as device,
        running(options(broker.port)) as link,
    ):
        await asyncio.gather(*(link.publish(TOPIC, body, expiry_seconds=60) for body in bodies))
        await eventually(lambda: len(device.received) >= len(bodies), "all messages")
        assert device.payloads == bodies


async def test_a_message_larger_than_the_broker_takes_fails_alone(tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path, "max_packet_size 2000") as broker,
        running(options(broker.port)) as link,
    ):
        with pytest.raises(PermanentError, match="the broker takes 2000"):
            await link.publish(TOPIC, b"x" * 2000, expiry_seconds=60)
        await link.publish(TOPIC, b"x" * 1900, expiry_seconds=60)


async def test_a_topic_that_mqtt_forbids_fails_alone(broker: Mosquitto) -> None:
    async with running(options(broker.port)) as link:
        with pytest.raises(PermanentError, match="nothing can be published"):
            await link.publish("device/+/cmd", b"{}", expiry_seconds=60)
        await link.publish(TOPIC, b"{}", expiry_seconds=60)


async def test_a_topic_that_the_broker_forbids_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "acl").write_text("topic readwrite device/#\n")
    async with (
        Mosquitto(tmp_path, f"acl_file {tmp_path}/acl") as broker,
        running(options(broker.port)) as link,
    ):
        with pytest.raises(PermanentError, match="does not let us publish on ESP32CAM/x/cmd"):
            await link.publish("ESP32CAM/x/cmd", b"{}", expiry_seconds=60)
        await link.publish(TOPIC, b"{}", expiry_seconds=60)
