"""The link against a real Mosquitto: what the service may rely on, connected or not."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from mqtt_service.adapters import mqtt_link
from mqtt_service.adapters.mqtt_link import InboundMessage, MqttLink, MqttOptions
from mqtt_service.devstack.broker import Broker
from mqtt_service.errors import BrokerUnavailableError, PermanentError, SupabaseUnavailableError
from tests.integration.worker.mosquitto import HOST, Mosquitto, peer
from tests.requirements import needs

DEADLINE = 20.0
TOPIC = "device/aabbccddeeff/cmd"
ACK = "device/aabbccddeeff/ack"
SUBSCRIPTIONS = ("device/+/ack",)

Handle = Callable[[InboundMessage], Awaitable[None]]


async def eventually(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not look():
        assert time.monotonic() < deadline, f"not seen in time: {what}"
        await asyncio.sleep(0.01)  # the pause between two looks


def options(port: int, **changes: Any) -> MqttOptions:
    return MqttOptions(**{"host": HOST, "port": port, "tls": False, "client_id": "the-service", **changes})


async def at_once(_seconds: float) -> None:
    """No pause between attempts, but a turn for everyone else."""
    await asyncio.sleep(0.01)


class Inbox:
    """A handler that keeps what it was given; `before` runs first and may raise or wait."""

    def __init__(self, before: Handle | None = None) -> None:
        self.messages: list[InboundMessage] = []
        self._before = before

    async def __call__(self, message: InboundMessage) -> None:
        self.messages.append(message)
        if self._before is not None:
            await self._before(message)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    async def has(self, *payloads: bytes) -> None:
        await eventually(lambda: len(self.messages) >= len(payloads), f"{len(payloads)} message(s)")
        assert self.payloads == list(payloads)


@asynccontextmanager
async def running(
    to: MqttOptions,
    handler: Handle | None = None,
    *,
    subscriptions: Sequence[str] = SUBSCRIPTIONS,
    sleep: Callable[[float], Awaitable[None]] = at_once,
    wait: bool = True,
) -> AsyncIterator[MqttLink]:
    """A link that runs; like a process that is killed, it takes no leave unless the test says so."""
    link = MqttLink(to, subscriptions, handler or Inbox(), sleep=sleep)
    task = asyncio.create_task(link.run())
    try:
        if wait:
            await eventually(lambda: link.connected, "the link is up")
        yield link
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await eventually(lambda: not paho_threads(to.client_id), "the network thread has ended")


def paho_threads(client_id: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"paho-mqtt-client-{client_id}"]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path) as mosquitto:
        yield mosquitto


pytestmark = needs("mosquitto")


# Publishing


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
        with pytest.raises(BrokerUnavailableError, match="nothing listens on 127.0.0.1:"):
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
        assert {type(outcome) for outcome in outcomes} == {BrokerUnavailableError}
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


async def test_the_brokers_receive_maximum_is_respected(tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path, "max_inflight_messages 3") as broker,
        running(options(broker.port)) as link,
    ):
        await asyncio.gather(*(link.publish(TOPIC, b"%d" % n, expiry_seconds=60) for n in range(200)))
        assert "Receive Maximum" not in (tmp_path / "mosquitto.log").read_text()

        sent: list[bytes] = []
        client = link._connection._client  # type: ignore[union-attr]  # it is up
        publish = client.publish
        client.publish = lambda *args, **kwargs: sent.append(args[1]) or publish(*args, **kwargs)  # type: ignore[func-returns-value, method-assign]
        broker.freeze()
        more = [asyncio.create_task(link.publish(TOPIC, b"%d" % n, expiry_seconds=60)) for n in range(20)]
        await asyncio.wait(more, timeout=0.2)
        assert sent == [b"0", b"1", b"2"]
        broker.thaw()
        await asyncio.wait_for(asyncio.gather(*more), DEADLINE)
        del client.publish


async def test_thousands_of_publishes_arrive_once_and_in_order(broker: Mosquitto) -> None:
    bodies = [b"%d" % n for n in range(3000)]
    async with peer(broker.port, TOPIC) as device, running(options(broker.port)) as link:
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


# Messages from devices


async def test_a_message_is_handled_and_then_acknowledged(broker: Mosquitto) -> None:
    inbox = Inbox()
    async with peer(broker.port) as device:
        async with running(options(broker.port), inbox):
            await device.publish(ACK, b"1")
            await inbox.has(b"1")
        again = Inbox()
        async with running(options(broker.port), again):
            await device.publish(ACK, b"2")
            await again.has(b"2")


async def test_what_devices_say_while_the_service_is_away_waits_for_it(broker: Mosquitto) -> None:
    async with peer(broker.port) as device:
        async with running(options(broker.port)):
            pass
        for body in (b"1", b"2"):
            await device.publish(ACK, body)
        inbox = Inbox()
        async with running(options(broker.port), inbox):
            await inbox.has(b"1", b"2")


async def test_a_message_in_hand_when_the_process_dies_is_delivered_again(broker: Mosquitto) -> None:
    async def never_returns(_message: InboundMessage) -> None:
        await asyncio.Event().wait()

    dying, inbox = Inbox(never_returns), Inbox()
    async with peer(broker.port) as device:
        async with running(options(broker.port), dying):
            await device.publish(ACK, b"1")
            await dying.has(b"1")
        async with running(options(broker.port), inbox):
            await inbox.has(b"1")
            assert inbox.messages[0].duplicate


async def test_a_message_that_cannot_be_written_yet_is_kept_until_it_can(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    async def away_for_a_while(_message: InboundMessage) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 6:
            raise SupabaseUnavailableError("the project is away; it is tried again")

    inbox = Inbox(away_for_a_while)
    async with peer(broker.port) as device, running(options(broker.port), inbox):
        await device.publish(ACK, b"1")
        await eventually(lambda: attempts == 7, "the attempt that succeeds")
        await device.publish(ACK, b"2")
        await eventually(lambda: attempts == 8, "the next message")
    assert inbox.payloads == [b"1"] * 7 + [b"2"]
    assert "kept and tried again: the project is away" in caplog.text


async def test_a_message_that_no_attempt_can_handle_is_given_up_loudly(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(message: InboundMessage) -> None:
        if message.payload == b"poison":
            raise ZeroDivisionError

    inbox, afterwards = Inbox(breaks), Inbox()
    async with peer(broker.port) as device:
        async with running(options(broker.port), inbox):
            await device.publish(ACK, b"poison")
            await eventually(lambda: "GIVEN UP" in caplog.text, "the error in the log")
            await device.publish(ACK, b"food")
            await eventually(lambda: b"food" in inbox.payloads, "the next message")
            assert inbox.payloads.count(b"poison") == 3
        async with running(options(broker.port), afterwards):
            await device.publish(ACK, b"more")
            await afterwards.has(b"more")


async def test_acknowledgements_leave_in_the_order_of_arrival(broker: Mosquitto) -> None:
    """So a message that is slow to write holds back the acknowledgement of those behind it, not their writing."""
    release = asyncio.Event()

    async def first_is_slow(message: InboundMessage) -> None:
        if message.payload == b"1":
            await release.wait()

    inbox, afterwards = Inbox(first_is_slow), Inbox()
    async with peer(broker.port) as device:
        async with running(options(broker.port), inbox):
            for body in (b"1", b"2"):
                await device.publish(ACK, body)
            await inbox.has(b"1", b"2")
        async with running(options(broker.port), afterwards):
            await afterwards.has(b"1", b"2")


async def test_more_than_the_service_can_hold_waits_in_the_broker(broker: Mosquitto) -> None:
    release, most, now = asyncio.Event(), 0, 0

    async def slow(_message: InboundMessage) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1

    inbox = Inbox(slow)
    async with (
        peer(broker.port) as device,
        running(options(broker.port, max_inbound=10), inbox) as link,
    ):
        for n in range(50):
            await device.publish(ACK, b"%d" % n)
        await eventually(lambda: len(inbox.messages) == 10, "as many as the service can hold")
        release.set()
        await eventually(lambda: len(inbox.messages) == 50, "all of them")
        assert inbox.payloads == [b"%d" % n for n in range(50)]
        assert most == 10
        assert link.connected


async def test_messages_at_qos_0_beyond_that_are_dropped_with_a_word(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    async def slow(_message: InboundMessage) -> None:
        await release.wait()

    inbox = Inbox(slow)
    async with (
        peer(broker.port) as device,
        running(options(broker.port, max_inbound=10), inbox) as link,
    ):
        for n in range(30):
            await device.publish(ACK, b"%d" % n, qos=0)
        await eventually(lambda: caplog.text.count("Dropped a message") == 20, "the rest is dropped")
        release.set()
        await device.publish(ACK, b"last", qos=0)
        await eventually(lambda: inbox.payloads[-1] == b"last", "a message after that")
        assert link.connected


async def test_the_service_does_not_hear_itself(broker: Mosquitto) -> None:
    inbox = Inbox()
    async with peer(broker.port) as device, running(options(broker.port), inbox) as link:
        await link.publish(ACK, b"own", expiry_seconds=60)
        await device.publish(ACK, b"device's")
        await inbox.has(b"device's")


async def test_a_retained_message_is_old_news(broker: Mosquitto) -> None:
    inbox = Inbox()
    async with peer(broker.port) as device:
        await device.publish(ACK, b"old", retain=True)
        async with running(options(broker.port), inbox):
            await device.publish(ACK, b"new")
            await inbox.has(b"new")


async def test_a_shared_subscription_is_accepted(broker: Mosquitto) -> None:
    inbox = Inbox()
    shared = ("$share/workers/device/+/ack",)
    async with peer(broker.port) as device, running(options(broker.port), inbox, subscriptions=shared):
        await device.publish(ACK, b"1")
        await inbox.has(b"1")


# Staying connected, and leaving


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
        await eventually(lambda: link.connected, "the link is up again")
    assert "did not keep our session" in caplog.text


async def test_an_idle_link_stays_up(broker: Mosquitto) -> None:
    async with running(options(broker.port, keepalive=1)) as link:
        before = link.last_progress
        await eventually(lambda: link.last_progress > before + 1, "a pong")
        await eventually(lambda: link.last_progress > before + 2, "another pong")
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
    monkeypatch.setattr(mqtt_link, "_SILENCE", 0.5 / 30)
    monkeypatch.setattr(mqtt_link, "_LEAST_SILENCE_AFTER_PING", -29.5)
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
        link._connection._client.on_message = breaks  # type: ignore[union-attr]  # it is up
        await device.publish(ACK, b"1")
        await inbox.has(b"1")
        assert link._connections == 2
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
        assert link._connections == 2
    assert "on the event loop" in caplog.text


async def test_a_link_whose_id_another_client_takes_leaves_and_does_not_fight(broker: Mosquitto) -> None:
    async with running(options(broker.port)) as old:
        new = MqttLink(options(broker.port), SUBSCRIPTIONS, Inbox(), sleep=at_once)
        task = asyncio.create_task(new.run())
        await asyncio.wait_for(old.taken_over.wait(), DEADLINE)
        await eventually(lambda: new.connected, "the successor is up")
        with pytest.raises(BrokerUnavailableError, match="another client has connected"):
            await old.publish(TOPIC, b"{}", expiry_seconds=60)
        await new.publish(TOPIC, b"{}", expiry_seconds=60)
        assert not new.taken_over.is_set()
        await new.close()
        await asyncio.wait_for(task, DEADLINE)


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


# The broker of the embedded stack


async def test_a_broker_of_mqtt_3_serves_too(tmp_path: Path) -> None:
    inbox = Inbox()
    v3 = MQTTProtocolVersion.MQTTv311
    async with Broker("amqtt", 0, tmp_path) as broker:
        async with peer(broker.port, TOPIC, protocol=v3) as device:
            await device.publish(ACK, b"old", retain=True)
            async with running(options(broker.port), inbox) as link:
                assert link.describe().protocol == "MQTT 3.1.1"
                assert not (await link.publish(TOPIC, b"{}", expiry_seconds=60)).no_subscriber
                await eventually(lambda: device.received, "the command")
                assert device.payloads == [b"{}"]
                await device.publish(ACK, b"1")
                await inbox.has(b"1")
                assert link._connections == 1
