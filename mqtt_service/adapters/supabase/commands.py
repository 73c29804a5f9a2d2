"""Commands in the database: claim those that are due, and settle what became of each attempt.

The migrations say at each function what its parameters and its answer mean. Times are aware datetimes of the
database's clock; durations are seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from mqtt_service.adapters.supabase.transport import DatabaseFunctions, validated
from mqtt_service.protocol.commands import Command


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When failed commands are tried again, and how long a command lives; seconds.

    `standby`: how long a command is left to another service that sends commands too; 0: there is none.
    """

    max_retries: int
    retry_delay: float
    command_ttl: float
    standby: float = 0.0


@dataclass(frozen=True, slots=True)
class FailedCommand:
    """A command that the database failed as it was claimed: its device is not active, or its row refuses."""

    command_id: UUID
    device_id: UUID
    device_code: str | None
    command_type: str
    retry_count: int
    final: bool
    error: str


@dataclass(frozen=True, slots=True)
class ExpiredCommand:
    """A command that expired before its device answered; `error` says whether it had been delivered."""

    command_id: UUID
    device_id: UUID
    device_code: str | None
    command_type: str
    error: str = "expired before the device answered"


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A command that the database refuses to change, with its reason; it stays as it is.

    `waiting`: so many due commands of its device wait behind it, since their order must stand.
    """

    command_id: UUID
    device_code: str | None
    error: str
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class UnreadableCommand:
    """A leased row that does not have the agreed shape; `reason` says where."""

    command_id: UUID
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to `fn_claim_commands`: commands are in the order in which to publish them.

    `refused`: the first of those that the database refuses to change; the claim passes over all
    `refused_count` of them.
    `rescued`: by worker, how many of the commands were leased to it before and not settled in time.
    `unknown_types`: types of commands that are left alone, since nobody listed them.
    `visits_due`: some device is awake and the lease of its visit has run out.
    `waited`: by command_id, the seconds since each was to be sent (was inserted, or scheduled for).
    `newest_age`: the seconds since the newest of the commands that were never claimed before was inserted.
    """

    commands: list[Command]
    unreadable: list[UnreadableCommand] = field(default_factory=list)
    failed: list[FailedCommand] = field(default_factory=list)
    expired: list[ExpiredCommand] = field(default_factory=list)
    refused: list[RefusedCommand] = field(default_factory=list)
    refused_count: int = 0
    rescued: Mapping[str, int] = field(default_factory=dict)
    unknown_types: Sequence[str] = ()
    welcome_due: bool = False
    visits_due: bool = False
    more: bool = False
    seconds_to_next_due: float | None = None
    newest_age: float | None = None
    waited: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of one attempt: the input of `fn_settle_commands`.

    `notice`: what a person should know of a command that was sent (`device_commands.delivery_notice`).
    """

    command_id: UUID
    attempt: int
    outcome: Literal["sent", "failed", "released"]
    error: str | None = None
    retry: bool = True
    no_listener: bool = False
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement did.

    `stale`: nothing, the lease had passed on or the attempt was settled before. `refused`: nothing, since the
    project refuses the change, with the reason in `error`; the command is still leased.
    """

    command_id: UUID
    result: Literal["settled", "stale", "refused"]
    status: str | None = None
    retry_count: int | None = None
    final: bool | None = None
    error: str | None = None


_CLAIM = "fn_claim_commands"
# Built once: reading the answer to an idle poll takes less time than making one of these.
_DOCUMENT = TypeAdapter(dict[str, Any])
_ROWS = TypeAdapter(list[dict[str, Any]])
_COMMAND = TypeAdapter(Command)
_COMMANDS = TypeAdapter(list[Command])
_UNREADABLE_KEYS = TypeAdapter(tuple[UUID, int])
_FAILED = TypeAdapter(list[FailedCommand])
_EXPIRED = TypeAdapter(list[ExpiredCommand])
_REFUSED = TypeAdapter(list[RefusedCommand])
_RESCUED: TypeAdapter[Mapping[str, int]] = TypeAdapter(dict[str, int])
_WORDS: TypeAdapter[Sequence[str]] = TypeAdapter(list[str])
_SECONDS = TypeAdapter(float | None)
_COUNT = TypeAdapter(int)
_SETTLED = TypeAdapter(list[Settled])


class CommandGateway:
    """Claims and settles commands for one worker."""

    def __init__(self, database: DatabaseFunctions, worker: str, policy: RetryPolicy) -> None:
        self._database = database
        self._worker = worker
        self._policy = policy

    async def claim(self, *, limit: int, lease: float, held: Sequence[UUID]) -> Claim:
        """Lease up to `limit` due commands for `lease` seconds; limit 0 only expires and fails what is due.

        `held` names the commands of earlier claims that are not settled. Any other lease of this worker comes
        from a claim whose answer was lost, and its command is handed out again.
        """
        document = await self._database.call(
            _CLAIM,
            _DOCUMENT,
            p_worker=self._worker,
            p_limit=limit,
            p_lease_seconds=lease,
            p_command_ttl_seconds=self._policy.command_ttl,
            p_held=[str(command_id) for command_id in held],
            p_max_retries=self._policy.max_retries,
            p_retry_delay_seconds=self._policy.retry_delay,
            p_standby_seconds=self._policy.standby,
        )
        return _claim(document)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Report what became of attempts; one whose lease has passed on comes back as stale."""
        return await self._database.call(
            "fn_settle_commands",
            _SETTLED,
            p_worker=self._worker,
            p_results=[_document(item) for item in settlements],
            p_max_retries=self._policy.max_retries,
            p_retry_delay_seconds=self._policy.retry_delay,
        )


def _document(settlement: Settlement) -> dict[str, object]:
    return {
        "command_id": str(settlement.command_id),
        "attempt": settlement.attempt,
        "outcome": settlement.outcome,
        "error": settlement.error,
        "retry": settlement.retry,
        "no_listener": settlement.no_listener,
        "notice": settlement.notice,
    }


def _claim(document: dict[str, Any]) -> Claim:
    commands, unreadable = _commands(document.get("commands"))
    return Claim(
        commands=commands,
        unreadable=unreadable,
        failed=validated(_FAILED, document.get("failed"), _CLAIM),
        expired=validated(_EXPIRED, document.get("expired"), _CLAIM),
        refused=validated(_REFUSED, document.get("refused", []), _CLAIM),
        refused_count=validated(_COUNT, document.get("refused_count", 0), _CLAIM),
        rescued=validated(_RESCUED, document.get("rescued", {}), _CLAIM),
        unknown_types=validated(_WORDS, document.get("unknown_types", []), _CLAIM),
        welcome_due=document.get("welcome_due") is True,
        visits_due=document.get("visits_due") is True,
        more=document.get("more") is True,
        seconds_to_next_due=validated(_SECONDS, document.get("seconds_to_next_due"), _CLAIM),
        newest_age=_newest_age(document),
        waited=_waited(document),
    )


def _commands(answer: object) -> tuple[list[Command], list[UnreadableCommand]]:
    """All at once; if one has the wrong shape, each alone, so that it does not hold up the others."""
    rows = validated(_ROWS, answer, _CLAIM)
    for row in rows:
        row["payload"] = row.pop("command_payload", None)
    try:
        return _COMMANDS.validate_python(rows), []
    except ValidationError:
        return _readable_commands(rows)


def _readable_commands(rows: list[dict[str, Any]]) -> tuple[list[Command], list[UnreadableCommand]]:
    commands: list[Command] = []
    unreadable: list[UnreadableCommand] = []
    for row in rows:
        try:
            commands.append(_COMMAND.validate_python(row))
        except ValidationError as error:
            keys = validated(_UNREADABLE_KEYS, (row.get("command_id"), row.get("attempt")), _CLAIM)
            first = error.errors(include_url=False, include_input=False)[0]
            unreadable.append(UnreadableCommand(*keys, f"{first['loc'][0]}: {first['msg']}"))
    return commands, unreadable


def _newest_age(document: dict[str, Any]) -> float | None:
    """See `Claim`; None also where times cannot be read, since only the check of Realtime needs them."""
    try:
        issued = [row["issued_at"] for row in document["commands"] if row["attempt"] == 1]
        ages = [datetime.fromisoformat(document["now"]) - datetime.fromisoformat(moment) for moment in issued]
    except (KeyError, TypeError, ValueError):
        return None
    return min(ages).total_seconds() if ages else None


def _waited(document: dict[str, Any]) -> dict[str, float]:
    """See `Claim`; empty where the migration that measures it is not applied yet: only metrics need it."""
    rows = document.get("commands") or ()
    return {
        row["command_id"]: waited
        for row in rows
        if isinstance(waited := row.get("waited_seconds"), float | int)
    }
