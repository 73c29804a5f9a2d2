"""Visits in the database: a device is awake, and one worker holds the lease of the talk with it.

Durations are seconds; times are aware datetimes of the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import NO_ANSWER, DatabaseFunctions
from mqtt_service.protocol.topics import Root


@dataclass(frozen=True, slots=True)
class VisitPolicy:
    """How devices that wake are taken in; seconds.

    `register`: a device nobody knows is registered, at most `registrations_per_minute` of them over all
    workers. An unanswered command is delivered again on wake at most `redelivery_limit` times. A worker that
    does not renew a visit for `lease` loses it to another.
    """

    register: bool = True
    registrations_per_minute: int = 60
    redelivery_limit: int = 3
    lease: float = 10.0


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
class ReplyRow:
    """What a device is told without a row of `device_commands`: the input of `fn_record_replies`.

    `unsaid`: it was noted before, and not said, or nobody listened.
    """

    reply_id: UUID
    device_id: UUID
    reply_type: str
    unsaid: bool = False


_VISITS = TypeAdapter(list[VisitRow])
_REPLY_ROWS = TypeAdapter(list[ReplyRow])


class VisitGateway:
    """Renews, takes over and ends visits for one worker, and notes what devices are told in them."""

    def __init__(self, database: DatabaseFunctions, worker: str, policy: VisitPolicy) -> None:
        self._database = database
        self._worker = worker
        self._lease = policy.lease

    async def renew_visits(
        self, devices: Sequence[tuple[str, str]], *, lease: float | None = None
    ) -> list[VisitRow]:
        """Renew this worker's visits among these (root, id), take over lapsed ones; one result for each.

        `lease` 0 gives them back: another worker may take over at once.
        """
        return await self._database.call(
            "fn_renew_visits",
            _VISITS,
            p_worker=self._worker,
            p_devices=[{"topic_root": root, "topic_id": device} for root, device in devices],
            p_lease_seconds=self._lease if lease is None else lease,
        )

    async def take_over_visits(self) -> list[VisitRow]:
        """Take over visits whose worker is gone, whether or not this one heard of them."""
        return await self._database.call(
            "fn_take_over_visits", _VISITS, p_worker=self._worker, p_lease_seconds=self._lease
        )

    async def end_visits(self, device_ids: Sequence[UUID]) -> None:
        """Note that these devices were told when to wake."""
        await self._database.call(
            "fn_end_visits",
            NO_ANSWER,
            p_worker=self._worker,
            p_device_ids=[str(device_id) for device_id in device_ids],
        )

    async def record_replies(self, replies: Sequence[ReplyRow]) -> None:
        """Note what devices are about to be told."""
        await self._database.call(
            "fn_record_replies",
            NO_ANSWER,
            p_worker=self._worker,
            p_replies=_REPLY_ROWS.dump_python(list(replies), mode="json"),
        )
