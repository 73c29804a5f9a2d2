"""The parts of the link that need no broker: backoff, order of acknowledgements, the way between threads."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.adapters.mqtt.client import HandOver
from mqtt_service.adapters.mqtt.inbound import AckOrder, Inbound
from mqtt_service.adapters.mqtt.link import reconnect_delay
from mqtt_service.adapters.mqtt.options import InboundMessage


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_pause_between_attempts_stays_between_a_moment_and_half_a_minute(
    failures: int, jitter: float
) -> None:
    assert 0.25 <= reconnect_delay(failures, jitter) <= 30.0


@given(st.integers(1, 30), st.floats(0, 1))
def test_the_pause_never_shrinks_as_failures_go_on(failures: int, jitter: float) -> None:
    assert reconnect_delay(failures, jitter) <= reconnect_delay(failures + 1, jitter)


def test_two_instances_do_not_come_back_at_the_same_moment() -> None:
    assert reconnect_delay(10, 0.0) < reconnect_delay(10, 1.0)


@given(st.permutations(range(8)))
def test_acknowledgements_leave_in_order_and_as_soon_as_they_may(handled: list[int]) -> None:
    sent: list[int] = []
    order = AckOrder(sent.append)
    places = [order.enter(mid) for mid in range(len(handled))]
    for count, index in enumerate(handled, start=1):
        order.handled(places[index])
        done = set(handled[:count])
        assert sent == [mid for mid in range(len(handled)) if set(range(mid + 1)) <= done]


async def test_calls_from_another_thread_run_on_the_loop_in_order_even_when_one_fails() -> None:
    ran: list[int] = []
    faults: list[Exception] = []
    finished = asyncio.Event()
    hand_over = HandOver(faults.append)

    def call(number: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        ran.append(number)
        if number == 3:
            raise ZeroDivisionError
        if number == 9:
            finished.set()

    def elsewhere() -> None:
        for number in range(10):
            hand_over(lambda number=number: call(number))  # type: ignore[misc]  # mypy cannot type a default here

    await asyncio.to_thread(elsewhere)
    await asyncio.wait_for(finished.wait(), 10)
    assert ran == list(range(10))
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


def test_a_call_after_the_loop_has_closed_is_dropped() -> None:
    async def make() -> HandOver:
        return HandOver(lambda _: pytest.fail("nothing ran"))

    hand_over = asyncio.run(make())
    hand_over(lambda: pytest.fail("nothing runs"))


@pytest.mark.parametrize(("remembered", "handled"), [(60.0, 1), (0.0, 2)])
async def test_a_repeat_is_known_for_as_long_as_its_acknowledgement_can_be_lost(
    remembered: float, handled: int
) -> None:
    """Some brokers use the lowest free packet id, so that the next message of these words has it again."""
    seen: list[InboundMessage] = []
    sent: list[int] = []

    async def handle(message: InboundMessage) -> None:
        seen.append(message)

    inbound = Inbound(handle, 10, asyncio.sleep, remembered=remembered)
    first = InboundMessage("device/a/ack", b"{}", 1, duplicate=False)
    for message in (first, replace(first, duplicate=True)):
        assert inbound.take(message, 1, AckOrder(sent.append))
        await inbound.drained(5)
    assert (len(seen), sent) == (handled, [1, 1])


async def test_a_message_that_is_not_handled_shows_for_how_long() -> None:
    release = asyncio.Event()

    async def handle(_: InboundMessage) -> None:
        await release.wait()

    inbound = Inbound(handle, 1, asyncio.sleep, remembered=60.0)
    for age in (5.0, 3.0):
        message = InboundMessage("device/a/ack", b"{}", 0, duplicate=False, heard_at=time.monotonic() - age)
        assert inbound.take(message, 0, AckOrder(lambda _: None))
    assert 5 <= inbound.longest_wait < 60
    release.set()
    await inbound.drained(5)
    assert inbound.longest_wait == 0.0
