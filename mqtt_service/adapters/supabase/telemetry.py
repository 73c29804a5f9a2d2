"""Readings without a picture, in the database."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import DatabaseFunctions
from mqtt_service.adapters.supabase.visits import VisitPolicy


@dataclass(frozen=True, slots=True)
class TelemetryRow:
    """Readings that a device sent: the input of `fn_record_lone_readings`. %RH, hPa, kΩ.

    `temperature` is in the unit that the project keeps; `metadata` is the whole message. The last four are as
    of an `AcknowledgementRow`: they tell a message that is brought again.
    """

    ref: str
    topic_id: str
    captured_at: datetime | None
    temperature: float | None
    humidity: float | None
    pressure: float | None
    gas_resistance: float | None
    metadata: Mapping[str, Any]
    delivery: str | None = None
    redelivered: bool = False
    received_at: float | None = None
    session_started_at: float | None = None


@dataclass(frozen=True, slots=True)
class TelemetryRecorded:
    """What became of readings; `warnings`: what the project's table does not take of them."""

    ref: str
    result: Literal["recorded", "duplicate", "unknown_device", "refused"]
    device_id: UUID | None = None
    device_code: str | None = None
    warnings: Sequence[str] = ()
    error: str | None = None


_RECORDED = TypeAdapter(list[TelemetryRecorded])


class TelemetryGateway:
    """Writes the readings that one worker receives."""

    def __init__(self, database: DatabaseFunctions, worker: str, policy: VisitPolicy) -> None:
        self._database = database
        self._worker = worker
        self._policy = policy

    async def record(self, rows: Sequence[TelemetryRow]) -> list[TelemetryRecorded]:
        """Write readings, in this order; one result for each. Unknown devices register, as by a HELLO."""
        return await self._database.call(
            "fn_record_lone_readings",
            _RECORDED,
            p_worker=self._worker,
            p_readings=[_document(row) for row in rows],
            p_register=self._policy.register,
            p_registrations_per_minute=self._policy.registrations_per_minute,
        )


def _document(row: TelemetryRow) -> dict[str, Any]:
    """Moments of this process go as durations, since the database has another clock."""
    document = asdict(row)
    captured_at, received, session = (
        document.pop(key) for key in ("captured_at", "received_at", "session_started_at")
    )
    now = time.monotonic()
    return {
        **document,
        "captured_at": None if captured_at is None else captured_at.isoformat(),
        "received_seconds_ago": None if received is None else now - received,
        "session_seconds": None if session is None else now - session,
    }
