"""How many commands wait in the database, asked for every few seconds at most, however often it is read."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import DatabaseFunctions
from mqtt_service.errors import ServiceError
from mqtt_service.metrics import OLDEST_DUE, QUEUED

log = logging.getLogger(__name__)

_FRESH_FOR = 10.0


@dataclass(frozen=True, slots=True)
class QueueMeasures:
    """Commands by what they wait for (`fn_measure_queue`), each counted up to 100,000."""

    due: int
    scheduled: int
    leased: int
    retry: int
    held: int
    sent: int
    oldest_due_seconds: float


MEASURES = TypeAdapter(QueueMeasures)


class QueueGauge:
    """Keeps the gauges of the queue up to date."""

    def __init__(self, database: DatabaseFunctions, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._asked_at: float | None = None

    async def refresh(self) -> None:
        """Ask the database, unless it was asked within 10 s; where it does not answer, NaN is shown."""
        now = self._clock()
        if self._asked_at is not None and now < self._asked_at + _FRESH_FOR:
            return
        self._asked_at = now
        try:
            measures = await self._database.call("fn_measure_queue", MEASURES)
        except ServiceError as error:
            log.debug("[SERVICE] The queue was not measured: %s", error)
            measures = None
        for state, gauge in QUEUED.items():
            gauge.set(float("nan") if measures is None else getattr(measures, state))
        OLDEST_DUE.set(float("nan") if measures is None else measures.oldest_due_seconds)
