"""Messages from devices: handled first, acknowledged to the broker after that, and never lost in between."""

import asyncio
import time
from pathlib import Path

import pytest

from mqtt_service.adapters.mqtt.link import MqttLink
from mqtt_service.adapters.mqtt.messages import AtOnce, InboundMessage
from mqtt_service.errors import SupabaseUnavailableError
from tests.integration.worker.mosquitto import Mosquitto, peer
from tests.integration.worker.mqtt_harness import (
    ACK,
    DEADLINE,
    Inbox,
    eventually,
    options,
    running,
)


async def test_a_message_is_handled_and_then_acknowledged(broker: Mosquitto) -> None:
    inbox = Inbox()
    async with peer(broker.port) as device:
        async with running(options(broker.port), inbox) as link:
            await device.publish(ACK, b"1")
            await inbox.has(b"1")
            await link.close()
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


async def test_a_message_whose_acknowledgement_was_lost_is_handled_once(broker: Mosquitto) -> None:
    """Fails where `Inbound` does not note what it handled, by packet id."""
    inbox = Inbox()
    async with peer(broker.port) as device:
        async with running(options(broker.port), inbox) as link:
            before = link._connection
            assert before is not None
            before.order._send = lambda _mid: None  # written, and lost on the way
            for body in (b"same", b"same", b"other"):
                await device.publish(ACK, body)
            await inbox.has(b"same", b"same", b"other")
            before._client.abort()
            await eventually(lambda: link.connected and link._connection is not before, "the next connection")
            await device.publish(ACK, b"same")
            await inbox.has(b"same", b"same", b"other", b"same")
            assert not inbox.messages[-1].duplicate
            await link.close()
        again = Inbox()
        async with running(options(broker.port), again):
            await device.publish(ACK, b"last")
            await again.has(b"last")


async def test_a_packet_id_names_a_message_once_the_broker_counts_beyond_those_that_are_handled_at_a_time(
    broker: Mosquitto,
) -> None:
    inbox = Inbox()
    async with peer(broker.port) as device, running(options(broker.port, max_inbound=3), inbox):
        for n in range(6):
            await device.publish(ACK, b"%d" % n)
            await inbox.has(*(b"%d" % earlier for earlier in range(n + 1)))
    assert [message.packet_id for message in inbox.messages] == [None, None, None, 4, 5, 6]


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
        async with running(options(broker.port), inbox) as link:
            await device.publish(ACK, b"poison")
            await eventually(lambda: "GIVEN UP" in caplog.text, "the error in the log")
            await device.publish(ACK, b"food")
            await eventually(lambda: b"food" in inbox.payloads, "the next message")
            assert inbox.payloads.count(b"poison") == 3
            await link.close()
        async with running(options(broker.port), afterwards):
            await device.publish(ACK, b"more")
            await afterwards.has(b"more")


async def test_acknowledgements_leave_in_the_order_of_arrival(broker: Mosquitto) -> None:
    """A message that is slow to write holds back the acknowledgements behind it, but not the writing."""
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
        try:
            await release.wait()
        finally:
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
        await eventually(lambda: len(inbox.messages) >= 50, "all of them")
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
        for n in range(240):  # 10 in hand, 200 that wait, and the rest
            await device.publish(ACK, b"%d" % n, qos=0)
        await device.publish(ACK, b"at QoS 1", qos=1)
        await eventually(lambda: not link.connected, "no room for what must not be dropped")
        assert caplog.text.count("Dropped a message") == 1
        release.set()
        await eventually(lambda: link.connected and b"at QoS 1" in inbox.payloads, "it is delivered again")
        assert inbox.payloads == [b"%d" % n for n in range(210)] + [b"at QoS 1"]


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


async def test_a_hello_behind_thousands_of_chunks_is_handled_before_they_are_worked_off(
    tmp_path: Path,
) -> None:
    """Chunks wait for no handler and no handler waits for them, whatever a chunk costs."""
    chunks, kept, before_hello = 3_000, 0, list[int]()

    async def handle(_message: InboundMessage) -> None:
        before_hello.append(kept)

    def keep(_message: InboundMessage) -> AtOnce:
        nonlocal kept
        kept += 1
        spent_at = time.perf_counter() + 0.000_5
        while time.perf_counter() < spent_at:
            pass
        return AtOnce.HANDLED

    topics = ("device/+/status", "device/+/data")
    async with Mosquitto(tmp_path, "max_queued_messages 0") as broker:
        link = MqttLink(options(broker.port), topics, handle, at_once=keep)
        task = asyncio.create_task(link.run())
        await eventually(lambda: link.connected, "the link is up")
        async with peer(broker.port) as device:
            for _ in range(chunks):
                device.client.publish("device/two/data", b"x" * 1_400, qos=1)
            await device.publish("device/three/status", b"{}")
            await eventually(lambda: before_hello, "the HELLO is handled")
            assert before_hello[0] < chunks
            await eventually(lambda: kept == chunks, "all chunks are taken")
        await link.close()
        await asyncio.wait_for(task, DEADLINE)


async def test_a_full_buffer_withholds_acknowledgements_until_it_has_room(broker: Mosquitto) -> None:
    """The broker then keeps what it has no acknowledgement for, HELLOs go on, and nothing is lost."""
    room, kept = 5, list[bytes]()
    inbox = Inbox()

    def keep(message: InboundMessage) -> AtOnce:
        if len(kept) >= room:
            return AtOnce.NO_ROOM
        kept.append(message.payload)
        return AtOnce.HANDLED

    topics = ("device/+/status", "device/+/data")
    link = MqttLink(options(broker.port), topics, inbox, at_once=keep)
    task = asyncio.create_task(link.run())
    await eventually(lambda: link.connected, "the link is up")
    async with peer(broker.port) as device:
        for n in range(50):
            await device.publish("device/two/data", b"%d" % n)
        await device.publish("device/three/status", b"HELLO")
        await inbox.has(b"HELLO")
        assert len(kept) == room
    await link.close()  # unacknowledged: they come again
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    room = 100
    link = MqttLink(options(broker.port), topics, inbox, at_once=keep)
    task = asyncio.create_task(link.run())
    await eventually(lambda: len(kept) == 50, "the rest, delivered again")
    assert kept == [b"%d" % n for n in range(50)]
    await link.close()
    await asyncio.wait_for(task, DEADLINE)
