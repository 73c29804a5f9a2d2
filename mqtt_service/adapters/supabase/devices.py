"""Devices in the database: heartbeats, welcomes, and a mapped device's lineage (site, program, company)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import DatabaseFunctions
from mqtt_service.adapters.supabase.visits import VisitPolicy


@dataclass(frozen=True, slots=True)
class HeartbeatRow:
    """A device's HELLO: the input of `fn_record_heartbeats`. V, dBm; `shared`: no other worker gets it.

    `received_at` is monotonic.
    """

    ref: str
    topic_root: str
    topic_id: str
    pending_count: int
    pending_names: Sequence[str]
    firmware_version: str | None
    battery_voltage: float | None
    wifi_rssi: int | None
    location: str | None
    shared: bool = False
    received_at: float | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatRecorded:
    """The visit that a HELLO began; `commands` are due now, `redelivered` of them were sent before.

    `refused`: the device is not registered and may not register itself, or the database refused the row
    (`error`). `holds_lease`: this worker is the one that answers. `warnings`: what the project's tables do
    not take of it, and why; the rest is written. `given_up_names`: pictures that it lists and that were given
    up.
    """

    ref: str
    result: Literal["known", "created", "refused"]
    device_id: UUID | None = None
    device_code: str | None = None
    is_active: bool = False
    holds_lease: bool = False
    commands: int = 0
    redelivered: int = 0
    next_wake_at: datetime | None = None
    given_up_names: Sequence[str] = ()
    warnings: Sequence[str] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Welcome:
    """A welcome command that was queued by this call, and by no other.

    Without a `command_id`, the project refuses it (`error`), and the device awaits its welcome still.
    """

    command_id: UUID | None
    device_id: UUID
    device_code: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class IncompleteDevice:
    """A row of `fn_find_devices_with_incomplete_lineage`."""

    device_id: UUID
    device_code: str | None
    device_name: str | None
    device_mac: str
    issue: str
    fixable: bool
    assigned_site_id: UUID | None = None
    assigned_program_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Initialized:
    """The answer of `fn_initialize_device_after_mapping`; `error` says why it did not succeed."""

    success: bool
    message: str | None = None
    error: str | None = None
    welcome_due: bool = False


_HEARTBEAT_ROWS = TypeAdapter(list[HeartbeatRow])
_HEARTBEATS = TypeAdapter(list[HeartbeatRecorded])
_WELCOMES = TypeAdapter(list[Welcome])
_INCOMPLETE = TypeAdapter(list[IncompleteDevice])
_INITIALIZED = TypeAdapter(Initialized)


class HeartbeatGateway:
    """Writes the heartbeats that one worker received."""

    def __init__(self, database: DatabaseFunctions, worker: str, policy: VisitPolicy) -> None:
        self._database = database
        self._worker = worker
        self._policy = policy

    async def record_heartbeats(self, heartbeats: Sequence[HeartbeatRow]) -> list[HeartbeatRecorded]:
        """Write devices' HELLOs and begin their visits, in this order; one result for each."""
        return await self._database.call(
            "fn_record_heartbeats",
            _HEARTBEATS,
            p_worker=self._worker,
            p_heartbeats=[
                _document(row) for row in _HEARTBEAT_ROWS.dump_python(list(heartbeats), mode="json")
            ],
            p_redelivery_limit=self._policy.redelivery_limit,
            p_lease_seconds=self._policy.lease,
            p_register=self._policy.register,
            p_registrations_per_minute=self._policy.registrations_per_minute,
        )


def _document(row: dict[str, Any]) -> dict[str, Any]:
    """A moment goes as a duration, since the database has another clock."""
    received = row.pop("received_at")
    return row if received is None else {**row, "received_seconds_ago": time.monotonic() - received}


class ProvisioningGateway:
    """Queues the welcome of mapped devices and completes their lineage."""

    def __init__(self, database: DatabaseFunctions, *, standby: float = 0.0) -> None:
        """`standby`: for how many seconds after a mapping the welcome is left to another service."""
        self._database = database
        self._standby = standby

    async def queue_welcomes(self, device_ids: Sequence[UUID] | None, *, limit: int) -> list[Welcome]:
        """Queue the welcome of these devices (None: of all that await one) and return those queued now.

        A device that was sent a schedule by somebody else since it was mapped awaits none.
        """
        return await self._database.call(
            "fn_queue_welcome_commands",
            _WELCOMES,
            p_device_ids=None if device_ids is None else [str(device_id) for device_id in device_ids],
            p_limit=limit,
            p_standby_seconds=self._standby,
        )

    async def find_incomplete_lineage(self, after: UUID | None, limit: int) -> list[IncompleteDevice]:
        """One page of devices whose lineage is incomplete, by device_id, from the one after `after` on."""
        return await self._database.call_page(
            "fn_find_devices_with_incomplete_lineage", _INCOMPLETE, key="device_id", after=after, limit=limit
        )

    async def initialize_device(self, device_id: UUID, site_id: UUID, program_id: UUID | None) -> Initialized:
        """Fill in a mapped device's lineage and activate it."""
        return await self._database.call(
            "fn_initialize_device_after_mapping",
            _INITIALIZED,
            p_device_id=str(device_id),
            p_site_id=str(site_id),
            p_program_id=None if program_id is None else str(program_id),
        )
