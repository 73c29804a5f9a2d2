"""What the worker's database functions answer, as frozen dataclasses; the SQL beside each says what it means.

Times are aware datetimes of the database's clock; durations are seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from mqtt_service.protocol.commands import Command
from mqtt_service.protocol.topics import Root


@dataclass(frozen=True, slots=True)
class FailedCommand:
    """A command that the database failed while it was claimed, since its device is not active."""

    command_id: UUID
    device_id: UUID
    device_code: str | None
    command_type: str
    retry_count: int
    final: bool
    error: str


@dataclass(frozen=True, slots=True)
class ExpiredCommand:
    """A command whose time went by before a device answered; `error` says whether it had been delivered."""

    command_id: UUID
    device_id: UUID
    device_code: str | None
    command_type: str
    error: str = "expired before the device answered"


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A command that the database refuses to change, with its reason; it stays as it is."""

    command_id: UUID
    device_code: str | None
    error: str


@dataclass(frozen=True, slots=True)
class UnreadableCommand:
    """A leased row that does not have the agreed shape; `reason` says where."""

    command_id: UUID
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to `fn_claim_commands`: commands are in the order in which to publish them.

    `refused`: the first of those that a claim passed over.
    `rescued`: how many of them other workers, by name, had leased and did not settle in time.
    `visits_due`: some device is awake and the worker that spoke to it is gone.
    `newest_age`: the seconds since the newest of the commands that were never claimed before was inserted.
    """

    commands: list[Command]
    unreadable: list[UnreadableCommand] = field(default_factory=list)
    failed: list[FailedCommand] = field(default_factory=list)
    expired: list[ExpiredCommand] = field(default_factory=list)
    refused: list[RefusedCommand] = field(default_factory=list)
    rescued: Mapping[str, int] = field(default_factory=dict)
    welcome_due: bool = False
    visits_due: bool = False
    more: bool = False
    seconds_to_next_due: float | None = None
    newest_age: float | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of one attempt: the input of `fn_settle_commands`."""

    command_id: UUID
    attempt: int
    outcome: Literal["sent", "failed", "released"]
    error: str | None = None
    retry: bool = True
    no_listener: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """`stale`: the lease had passed on, or this was settled before; nothing was changed."""

    command_id: UUID
    result: Literal["settled", "stale"]
    status: str | None = None
    retry_count: int | None = None
    final: bool | None = None


@dataclass(frozen=True, slots=True)
class AcknowledgementRow:
    """A device's answer: the input of `fn_acknowledge_commands`.

    `ref` names this message of this process: the database uses an answer with the same ref once. `shared`:
    no other worker hears it. `delivery` names it over all processes of its client id, where that can be done;
    `redelivered`: one of them may have had it. Monotonic times: `heard_at`, and `heard_since`, from which on
    the broker's session brings every answer, where this process saw it begin.
    """

    ref: str
    topic_root: str
    topic_id: str
    outcome: Literal["success", "failed", "rejected"]
    command_id: str | None
    command_type: str | None
    message: str | None
    response: Mapping[str, Any]
    shared: bool = False
    delivery: str | None = None
    redelivered: bool = False
    heard_at: float | None = None
    heard_since: float | None = None


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """What a device is told without a row of `device_commands`: the input of `fn_record_replies`.

    `withdrawn`: it was recorded before, and was not sent, or nobody listened.
    """

    reply_id: UUID
    device_id: UUID
    reply_type: str
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What an answer did to its command; `reply`: it was about none; `early`: to be asked again soon."""

    ref: str
    result: Literal[
        "acknowledged",
        "failed",
        "rejected",
        "reply",
        "early",
        "duplicate",
        "ignored",
        "unknown_device",
        "unknown_command",
        "wrong_device",
    ]
    command_id: UUID | None = None
    command_type: str | None = None
    device_id: UUID | None = None
    device_code: str | None = None
    status: str | None = None
    retry_count: int | None = None


@dataclass(frozen=True, slots=True)
class Welcome:
    """A welcome command that was queued by this call, and by no other."""

    command_id: UUID
    device_id: UUID
    device_code: str | None


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


@dataclass(frozen=True, slots=True)
class HelloRow:
    """A device's HELLO: the input of `fn_record_heartbeats`. V, dBm; `shared`: no other worker hears it."""

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


@dataclass(frozen=True, slots=True)
class HelloRecorded:
    """What a HELLO began; `commands` are due for the device now, `redelivered` of them were sent before.

    `refused`: the device is not registered and may not register itself, or the database refused the row
    (`error`). `holds_lease`: this worker is the one that answers.
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
    error: str | None = None


@dataclass(frozen=True, slots=True)
class VisitRow:
    """One device that is awake, as `fn_renew_visits` and `fn_take_over_visits` see it.

    `ended`: it was told its next wake time, or nobody knows of the visit. `open_commands` are due, leased, or
    sent in this visit without an answer; `schedule_sent`: one of them told the device when to wake.
    `settled_names` are pictures that were stored or failed in this visit, `pending_names` the others.
    """

    topic_root: Root
    topic_id: str
    device_id: UUID | None = None
    device_code: str | None = None
    holds_lease: bool = False
    ended: bool = False
    took_over: bool = False
    open_commands: int = 0
    schedule_sent: bool = False
    pending_count: int = 0
    pending_names: Sequence[str] = ()
    settled_names: Sequence[str] = ()
    next_wake_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A picture that a device announced: the input of `fn_record_images`. Bytes; °C, %RH, hPa, kΩ.

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
    """Where a picture is to be stored, on which root its device listens, and what its metadata said.

    `complete`: it is there; `silent`: another worker sees to it.
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
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """What became of a picture: the input of `fn_settle_images`; `missing` in the device's numbering."""

    image_id: UUID
    outcome: Literal["complete", "failed", "asked"]
    received_chunks: int = 0
    missing_requests: int = 0
    image_size: int | None = None
    sha256: str | None = None
    error: str | None = None
    missing: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ImageSettled:
    """`duplicate`: the same bytes were stored before under this name, so this row is gone."""

    image_id: UUID
    result: Literal["complete", "failed", "asked", "duplicate", "unknown"]
    storage_path: str | None = None
    next_wake_at: datetime | None = None
