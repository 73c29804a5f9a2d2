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

    `ended`: the device has received its next wake time, or there is no such visit. `took_over`: this call
    gave this worker the lease. `open_commands` are due, leased, or sent in this visit without an answer;
    `schedule_sent`: a `set_wake_schedule` was sent in this visit. `settled_names` are pictures that were
    stored or failed in this visit, `pending_names` the others.
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
    """A message to a device that has no row in `device_commands`: the input of `fn_record_replies`.

    `withdrawn`: it was recorded before, and then it was not sent, or nobody was subscribed.
    """

    reply_id: UUID
    device_id: UUID
    reply_type: str
    withdrawn: bool = False


_VISITS = TypeAdapter(list[VisitRow])
_REPLY_ROWS = TypeAdapter(list[ReplyRow])


class VisitGateway:
    """Renews, takes over and ends visits for one worker, and records the replies that devices get in them."""

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
        """Take over visits whose lease has run out, whether or not this worker received their messages."""
        return await self._database.call(
            "fn_take_over_visits", _VISITS, p_worker=self._worker, p_lease_seconds=self._lease
        )

    async def end_visits(self, device_ids: Sequence[UUID]) -> None:
        """Record that these devices have received their next wake time."""
        await self._database.call(
            "fn_end_visits",
            NO_ANSWER,
            p_worker=self._worker,
            p_device_ids=[str(device_id) for device_id in device_ids],
        )

    async def record_replies(self, replies: Sequence[ReplyRow]) -> None:
        """Record the replies that are about to be sent to devices."""
        await self._database.call(
            "fn_record_replies",
            NO_ANSWER,
            p_worker=self._worker,
            p_replies=_REPLY_ROWS.dump_python(list(replies), mode="json"),
        )
