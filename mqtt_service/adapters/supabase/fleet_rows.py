"""Rows of the project as the command line reads them. Times have a zone and are in UTC; V, dBm.

A status can be a word that is not ours: a table that was there before may have some.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from mqtt_service.adapters.supabase.tables import Flag, Moment, Number, SomeTime, Word

PlaceKind = Literal["site", "program", "company"]


@dataclass(frozen=True, slots=True)
class CommandRow:
    """A row of `device_commands`; its columns are those of docs/commands.md."""

    command_id: UUID
    device_id: UUID
    command_type: Word
    command_payload: Any
    status: Word
    priority: Number
    issued_at: SomeTime
    scheduled_for: Moment | None
    expires_at: Moment | None
    delivered_at: Moment | None
    acknowledged_at: Moment | None
    retry_count: Number
    redelivery_count: Number
    no_listener: Flag
    last_error: str | None
    response: Any
    due_at: Moment | None
    held_until: Moment | None
    in_queue: Flag
    lease_worker: str | None
    lease_until: Moment | None
    attempt: Number
    progress: int | None = None
    progress_at: Moment | None = None
    progress_message: str | None = None
    answer_due_at: Moment | None = None
    done_after_cancel_at: Moment | None = None
    release_id: UUID | None = None
    verified_at: Moment | None = None
    config_version: int | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """The answer of `fn_explain_command`: where a command is, in `text`, a sentence or two a line."""

    state: str
    final: bool
    text: list[str]
    timezone: str
    next_at: Moment | None = None
    gives_up_at: Moment | None = None


@dataclass(frozen=True, slots=True)
class NewCommand:
    """A command to queue; its id is chosen here, so that it can be sent again without queueing twice."""

    command_id: UUID
    device_id: UUID
    command_type: str
    payload: Mapping[str, Any]
    priority: int = 0
    scheduled_for: datetime | None = None
    expires_at: datetime | None = None
    release_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A row of `devices`."""

    device_id: UUID
    device_mac: Word
    device_code: str | None
    device_name: str | None
    provisioning_status: Word
    is_active: Flag
    company_id: UUID | None
    program_id: UUID | None
    site_id: UUID | None
    wake_schedule_cron: str | None
    next_wake_at: Moment | None
    last_wake_at: Moment | None
    last_seen_at: Moment | None
    firmware_version: str | None
    battery_voltage: float | None
    wifi_rssi: int | None
    hardware_version: str | None = None

    @property
    def label(self) -> str:
        """What people call it: its code, else its name, else its MAC."""
        return self.device_code or self.device_name or self.device_mac


@dataclass(frozen=True, slots=True)
class Place:
    """A site, a program or a company; a site says in which zone and when its devices wake."""

    kind: PlaceKind
    place_id: UUID
    name: str
    timezone: str | None = None
    wake_schedule_cron: str | None = None


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of `device_history`."""

    history_id: UUID
    created_at: SomeTime
    event_type: Word
    severity: Word
    description: Word


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row of `device_images`."""

    image_id: UUID
    image_name: Word
    status: Word
    created_at: SomeTime
    completed_at: Moment | None
    updated_at: SomeTime
    last_error: str | None


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """A row of `device_timeline`; `about` is the command or picture that it is about."""

    happened_at: Moment
    kind: str
    what: Word
    details: Any
    about: UUID | None


@dataclass(frozen=True, slots=True)
class AssignmentRow:
    """An active row of `device_site_assignments`."""

    assignment_id: UUID
    site_id: UUID | None


@dataclass(frozen=True, slots=True)
class Depth:
    """How many commands are where. `due`: to be claimed now. `leased`: being sent. `held`: by a window."""

    due: int
    leased: int
    scheduled: int
    retrying: int
    held: int
    sent: int
    oldest_due_at: Moment | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """What happened to commands within so many seconds."""

    seconds: float
    issued: int
    delivered: int
    acknowledged: int
    lost: int


@dataclass(frozen=True, slots=True)
class SlowDevice:
    """A device by the median time, in seconds, from the broker's acknowledgement to its own."""

    device_id: UUID
    device_code: str | None
    answers: int
    median_seconds: float


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """The newest process of a MQTT client id; it may have ended since."""

    client_id: str
    worker: str
    since: Moment
    commands: int
    visits: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The answer of `fn_fleet_overview`; `overdue`: active devices that should have woken and have not."""

    now: Moment
    depth: Depth
    minute: Flow
    window: Flow
    devices: int
    active: int
    awake: int
    overdue: int
    slowest: list[SlowDevice] = field(default_factory=list)
    workers: list[WorkerRow] = field(default_factory=list)
