"""Staying connected to a broker that restarts, freezes or goes, and leaving it."""

import asyncio
import gc
import logging
import time
import weakref
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from mqtt_service.adapters.mqtt import link as mqtt_link
from mqtt_service.adapters.mqtt.link import MqttLink
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.devstack.broker import Broker
from mqtt_service.errors import BrokerUnavailableError
from tests.integration.worker.mosquitto import HOST, Mosquitto, peer
from tests.integration.worker.mqtt_harness import (
    ACK,
    DEADLINE,
    SUBSCRIPTIONS,
    TOPIC,
    Inbox,
    at_once,
    eventually,
    options,
    paho_threads,
    running,
    scripted_broker,
)


async def test_a_restart_of_the_broker_is_survived(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, connected = Inbox(), 0

    def count() -> None:
        nonlocal connected
        connected += 1

    link = MqttLink(options(broker.port), SUBSCRIPTIONS, inbox, on_connected=count, sleep=at_once)
    task = asyncio.create_task(link.run())
    with caplog.at_level(logging.INFO):
        await eventually(lambda: link.connected, "the link is up")
        since = link.describe().since
        await broker.stop()
        await eventually(lambda: not link.connected, "the link is down")
        await broker.start()
        await eventually(lambda: link.connected, "the link is up again")
    async with peer(broker.port) as device:
        await device.publish(ACK, b"1")
        await inbox.has(b"1")
    assert connected == 2
    assert link.describe().last_error is None
    assert link.describe().since > since
    assert caplog.text.count(f"[MQTT] ✅ Connected to {HOST}:{broker.port}") == 2
    assert "did not keep our session" not in caplog.text
    await link.close()
    await asyncio.wait_for(task, DEADLINE)


async def test_a_session_that_the_broker_lost_is_told(
    broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(options(broker.port)) as link:
        await broker.kill()
        await eventually(lambda: not link.connected, "the link is down")
        (tmp_path / "mosquitto.db").unlink(missing_ok=True)
        await broker.start()
        await eventually(lambda: "did not keep our session" in caplog.text, "the lost session is logged")


async def test_an_idle_link_stays_up(broker: Mosquitto) -> None:
    async with running(options(broker.port, keepalive=1)) as link:
        assert link._connection is not None
        connection, before = link._connection, link._connection.last_received
        await eventually(lambda: connection.last_received > before + 1, "a pong")
        await eventually(lambda: connection.last_received > before + 2, "another pong")
        assert link._connections == 1


async def test_a_frozen_broker_is_noticed_and_left(broker: Mosquitto) -> None:
    async with running(options(broker.port, keepalive=1, connect_timeout=2.0)) as link:
        broker.freeze()
        await eventually(lambda: not link.connected, "the link is down")
        broker.thaw()
        await eventually(lambda: link.connected, "the link is up again")


async def test_a_connection_on_which_nothing_moves_is_made_anew(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # paho would send its ping after 30 s: half a second is silence enough for this test.
    monkeypatch.setattr(mqtt_link, "_MAX_SILENT_KEEPALIVES", 0.5 / 30)
    monkeypatch.setattr(mqtt_link, "_MIN_WAIT_FOR_PINGRESP", -29.5)
    async with running(options(broker.port)) as link:
        await eventually(lambda: link._connections > 1, "a second connection")
    assert "fell silent for" in caplog.text


async def test_an_exception_on_the_network_thread_is_told_and_the_link_made_anew(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("on paho's thread")

    inbox = Inbox()
    async with peer(broker.port) as device, running(options(broker.port), inbox) as link:
        link._connection._client._packet_read = breaks  # type: ignore[method-assign, union-attr]  # it is up
        await device.publish(ACK, b"1")
        await inbox.has(b"1")
        await eventually(lambda: link._connections == 2, "the second connection")
    assert "on paho's thread" in caplog.text


async def test_an_exception_at_what_the_broker_said_is_told_and_the_link_made_anew(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("on the event loop")

    inbox = Inbox()
    async with peer(broker.port) as device, running(options(broker.port), inbox) as link:
        link._connection._receive = breaks  # type: ignore[union-attr]  # it is up
        await device.publish(ACK, b"1")
        await inbox.has(b"1")
        await eventually(lambda: link._connections == 2, "the second connection")
    assert "on the event loop" in caplog.text


async def test_a_link_whose_id_another_client_takes_leaves_and_does_not_fight() -> None:
    """Scripted, since Mosquitto says so from 2.0.15 on only."""
    taken_over = "e0 02 8e 00"
    async with (
        scripted_broker("20 03 00 00 00", f"90 04 00 01 00 01 {taken_over}") as port,
        running(options(port), wait=False) as link,
    ):
        await asyncio.wait_for(link.taken_over.wait(), DEADLINE)
        with pytest.raises(BrokerUnavailableError, match="another client has connected"):
            await link.publish(TOPIC, b"{}", expiry_seconds=60)
        await eventually(lambda: not paho_threads("the-service"), "the network thread has ended")
        assert link._connections == 1


async def test_two_links_of_one_id_are_told_to_the_operator(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(options(broker.port)):
        namesake = MqttLink(options(broker.port), SUBSCRIPTIONS, Inbox(), sleep=at_once)
        task = asyncio.create_task(namesake.run())
        await eventually(lambda: "give each its own" in caplog.text, "the advice")
        task.cancel()
        await asyncio.wait({task})


async def test_closing_finishes_what_is_in_hand_and_keeps_the_session(broker: Mosquitto) -> None:
    written = asyncio.Event()

    async def writes(_message: InboundMessage) -> None:
        await written.wait()

    inbox, afterwards = Inbox(writes), Inbox()
    async with peer(broker.port) as device:
        async with running(options(broker.port), inbox) as link:
            await device.publish(ACK, b"1")
            await inbox.has(b"1")
            asyncio.get_running_loop().call_later(0.1, written.set)
            await asyncio.wait_for(link.close(), 2)
            assert not link.connected
        await device.publish(ACK, b"2")
        async with running(options(broker.port), afterwards):
            await afterwards.has(b"2")


async def test_closing_takes_no_longer_than_two_seconds_when_the_broker_is_frozen(broker: Mosquitto) -> None:
    async with running(options(broker.port)) as link:
        broker.freeze()
        started = time.monotonic()
        await link.close()
        assert time.monotonic() - started < 2.5


async def test_a_broker_of_mqtt_3_serves_too(tmp_path: Path) -> None:
    inbox = Inbox()
    v3 = MQTTProtocolVersion.MQTTv311
    async with Broker("amqtt", 0, tmp_path) as broker, peer(broker.port, TOPIC, protocol=v3) as device:
        await device.publish(ACK, b"old", retain=True)
        async with running(options(broker.port), inbox) as link:
            assert link.describe().protocol == "MQTT 3.1.1"
            assert not (await link.publish(TOPIC, b"{}", expiry_seconds=60)).no_subscriber
            await eventually(lambda: device.received, "the command")
            assert device.payloads == [b"{}"]
            await device.publish(ACK, b"1")
            await inbox.has(b"1")
            assert link._connections == 1


async def test_a_connection_that_ended_leaves_nothing_behind(broker: Mosquitto) -> None:
    """Without help of the garbage collector: a cycle would keep its sockets open until some later moment."""
    async with running(options(broker.port)) as link:
        assert link._connection is not None
        ended = weakref.ref(link._connection._client)
        gc.disable()
        try:
            link._connection.end(BrokerUnavailableError("the test ends it"))
            await eventually(lambda: link._connections > 1, "the next connection")
            await eventually(lambda: ended() is None, "the end of the client")
        finally:
            gc.enable()
