"""What the receiver knows of the messages that it hands on; no broker needed."""

import asyncio
import time
from dataclasses import replace

import pytest

from mqtt_service.adapters.mqtt.ack_order import AckOrder
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.mqtt.receiver import Receiver


@pytest.mark.parametrize(("remember_for", "handled"), [(60.0, 1), (0.0, 2)])
async def test_a_repeat_is_known_for_as_long_as_its_acknowledgement_can_be_lost(
    remember_for: float, handled: int
) -> None:
    """Some brokers use the lowest free packet id, so that the next message of these words has it again."""
    seen: list[InboundMessage] = []
    sent: list[int] = []

    async def handle(message: InboundMessage) -> None:
        seen.append(message)

    receiver = Receiver(handle, 10, asyncio.sleep, remember_for=remember_for)
    first = InboundMessage("device/a/ack", b"{}", 1, duplicate=False)
    for message in (first, replace(first, duplicate=True)):
        assert receiver.receive(message, 1, AckOrder(sent.extend, lambda call: call()))
        await receiver.drained(5)
    assert (len(seen), sent) == (handled, [1, 1])


async def test_a_packet_id_that_a_chunk_had_meanwhile_no_longer_names_the_message_from_before() -> None:
    seen: list[str] = []

    async def handle(message: InboundMessage) -> None:
        seen.append(message.topic)

    receiver = Receiver(
        handle, 10, asyncio.sleep, remember_for=60.0, at_once=lambda message: message.topic.endswith("/data")
    )
    order = AckOrder(lambda _: None, lambda call: call())
    hello = InboundMessage("device/a/status", b"{}", 1, duplicate=False)
    chunk = InboundMessage("device/a/data", b"{}", 1, duplicate=False)
    for message in (hello, chunk, replace(hello, duplicate=True)):
        assert receiver.receive(message, 1, order)
        await receiver.drained(5)
    assert seen == ["device/a/status", "device/a/status"]


async def test_a_message_that_is_not_handled_shows_for_how_long() -> None:
    release = asyncio.Event()

    async def handle(_: InboundMessage) -> None:
        await release.wait()

    receiver = Receiver(handle, 1, asyncio.sleep, remember_for=60.0)
    for age in (5.0, 3.0):
        message = InboundMessage(
            "device/a/ack", b"{}", 0, duplicate=False, received_at=time.monotonic() - age
        )
        assert receiver.receive(message, 0, AckOrder(lambda _: None, lambda call: call()))
    assert 5 <= receiver.longest_wait < 60
    release.set()
    await receiver.drained(5)
    assert receiver.longest_wait == 0.0


async def test_what_needs_no_waiting_is_done_while_every_handler_waits() -> None:
    """A lane of its own: thousands of messages that are handled at once neither wait nor take a place."""
    release, begun, kept = asyncio.Event(), list[str](), list[bytes]()

    async def handle(message: InboundMessage) -> None:
        begun.append(message.topic)
        await release.wait()

    def at_once(message: InboundMessage) -> bool:
        if not message.topic.endswith("/data"):
            return False
        kept.append(message.payload)
        return True

    sent: list[int] = []
    order = AckOrder(sent.extend, lambda call: call())
    receiver = Receiver(handle, 2, asyncio.sleep, remember_for=60.0, at_once=at_once)

    def receive(topic: str, mid: int) -> None:
        assert receiver.receive(InboundMessage(topic, b"{}", 1, duplicate=False), mid, order)

    receive("device/a/status", 1)
    for mid in range(2, 2_000):
        receive("device/b/data", mid)
    receive("device/c/status", 2_000)
    await asyncio.sleep(0)
    assert (begun, len(kept)) == (["device/a/status", "device/c/status"], 1_998)
    assert sent == []  # in the order of arrival: the first message is not handled yet
    release.set()
    await receiver.drained(5)
    assert sent == list(range(1, 2_001))


async def test_a_fault_at_once_leaves_the_message_to_the_handler() -> None:
    handled: list[InboundMessage] = []

    async def handle(message: InboundMessage) -> None:
        handled.append(message)

    def at_once(_: InboundMessage) -> bool:
        raise ZeroDivisionError

    receiver = Receiver(handle, 2, asyncio.sleep, remember_for=60.0, at_once=at_once)
    message = InboundMessage("device/a/data", b"{}", 1, duplicate=False)
    assert receiver.receive(message, 1, AckOrder(lambda _: None, lambda call: call()))
    await receiver.drained(5)
    assert handled == [message]
