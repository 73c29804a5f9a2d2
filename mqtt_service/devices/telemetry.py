"""Readings without a picture: from `…/data` to one row of `device_telemetry` each."""

import asyncio
import logging
from collections.abc import Callable

from mqtt_service.adapters.mqtt.message_identity import MessageRefs, delivery_id
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.supabase.telemetry import TelemetryGateway, TelemetryRecorded, TelemetryRow
from mqtt_service.batching import Batcher
from mqtt_service.devices.picture_rows import TemperatureUnit, in_unit
from mqtt_service.devices.refusals import Refusals
from mqtt_service.errors import PermanentError
from mqtt_service.log import context
from mqtt_service.metrics import TELEMETRY, UNUSABLE_VALUES
from mqtt_service.protocol.images import LoneReadings
from mqtt_service.protocol.topics import device_key

log = logging.getLogger(__name__)

_BATCH = 200


class TelemetryHandler:
    """Takes readings to their rows, in order; `session_started_at` as of an `AcknowledgementHandler`."""

    def __init__(
        self,
        gateway: TelemetryGateway,
        worker: str,
        temperature_unit: TemperatureUnit,
        session_started_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._worker = worker
        self._unit = temperature_unit
        self._session_started_at = session_started_at
        self._refs = MessageRefs(worker, session_started_at, "readings")
        self._refusals = Refusals("readings")
        self._batcher: Batcher[TelemetryRow, TelemetryRecorded] = Batcher(
            "TELEMETRY", gateway.record, _BATCH, key=lambda row: device_key(row.topic_id)
        )

    async def run(self) -> None:
        """Write readings until cancelled."""
        await self._batcher.run()

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest readings have waited for the database."""
        return self._batcher.longest_wait

    async def handle(self, said: LoneReadings, message: InboundMessage) -> None:
        """Record these readings; return once they are committed, or refused."""
        for kind in said.unusable:
            UNUSABLE_VALUES.labels(kind).inc()
        ref = self._refs.ref_of(message)
        try:
            recorded = await self._batcher.submit(self._row(said, message, ref))
        except asyncio.CancelledError:
            self._refs.cancelled(message, ref)
            raise
        except PermanentError as error:
            recorded = TelemetryRecorded(ref, "refused", error=str(error))
        TELEMETRY.labels(recorded.result).inc()
        self._refusals.report(recorded.device_code or said.device, recorded.warnings)
        if recorded.result in {"unknown_device", "refused"}:
            reason = recorded.error or "the device is not registered and may not register itself"
            log.warning("[TELEMETRY] Readings dropped: %s", reason, extra=context(device=said.device))

    def _row(self, said: LoneReadings, message: InboundMessage, ref: str) -> TelemetryRow:
        return TelemetryRow(
            ref=ref,
            topic_id=said.device,
            captured_at=said.captured_at,
            temperature=in_unit(said.readings.temperature, self._unit),
            humidity=said.readings.humidity,
            pressure=said.readings.pressure,
            gas_resistance=said.readings.gas_resistance,
            metadata=said.document,
            delivery=delivery_id(self._worker, message),
            redelivered=message.duplicate,
            received_at=message.received_at,
            session_started_at=self._session_started_at(),
        )
