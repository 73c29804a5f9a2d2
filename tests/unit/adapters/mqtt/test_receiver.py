"""What the receiver knows of the messages that it hands on; no broker needed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mqtt_service.adapters.mqtt.ack_order import AckOrder
from mqtt_service.adapters.mqtt.messages import AtOnce, InboundMessage
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

    receiver = Receiver(handle, 10, asyncio.sleep, remember_for=60.0, at_once=lambda message: AtOnce.HANDLED)
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


class _Lanes:
    """A receiver whose handler notes what it gets and waits, and whose buffer of chunks has so much room."""

    def __init__(self, room: int, limit: int = 10) -> None:
        self.release = asyncio.Event()
        self.seen: list[str] = []
        self.room = room
        self.looks = 0
        self.acknowledged: list[int] = []
        self.order = AckOrder(self.acknowledged.extend, lambda call: call())
        self.receiver = Receiver(
            self._handle,
            limit,
            asyncio.sleep,
            remember_for=60.0,
            at_once=self._handle_at_once,
            window=10,
        )

    def receive(self, topic: str, mid: int, payload: bytes = b"{}") -> bool:
        message = InboundMessage(topic, payload, 1, duplicate=False)
        return self.receiver.receive(message, mid, self.order)

    async def until(self, look: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not look():  # noqa: ASYNC110 - a turn for the receiver
                await asyncio.sleep(0.001)

    async def _handle(self, message: InboundMessage) -> None:
        self.seen.append(message.topic)
        await self.release.wait()

    def _handle_at_once(self, message: InboundMessage) -> AtOnce:
        self.looks += 1
        if self.room == 0:
            return AtOnce.NO_ROOM
        self.room -= 1
        self.seen.append(message.topic)
        return AtOnce.HANDLED


async def test_a_hello_goes_before_thousands_of_chunks_that_came_before_it() -> None:
    lanes = _Lanes(room=5_000)
    for mid in range(1, 3_001):
        assert lanes.receive("device/b/data", mid)
    assert lanes.receive("device/a/status", 3_001)
    await lanes.until(lambda: "device/a/status" in lanes.seen)
    assert lanes.seen.index("device/a/status") < 3_000
    await lanes.until(lambda: len(lanes.seen) == 3_001)
    assert lanes.acknowledged == list(range(1, 3_001))  # in the order of arrival: the HELLO comes last
    lanes.release.set()
    await lanes.until(lambda: lanes.acknowledged == list(range(1, 3_002)))


async def test_chunks_are_taken_while_every_handler_waits() -> None:
    lanes = _Lanes(room=5_000, limit=2)
    assert lanes.receive("device/a/status", 1)
    for mid in range(2, 2_000):
        assert lanes.receive("device/b/data", mid)
    assert lanes.receive("device/c/status", 2_000)
    await lanes.until(lambda: len(lanes.seen) == 2_000)
    assert lanes.acknowledged == []  # in the order of arrival: the first message is not handled yet
    lanes.release.set()
    await lanes.until(lambda: lanes.acknowledged == list(range(1, 2_001)))


async def test_a_full_buffer_withholds_acknowledgements_and_loses_nothing() -> None:
    lanes = _Lanes(room=3)
    for mid in range(1, 6):
        assert lanes.receive("device/b/data", mid, b"%d" % mid)
    assert lanes.receive("device/a/status", 6)
    await lanes.until(lambda: "device/a/status" in lanes.seen and lanes.room == 0)
    assert lanes.acknowledged == [1, 2, 3]
    lanes.room = 100
    lanes.release.set()
    await lanes.until(lambda: lanes.acknowledged == [1, 2, 3, 4, 5, 6])
    assert lanes.seen.count("device/b/data") == 5


async def test_more_than_half_a_window_of_chunks_without_room_is_left_to_the_handler() -> None:
    """Behind a full window the broker holds back HELLOs as well."""
    lanes = _Lanes(room=0)
    lanes.release.set()
    for mid in range(1, 9):
        assert lanes.receive("device/b/data", mid)
    await lanes.until(lambda: lanes.acknowledged == [1, 2, 3])
    assert lanes.seen == ["device/b/data"] * 3


async def test_what_a_connection_that_ended_left_in_the_lane_is_left_to_the_broker() -> None:
    lanes = _Lanes(room=0)
    assert lanes.receive("device/b/data", 1)
    lanes.receiver.forget(lanes.order)
    lanes.room = 100
    assert lanes.receive("device/c/data", 2)
    await lanes.until(lambda: lanes.seen == ["device/c/data"])


async def test_a_wait_for_room_before_a_reconnect_does_not_count_against_what_comes_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lanes = _Lanes(room=0)
    now = 100.0
    monkeypatch.setattr("mqtt_service.adapters.mqtt.bulk_lane.time", SimpleNamespace(monotonic=lambda: now))
    assert lanes.receive("device/b/data", 1)
    await lanes.until(lambda: lanes.looks >= 1)
    lanes.receiver.forget(lanes.order)
    now += 60
    assert lanes.receive("device/c/data", 2)
    await lanes.until(lambda: lanes.looks >= 3)
    assert lanes.seen == []  # not left to the handler, which would refuse it
    lanes.room = 1
    await lanes.until(lambda: lanes.seen == ["device/c/data"])


async def test_a_fault_at_once_leaves_the_message_to_the_handler() -> None:
    handled: list[InboundMessage] = []
    received = asyncio.Event()

    async def handle(message: InboundMessage) -> None:
        handled.append(message)
        received.set()

    def at_once(_: InboundMessage) -> AtOnce:
        raise ZeroDivisionError

    receiver = Receiver(handle, 2, asyncio.sleep, remember_for=60.0, at_once=at_once)
    message = InboundMessage("device/a/data", b"{}", 1, duplicate=False)
    assert receiver.receive(message, 1, AckOrder(lambda _: None, lambda call: call()))
    await asyncio.wait_for(received.wait(), 10)
    assert handled == [message]
