"""The hand-over to an edge function: order, back-pressure, drops, and what is given up."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mqtt_service import backoff
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.supabase.edge_function import EdgeFunction
from mqtt_service.devices.handover import Handover
from mqtt_service.errors import PermanentError, SupabaseUnavailableError
from mqtt_service.metrics import REGISTRY

CALLS = 8
ATTEMPTS = 8


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.0001)


class Function(EdgeFunction):
    """Takes what it is given; each message named in `faults` meets those first, and all wait while `shut`."""

    def __init__(
        self, faults: Mapping[str, Sequence[Exception]] | None = None, *, shut: bool = False
    ) -> None:
        self.began: list[tuple[str, str]] = []
        self.taken: list[tuple[str, str]] = []
        self.most_at_once = 0
        self.gate = asyncio.Event()
        if not shut:
            self.gate.set()
        self._faults = {payload: list(met) for payload, met in (faults or {}).items()}
        self._at_once = 0

    async def hand_over(self, topic: str, payload: bytes) -> None:
        said = (topic, payload.decode())
        self.began.append(said)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self._at_once -= 1
        if self._faults.get(said[1]):
            raise self._faults[said[1]].pop(0)
        self.taken.append(said)


def said(payload: str, device: str = "d1") -> InboundMessage:
    return InboundMessage(f"device/{device}/status", payload.encode(), 1, duplicate=False)


def texts(of: Sequence[tuple[str, str]]) -> list[str]:
    return [payload for _, payload in of]


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("mqtt_service_handover_total", {"outcome": outcome}) or 0.0


async def until(look: Callable[[], object]) -> None:
    """Give everyone else a turn until this holds."""
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


@asynccontextmanager
async def running(function: Function, mode: Any, limit: int = 100, **more: Any) -> AsyncIterator[Handover]:
    handover = Handover(function, mode=mode, limit=limit, **more)
    task = asyncio.create_task(handover.run())
    try:
        async with asyncio.timeout(20):
            yield handover
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_a_device_said_arrives_in_its_order_in_spite_of_faults() -> None:
    away = SupabaseUnavailableError("away")
    function = Function({"2": [away, away], "5": [away]})
    async with running(function, "also") as handover:
        for number in range(10):
            await handover.submit(said(str(number)))
        await handover.drained()
    assert texts(function.taken) == [str(number) for number in range(10)]


async def test_all_spellings_and_roots_of_a_device_are_one_order() -> None:
    function = Function(shut=True)
    topics = ["device/aa:bb:cc:dd:ee:ff/status", "ESP32CAM/AABBCCDDEEFF/data", "device/AABBCCDDEEFF/status"]
    async with running(function, "also") as handover:
        for topic in topics:
            await handover.submit(InboundMessage(topic, b"x", 1, duplicate=False))
        await until(lambda: function.began)
        await asyncio.sleep(0)
        assert len(function.began) == 1
        function.gate.set()
        await handover.drained()
    assert [topic for topic, _ in function.taken] == topics


async def test_several_devices_are_served_side_by_side_but_not_without_bound() -> None:
    function = Function(shut=True)
    async with running(function, "also") as handover:
        for number in range(3 * CALLS):
            await handover.submit(said("heartbeat", f"d{number}"))
        await until(lambda: len(function.began) >= CALLS)
        function.gate.set()
        await handover.drained()
    assert function.most_at_once == CALLS
    assert len(function.taken) == 3 * CALLS


async def test_devices_whose_messages_are_tried_again_hold_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 3600.0)
    function = Function({"bad": [SupabaseUnavailableError("away")] * 2 * CALLS})
    async with running(function, "also") as handover:
        for number in range(2 * CALLS):
            await handover.submit(said("bad", f"d{number}"))
        await until(lambda: len(function.began) == 2 * CALLS)
        await handover.submit(said("good", "another"))
        await until(lambda: function.taken)
    assert texts(function.taken) == ["good"]


async def test_in_mode_only_the_caller_learns_when_the_function_has_the_message() -> None:
    function = Function(shut=True)
    async with running(function, "only") as handover:
        submission = asyncio.create_task(handover.submit(said("heartbeat")))
        await until(lambda: function.began)
        assert not submission.done()
        function.gate.set()
        await submission
        assert texts(function.taken) == ["heartbeat"]
        await handover.drained()


async def test_in_mode_only_a_full_buffer_holds_callers_back_in_their_order() -> None:
    function = Function(shut=True)
    async with running(function, "only", limit=2) as handover:
        submissions = [asyncio.create_task(handover.submit(said(str(number)))) for number in range(6)]
        await until(lambda: function.began)
        assert handover.waiting == 2
        function.gate.set()
        await asyncio.gather(*submissions)
    assert texts(function.taken) == [str(number) for number in range(6)]


async def test_in_mode_also_nobody_waits_and_what_exceeds_the_buffer_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    function, now, dropped = Function(shut=True), [0.0], counted("dropped")
    async with running(function, "also", limit=2, clock=lambda: now[0]) as handover:
        for number in range(5):
            await handover.submit(said(str(number)))
        now[0] = 59.0
        await handover.submit(said("5"))
        assert lines(caplog, "EDGE_BUFFER") == 1
        now[0] = 60.0
        await handover.submit(said("6"))
        assert lines(caplog, "EDGE_BUFFER") == 2
        assert "(4 time(s) since" in caplog.text
        function.gate.set()
        await handover.drained()
        await handover.submit(said("7"))
        await handover.drained()
    assert texts(function.taken) == ["0", "1", "7"]
    assert counted("dropped") - dropped == 5


def lines(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


@pytest.mark.parametrize("mode", ["also", "only"])
async def test_a_message_is_given_up_after_its_attempts_with_one_line_and_the_next_is_handed_over(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    function = Function({"bad": [SupabaseUnavailableError("away")] * (ATTEMPTS + 1)})
    given_up, taken = counted("given_up"), counted("taken")
    async with running(function, mode) as handover:
        submissions = [asyncio.create_task(handover.submit(said(text))) for text in ("bad", "good")]
        await asyncio.gather(*submissions)
        await handover.drained()
        assert handover.last_error is None
    assert texts(function.began) == ["bad"] * ATTEMPTS + ["good"]
    assert lines(caplog, "given up after 8 attempts") == 1
    assert (counted("given_up") - given_up, counted("taken") - taken) == (1, 1)


async def test_attempts_of_a_function_that_is_away_are_told_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    function = Function({"bad": [SupabaseUnavailableError("away")] * 7})
    async with running(function, "also", clock=lambda: 0.0) as handover:
        await handover.submit(said("bad"))
        await handover.drained()
    assert lines(caplog, "next try") == 1


async def test_what_the_function_refuses_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    function, refused = Function({"bad": [PermanentError("answered 400")]}), counted("refused")
    async with running(function, "only") as handover:
        await handover.submit(said("bad"))
        assert handover.last_error == "answered 400"
        await handover.submit(said("good"))
    assert texts(function.began) == ["bad", "good"]
    assert lines(caplog, "was refused: answered 400") == 1
    assert counted("refused") - refused == 1


async def test_a_fault_of_the_code_costs_one_message_and_shows(caplog: pytest.LogCaptureFixture) -> None:
    function, given_up = Function({"bad": [RuntimeError("a fault")]}), counted("given_up")
    async with running(function, "only") as handover:
        await handover.submit(said("bad"))
        await handover.submit(said("good"))
    assert texts(function.taken) == ["good"]
    assert "a fault" in caplog.text
    assert counted("given_up") - given_up == 1


async def test_a_message_whose_caller_left_is_withdrawn_unless_it_is_in_hand() -> None:
    function = Function(shut=True)
    async with running(function, "only", limit=3) as handover:
        submissions = [asyncio.create_task(handover.submit(said(text))) for text in "abcd"]
        await until(lambda: function.began)
        for submission in submissions[:2]:
            submission.cancel()
        await asyncio.gather(*submissions[:2], return_exceptions=True)
        function.gate.set()
        await asyncio.gather(*submissions[2:])
        await handover.drained()
    assert texts(function.taken) == ["a", "c", "d"]


async def test_a_message_whose_caller_left_is_not_tried_again() -> None:
    function = Function({"a": [SupabaseUnavailableError("away")] * ATTEMPTS}, shut=True)
    given_up = counted("given_up")
    async with running(function, "only") as handover:
        submission = asyncio.create_task(handover.submit(said("a")))
        await until(lambda: function.began)
        submission.cancel()
        await asyncio.gather(submission, return_exceptions=True)
        function.gate.set()
        await handover.drained()
    assert texts(function.began) == ["a"]
    assert counted("given_up") == given_up


async def test_what_a_cancelled_run_had_in_hand_comes_first_in_the_next() -> None:
    function = Function(shut=True)
    handover = Handover(function, mode="also", limit=10)
    for text in "ab":
        await handover.submit(said(text))
    first = asyncio.create_task(handover.run())
    await until(lambda: function.began)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    function.gate.set()
    second = asyncio.create_task(handover.run())
    await asyncio.wait_for(handover.drained(), 20)
    assert texts(function.taken) == ["a", "b"]
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
