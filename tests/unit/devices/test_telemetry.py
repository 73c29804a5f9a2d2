"""Readings without a picture: what is written of a message, and what is told of what is not."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal

import pytest

from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.supabase.telemetry import TelemetryGateway, TelemetryRecorded, TelemetryRow
from mqtt_service.devices.telemetry import TelemetryHandler
from mqtt_service.errors import PermanentError
from mqtt_service.metrics import REGISTRY
from mqtt_service.protocol.images import LoneReadings, Readings

WORKER = "one:a"
NOON = datetime(2026, 11, 7, 12, tzinfo=UTC)
TOPIC = "device/d1/data"


class Gateway(TelemetryGateway):
    """Answers each row with `answer`, which may be an error; a shut gate holds the calls."""

    def __init__(self, answer: Callable[[TelemetryRow], TelemetryRecorded] | None = None) -> None:
        self.calls: list[list[TelemetryRow]] = []
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self._answer = answer or (lambda row: TelemetryRecorded(row.ref, "recorded"))

    @property
    def rows(self) -> list[TelemetryRow]:
        return [row for call in self.calls for row in call]

    async def record(self, rows: Sequence[TelemetryRow]) -> list[TelemetryRecorded]:
        self.calls.append(list(rows))
        self.called.set()
        await self.gate.wait()
        return [self._answer(row) for row in rows]


def readings(temperature: float | None = 20.0, **changes: object) -> LoneReadings:
    fields = {"document": {"temperature": temperature}, "claimed_device": None, **changes}
    return LoneReadings("device", "d1", NOON, Readings(temperature, 45.0), **fields)  # type: ignore[arg-type]


def message(payload: bytes = b"{}", *, duplicate: bool = False, packet_id: int | None = 7) -> InboundMessage:
    return InboundMessage(TOPIC, payload, 1, duplicate=duplicate, packet_id=packet_id, received_at=5.0)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"mqtt_service_{name}_total", labels) or 0.0


@asynccontextmanager
async def running(
    gateway: Gateway,
    unit: Literal["celsius", "fahrenheit"] = "celsius",
    session: Callable[[], float | None] = lambda: None,
) -> AsyncIterator[TelemetryHandler]:
    handler = TelemetryHandler(gateway, WORKER, unit, session)
    task = asyncio.create_task(handler.run())
    try:
        async with asyncio.timeout(20):
            yield handler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_row_holds_what_was_said_and_how_it_came() -> None:
    gateway = Gateway()
    async with running(gateway, session=lambda: 3.0) as handler:
        await handler.handle(readings(), message(duplicate=True))
    [row] = gateway.rows
    assert (row.topic_id, row.captured_at, row.temperature, row.humidity) == ("d1", NOON, 20.0, 45.0)
    assert (row.pressure, row.gas_resistance, row.metadata) == (None, None, {"temperature": 20.0})
    assert (row.redelivered, row.received_at, row.session_started_at) == (True, 5.0, 3.0)
    assert row.delivery is not None
    assert row.delivery.startswith("one#7#")


async def test_a_temperature_is_in_the_unit_of_the_project() -> None:
    gateway = Gateway()
    async with running(gateway, "fahrenheit") as handler:
        await handler.handle(readings(100.0), message())
        await handler.handle(readings(None), message())
    assert [row.temperature for row in gateway.rows] == [212.0, None]


async def test_what_waits_is_written_together_and_each_message_has_a_ref_of_its_own() -> None:
    gateway = Gateway()
    gateway.gate.clear()
    async with running(gateway) as handler:
        waiting = [asyncio.create_task(handler.handle(readings(), message())) for _ in range(20)]
        await gateway.called.wait()
        gateway.gate.set()
        await asyncio.gather(*waiting)
    assert len(gateway.rows) == 20
    assert len(gateway.calls) <= 2
    assert len({row.ref for row in gateway.rows}) == 20
    assert all(row.ref.startswith("one:a:readings") for row in gateway.rows)


async def test_what_was_cancelled_while_it_was_written_has_the_same_ref_when_it_comes_again() -> None:
    gateway = Gateway()
    gateway.gate.clear()
    async with running(gateway) as handler:
        first = asyncio.create_task(handler.handle(readings(), message()))
        await gateway.called.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        gateway.gate.set()
        await handler.handle(readings(), message(duplicate=True))
        await handler.handle(readings(), message(duplicate=True))
    refs = [row.ref for row in gateway.rows]
    assert refs[0] == refs[1] != refs[2]


@pytest.mark.parametrize("result", ["recorded", "duplicate"])
async def test_what_is_in_the_database_is_counted_and_not_logged(
    result: Literal["recorded", "duplicate"], caplog: pytest.LogCaptureFixture
) -> None:
    before = counted("telemetry", result=result)
    async with running(Gateway(lambda row: TelemetryRecorded(row.ref, result))) as handler:
        await handler.handle(readings(), message())
    assert counted("telemetry", result=result) == before + 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("result", "error", "said"),
    [
        ("unknown_device", None, "the device is not registered and may not register itself"),
        ("unknown_device", "too many registrations", "too many registrations"),
        ("refused", "a check", "a check"),
    ],
)
async def test_what_is_dropped_is_counted_and_says_why(
    result: Literal["unknown_device", "refused"],
    error: str | None,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "mqtt_service.devices.telemetry")
    before = counted("telemetry", result=result)
    async with running(Gateway(lambda row: TelemetryRecorded(row.ref, result, error=error))) as handler:
        await handler.handle(readings(), message())
    assert counted("telemetry", result=result) == before + 1
    assert [record.message for record in caplog.records] == [f"[TELEMETRY] Readings dropped: {said}"]


async def test_readings_that_meet_an_error_of_their_own_cost_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(row: TelemetryRow) -> TelemetryRecorded:
        if row.temperature == 13.0:
            raise PermanentError("not this one")
        return TelemetryRecorded(row.ref, "recorded")

    before = counted("telemetry", result="recorded"), counted("telemetry", result="refused")
    async with running(Gateway(answer)) as handler:
        await asyncio.gather(*(handler.handle(readings(t), message()) for t in (12.0, 13.0, 14.0)))
    after = counted("telemetry", result="recorded"), counted("telemetry", result="refused")
    assert after == (before[0] + 2, before[1] + 1)
    assert [record.message for record in caplog.records] == ["[TELEMETRY] Readings dropped: not this one"]


async def test_what_the_table_does_not_take_is_told_with_the_code_of_the_device(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorded = TelemetryRecorded("r", "recorded", device_code="CODE-1", warnings=["no column humidity"])
    async with running(Gateway(lambda _row: recorded)) as handler:
        for _ in range(2):
            await handler.handle(readings(), message())
    assert [record.message for record in caplog.records] == [
        "[DATABASE] Not recorded (readings): no column humidity"
    ]


async def test_what_could_not_be_read_is_counted_by_kind() -> None:
    before = counted("unusable_values", kind="reading"), counted("unusable_values", kind="time")
    async with running(Gateway()) as handler:
        await handler.handle(readings(unusable=("reading", "reading", "time")), message())
    after = counted("unusable_values", kind="reading"), counted("unusable_values", kind="time")
    assert after == (before[0] + 2, before[1] + 1)
