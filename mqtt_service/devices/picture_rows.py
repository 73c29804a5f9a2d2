"""Pictures' rows in `device_images`: that one is announced, and what became of it; many in a call."""

import asyncio
import hashlib
from itertools import count
from typing import Literal
from uuid import UUID

from mqtt_service.adapters.supabase.images import (
    ImageGateway,
    ImageOutcome,
    ImageRecorded,
    ImageRow,
    ImageSettled,
)
from mqtt_service.batching import Batcher
from mqtt_service.devices.giving_up import Failure, GiveUpPolicy
from mqtt_service.devices.refusals import Refusals
from mqtt_service.protocol.assembly import Assembly
from mqtt_service.protocol.images import ImageMetadata
from mqtt_service.protocol.topics import device_key

TemperatureUnit = Literal["celsius", "fahrenheit"]

_BATCH = 200
# Seconds. Pictures of a site end one after the other, each a short call: so they are written some at a time.
_PAUSE = 0.1


class PictureRows:
    """Takes pictures' rows and outcomes to the database; `run` it as one task.

    Each method returns once its write is committed, and raises PermanentError where the database refuses it.
    """

    def __init__(self, gateway: ImageGateway, worker: str, temperature_unit: TemperatureUnit) -> None:
        self._worker = worker
        self._temperature_unit = temperature_unit
        self._refusals = Refusals("picture")
        self._refs = count(1)
        self._rows: Batcher[ImageRow, ImageRecorded] = Batcher(
            "IMAGE", gateway.record_images, _BATCH, key=lambda row: device_key(row.topic_id)
        )
        self._outcomes: Batcher[ImageOutcome, ImageSettled] = Batcher(
            "IMAGE", gateway.settle_images, _BATCH, key=lambda outcome: outcome.image_id, pause=_PAUSE
        )

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rows.run())
            group.create_task(self._outcomes.run())

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest row has waited for the database."""
        return max(self._rows.longest_wait, self._outcomes.longest_wait)

    async def record(self, device: str, name: str) -> ImageRecorded:
        """The row of a picture of which no metadata came; a new one if there is none."""
        return await self._record(ImageRow(self._next_ref(), device, name))

    async def record_metadata(self, metadata: ImageMetadata) -> ImageRecorded:
        """The row of a picture that was announced, and its readings."""
        readings = metadata.readings
        row = ImageRow(
            ref=self._next_ref(),
            topic_id=metadata.device,
            image_name=metadata.name,
            captured_at=metadata.captured_at,
            image_size=metadata.size,
            max_chunk_size=metadata.chunk_size,
            total_chunks=metadata.total_chunks,
            error_code=metadata.error_code,
            location=metadata.location,
            temperature=in_unit(readings.temperature, self._temperature_unit),
            humidity=readings.humidity,
            pressure=readings.pressure,
            gas_resistance=readings.gas_resistance,
            metadata=metadata.document,
        )
        return await self._record(row)

    async def chunks_requested(
        self, recorded: ImageRecorded, assembly: Assembly | None, requests: int
    ) -> None:
        """The device was asked for missing chunks, now for the `requests`th time in this visit."""
        if recorded.image_id is not None:
            received = assembly.received if assembly else 0
            outcome = ImageOutcome(recorded.image_id, "asked", received, missing_requests=requests)
            await self._settle(outcome)

    async def complete(self, image_id: UUID, assembly: Assembly, picture: bytes) -> ImageSettled:
        """The picture is in Storage, put together to these bytes; its row says so from now on."""
        outcome = ImageOutcome(
            image_id,
            "complete",
            assembly.received,
            image_size=len(picture),
            sha256=hashlib.sha256(picture).hexdigest(),
        )
        return await self._settle(outcome)

    async def failed(
        self,
        recorded: ImageRecorded,
        assembly: Assembly | None,
        failure: Failure,
        give_up: GiveUpPolicy,
        requests: int = 0,
    ) -> ImageSettled | None:
        """The picture is given up for this visit; `requests` is how often the device was asked for chunks.

        Returns whether it is given up for good; None where it has no row. What nothing came of is kept: there
        is nothing for a quarantine.
        """
        if recorded.image_id is None:
            return None
        nothing_for_quarantine = give_up.mode == "quarantine" and not (assembly and assembly.received)
        outcome = ImageOutcome(
            recorded.image_id,
            "failed",
            assembly.received if assembly else 0,
            missing_requests=requests,
            error=failure.reason,
            missing=assembly.missing() if assembly and assembly.metadata else (),
            kind=failure.kind,
            give_up="keep" if nothing_for_quarantine else give_up.mode,
            give_up_after=give_up.visits,
        )
        return await self._settle(outcome)

    async def quarantined(self, image_id: UUID, failure: Failure) -> ImageSettled:
        """The picture failed for good; what came of it is in Storage, where the database said."""
        return await self._settle(
            ImageOutcome(image_id, "quarantined", error=failure.reason, kind=failure.kind)
        )

    async def _record(self, row: ImageRow) -> ImageRecorded:
        recorded = await self._rows.submit(row)
        self._refusals.report(recorded.device_code or row.topic_id, recorded.warnings)
        return recorded

    async def _settle(self, outcome: ImageOutcome) -> ImageSettled:
        settled = await self._outcomes.submit(outcome)
        reasons = [reason for reason in (settled.error, settled.warning) if reason is not None]
        self._refusals.report(f"picture {outcome.image_id}", reasons)
        return settled

    def _next_ref(self) -> str:
        return f"{self._worker}:{next(self._refs)}"


def in_unit(celsius: float | None, unit: TemperatureUnit) -> float | None:
    """A temperature as a device sends it, in the unit in which the project keeps it."""
    if celsius is None or unit == "celsius":
        return celsius
    return round(celsius * 9 / 5 + 32, 2)
