"""What the worker's database functions answer, as frozen dataclasses; the SQL beside each says what it means.

Times are aware datetimes of the database's clock; durations are seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from mqtt_service.protocol.commands import Command


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
    """A command whose time went by before a device answered."""

    command_id: UUID
    device_id: UUID
    device_code: str | None
    command_type: str


@dataclass(frozen=True, slots=True)
class UnreadableCommand:
    """A leased row that does not have the agreed shape; `reason` says where."""

    command_id: UUID
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to `fn_claim_commands`: commands are in the order in which to publish them."""

    commands: list[Command]
    unreadable: list[UnreadableCommand] = field(default_factory=list)
    failed: list[FailedCommand] = field(default_factory=list)
    expired: list[ExpiredCommand] = field(default_factory=list)
    welcome_due: bool = False
    more: bool = False
    seconds_to_next_due: float | None = None


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

    `ref` names this message of this process: the database uses an answer with the same ref once.
    """

    ref: str
    topic_root: str
    topic_id: str
    outcome: Literal["success", "failed", "rejected"]
    command_id: str | None
    command_type: str | None
    message: str | None
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What an answer did to its command."""

    ref: str
    result: Literal[
        "acknowledged",
        "failed",
        "rejected",
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
