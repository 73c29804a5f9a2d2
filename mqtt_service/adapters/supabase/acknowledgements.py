"""Devices' answers in the database: each ends the command that it is about."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.commands import RetryPolicy
from mqtt_service.adapters.supabase.transport import DatabaseFunctions


@dataclass(frozen=True, slots=True)
class AcknowledgementRow:
    """A device's answer: the input of `fn_acknowledge_commands`.

    `ref` names this message to this process: the database uses an answer with the same ref once. `shared`: no
    other worker receives it. `standby`: another service beside the workers uses it too. `delivery` names it
    over all processes with this MQTT client id, where that is possible; `redelivered`: one of them may have
    received it before. Monotonic times: `received_at`, and `session_started_at` of the broker's session, None
    where that is older than this process. `progress`: per cent, of what is in progress.
    """

    ref: str
    topic_root: str
    topic_id: str
    outcome: Literal["success", "failed", "rejected", "in_progress"]
    command_id: str | None
    command_type: str | None
    message: str | None
    response: Mapping[str, Any]
    progress: int | None = None
    shared: bool = False
    standby: bool = False
    delivery: str | None = None
    redelivered: bool = False
    received_at: float | None = None
    session_started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What an answer did to its command.

    `in_progress`: the row says how far the device is, and the command has not ended by it. `reply`: it was
    about a reply, which has no row. `early`: its command may not be recorded as sent yet, so
    the same call is to be made again soon. `refused`: the project refuses the change, with the reason in
    `error`.
    """

    ref: str
    result: Literal[
        "acknowledged",
        "failed",
        "rejected",
        "in_progress",
        "reply",
        "early",
        "duplicate",
        "ignored",
        "unknown_device",
        "unknown_command",
        "wrong_device",
        "refused",
    ]
    command_id: UUID | None = None
    command_type: str | None = None
    device_id: UUID | None = None
    device_code: str | None = None
    status: str | None = None
    retry_count: int | None = None
    seconds_since_sent: float | None = None
    error: str | None = None


_FIELDS = tuple(field.name for field in fields(AcknowledgementRow))
_ACKNOWLEDGED = TypeAdapter(list[Acknowledged])


class AcknowledgementGateway:
    """Writes the answers that one worker received."""

    def __init__(self, database: DatabaseFunctions, worker: str, policy: RetryPolicy) -> None:
        self._database = database
        self._worker = worker
        self._policy = policy

    async def acknowledge(self, rows: Sequence[AcknowledgementRow]) -> list[Acknowledged]:
        """Write devices' answers into their commands, in this order; one result for each."""
        return await self._database.call(
            "fn_acknowledge_commands",
            _ACKNOWLEDGED,
            p_acks=[_document(row) for row in rows],
            p_worker=self._worker,
            p_max_retries=self._policy.max_retries,
            p_retry_delay_seconds=self._policy.retry_delay,
        )


def _document(row: AcknowledgementRow) -> dict[str, Any]:
    """Moments go as durations, since the database has another clock."""
    document = {name: getattr(row, name) for name in _FIELDS}
    document["received_seconds_ago"] = _seconds_since(document.pop("received_at"))
    document["session_seconds"] = _seconds_since(document.pop("session_started_at"))
    return document


def _seconds_since(moment: float | None) -> float | None:
    return None if moment is None else time.monotonic() - moment
