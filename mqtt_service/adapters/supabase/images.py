"""Pictures in the database: announced, and stored or failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import DatabaseFunctions
from mqtt_service.adapters.supabase.visits import VisitPolicy
from mqtt_service.protocol.topics import Root


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A picture that a device announced: the input of `fn_record_images`. Bytes, %RH, hPa, kΩ.

    `temperature` is in the unit that the project keeps (TEMPERATURE_UNIT).

    It names no root: pictures come on ESP32CAM from every firmware.
    """

    ref: str
    topic_id: str
    image_name: str
    captured_at: datetime | None = None
    image_size: int | None = None
    max_chunk_size: int | None = None
    total_chunks: int | None = None
    error_code: int | None = None
    location: str | None = None
    temperature: float | None = None
    humidity: float | None = None
    pressure: float | None = None
    gas_resistance: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageRecorded:
    """Where a picture is to be stored, on which root its device listens, and what is known from its metadata.

    `complete`: it is stored already. `silent`: another worker holds the lease, and answers the device.
    `warnings`: what the project's tables do not take of it, and why; the rest is written. `given_up` is the
    name of a picture that was refused for good: the device is told ACK_OK for it. The worker sets it, not the
    database.
    """

    ref: str
    result: Literal["receiving", "complete", "silent", "unknown_device", "refused"]
    device_id: UUID | None = None
    device_code: str | None = None
    image_id: UUID | None = None
    storage_path: str | None = None
    next_wake_at: datetime | None = None
    topic_root: Root = "device"
    captured_at: datetime | None = None
    image_size: int | None = None
    total_chunks: int | None = None
    warnings: Sequence[str] = ()
    error: str | None = None
    given_up: str | None = None


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """What became of a picture: the input of `fn_settle_images`; `missing` in the device's numbering.

    `quarantined`: it failed, and what came of it is in Storage at the `rejected_path` that the database
    named. `kind` says why it failed without numbers, None where that is no fault of the picture; after it
    failed so in `give_up_after` visits, it is given up as `give_up` says.
    """

    image_id: UUID
    outcome: Literal["complete", "failed", "asked", "quarantined"]
    received_chunks: int = 0
    missing_requests: int = 0
    image_size: int | None = None
    sha256: str | None = None
    error: str | None = None
    missing: Sequence[int] = ()
    kind: str | None = None
    give_up: Literal["keep", "discard", "quarantine"] = "keep"
    give_up_after: int | None = None


@dataclass(frozen=True, slots=True)
class ImageSettled:
    """`duplicate`: the same bytes were stored before under this name, so this row was removed.

    `refused`: the project's table does not take the change, the row is as before (`error`). `warning`: what
    it does not take beside that. `given_up`: how a picture that failed is given up for good, after so many
    `failed_visits`; one for quarantine is so only when it is reported as `quarantined`, stored at
    `rejected_path`.
    """

    image_id: UUID
    result: Literal["complete", "failed", "asked", "duplicate", "unknown", "refused"]
    storage_path: str | None = None
    next_wake_at: datetime | None = None
    warning: str | None = None
    error: str | None = None
    given_up: Literal["keep", "discard", "quarantine"] | None = None
    failed_visits: int = 0
    rejected_path: str | None = None


_IMAGE_ROWS = TypeAdapter(list[ImageRow])
_IMAGES = TypeAdapter(list[ImageRecorded])
_OUTCOMES = TypeAdapter(list[ImageOutcome])
_IMAGES_SETTLED = TypeAdapter(list[ImageSettled])


class ImageGateway:
    """Writes the pictures that one worker receives; `api_url` is the project's, under which they are seen."""

    def __init__(
        self, database: DatabaseFunctions, worker: str, policy: VisitPolicy, api_url: str | None = None
    ) -> None:
        self._database = database
        self._worker = worker
        self._policy = policy
        self._api_url = api_url

    async def record_images(self, images: Sequence[ImageRow]) -> list[ImageRecorded]:
        """Write announced pictures and their readings, in this order; one result for each.

        A device that announces a picture without a HELLO is registered, and its visit begins, as by one.
        """
        return await self._database.call(
            "fn_record_images",
            _IMAGES,
            p_worker=self._worker,
            p_images=_IMAGE_ROWS.dump_python(list(images), mode="json"),
            p_lease_seconds=self._policy.lease,
            p_register=self._policy.register,
            p_registrations_per_minute=self._policy.registrations_per_minute,
        )

    async def settle_images(self, outcomes: Sequence[ImageOutcome]) -> list[ImageSettled]:
        """Report what became of pictures, in this order; one result for each."""
        return await self._database.call(
            "fn_settle_images",
            _IMAGES_SETTLED,
            p_worker=self._worker,
            p_api_url=self._api_url,
            p_results=_OUTCOMES.dump_python(list(outcomes), mode="json"),
        )
