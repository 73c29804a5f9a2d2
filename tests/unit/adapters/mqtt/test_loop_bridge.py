"""The way from paho's thread to the event loop."""

import asyncio
import threading

import pytest

from mqtt_service.adapters.mqtt.loop_bridge import LoopBridge


async def test_calls_from_another_thread_run_on_the_loop_in_order_even_when_one_fails() -> None:
    ran: list[int] = []
    faults: list[Exception] = []
    finished = asyncio.Event()
    bridge = LoopBridge(faults.append)

    def call(number: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        ran.append(number)
        if number == 3:
            raise ZeroDivisionError
        if number == 9:
            finished.set()

    def elsewhere() -> None:
        for number in range(10):
            bridge(lambda number=number: call(number))  # type: ignore[misc]  # mypy cannot type a default here

    await asyncio.to_thread(elsewhere)
    await asyncio.wait_for(finished.wait(), 10)
    assert ran == list(range(10))
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


def test_a_call_after_the_loop_has_closed_is_dropped() -> None:
    async def make() -> LoopBridge:
        return LoopBridge(lambda _: pytest.fail("nothing ran"))

    bridge = asyncio.run(make())
    bridge(lambda: pytest.fail("nothing runs"))
