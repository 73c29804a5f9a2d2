"""Every call to Supabase's database API: dataclasses in, dataclasses out, our errors instead of the API's.

All calls are safe to repeat when their outcome is unknown (the SQL says why at each function). Each raises
SupabaseUnavailableError where waiting can help, ProjectMisconfiguredError where a person must, and
PermanentError where the call itself is refused.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import httpx
from postgrest.exceptions import APIError
from pydantic import TypeAdapter, ValidationError
from supabase import AsyncClient, AsyncClientOptions

from mqtt_service.adapters import api_errors
from mqtt_service.adapters.rows import (
    Acknowledged,
    AcknowledgementRow,
    Claim,
    ExpiredCommand,
    FailedCommand,
    HelloRecorded,
    HelloRow,
    ImageOutcome,
    ImageRecorded,
    ImageRow,
    ImageSettled,
    IncompleteDevice,
    Initialized,
    RefusedCommand,
    ReplyRow,
    Settled,
    Settlement,
    UnreadableCommand,
    VisitRow,
    Welcome,
)
from mqtt_service.errors import PermanentError, ServiceError, SupabaseUnavailableError
from mqtt_service.protocol.commands import Command

T = TypeVar("T")

# Built once: reading the answer to an idle poll takes less time than making one of these.
_DOCUMENT = TypeAdapter(dict[str, Any])
_ROWS = TypeAdapter(list[dict[str, Any]])
_SECONDS = TypeAdapter(float | None)
_COMMAND = TypeAdapter(Command)
_FAILED = TypeAdapter(list[FailedCommand])
_EXPIRED = TypeAdapter(list[ExpiredCommand])
_REFUSED = TypeAdapter(list[RefusedCommand])
_RESCUED: TypeAdapter[Mapping[str, int]] = TypeAdapter(dict[str, int])
_UNREADABLE_KEYS = TypeAdapter(tuple[UUID, int])
_SETTLED = TypeAdapter(list[Settled])
_ACKNOWLEDGED = TypeAdapter(list[Acknowledged])
_WELCOMES = TypeAdapter(list[Welcome])
_INCOMPLETE = TypeAdapter(list[IncompleteDevice])
_INITIALIZED = TypeAdapter(Initialized)
_INSTANCE = TypeAdapter(dict[str, str])
_HELLOS = TypeAdapter(list[HelloRecorded])
_VISITS = TypeAdapter(list[VisitRow])
_IMAGES = TypeAdapter(list[ImageRecorded])
_IMAGES_SETTLED = TypeAdapter(list[ImageSettled])
# What goes out: times and ids as JSON has them.
_HELLO_ROWS = TypeAdapter(list[HelloRow])
_IMAGE_ROWS = TypeAdapter(list[ImageRow])
_OUTCOMES = TypeAdapter(list[ImageOutcome])
_REPLY_ROWS = TypeAdapter(list[ReplyRow])

_LONGEST_CONNECT = 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When failed commands are tried again, and for how long a command lives; seconds."""

    max_retries: int
    retry_delay: float
    command_ttl: float


@dataclass(frozen=True, slots=True)
class VisitPolicy:
    """How devices that wake are taken in; seconds.

    `register`: a device nobody knows is registered, at most `registrations_per_minute` of them over all
    workers. An unanswered command is delivered again on wake at most `redelivery_limit` times. A device whose
    worker is silent for `lease` gets another.
    """

    register: bool = True
    registrations_per_minute: int = 60
    redelivery_limit: int = 3
    lease: float = 10.0


async def connect(url: str, key: str, patience: float = 10.0) -> AsyncClient:
    """Create the one Supabase client of this process; it makes no request yet.

    An answer is waited for up to `patience` seconds; a call of hundreds of rows takes tens of milliseconds.

    The HTTP client is ours for its time-outs, and so that a status is judged before the library reads it. It
    speaks no HTTP/2: all calls share one connection there, so the answer to any is a sign of life for all,
    and one that is never answered waits for ever beside a poll.
    """
    http = httpx.AsyncClient(
        http2=False,
        timeout=httpx.Timeout(patience, connect=min(patience, _LONGEST_CONNECT)),
        follow_redirects=True,
        event_hooks={"response": [api_errors.refuse_by_status]},
    )
    options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
    return await AsyncClient.create(url, key, options)


class Gateway:
    """The worker's view of the database, for one worker id."""

    def __init__(
        self,
        client: AsyncClient,
        worker: str,
        policy: RetryPolicy,
        visits: VisitPolicy = VisitPolicy(),
    ) -> None:
        self._client = client
        self._worker = worker
        self._registration = {
            "p_register": visits.register,
            "p_registrations_per_minute": visits.registrations_per_minute,
        }
        self._redelivery_limit = visits.redelivery_limit
        self._visit_lease = visits.lease
        self._retry = {
            "p_max_retries": policy.max_retries,
            "p_retry_delay_seconds": policy.retry_delay,
        }
        self._command_ttl = policy.command_ttl
        self._under_way: dict[object, None] = {}  # in the order in which they began

    @property
    def oldest_call(self) -> object | None:
        """What stands for the call that has been under way for longest; None where none is."""
        return next(iter(self._under_way), None)

    async def claim(self, *, limit: int, lease: float, held: Sequence[UUID]) -> Claim:
        """Lease up to `limit` due commands for `lease` seconds; limit 0 only expires and fails what is due.

        `held` names the commands of earlier claims that are not settled; other leases of this worker are
        answers that got lost, and come back.
        """
        answer = await self._rpc(
            "fn_claim_commands",
            p_worker=self._worker,
            p_limit=limit,
            p_lease_seconds=lease,
            p_command_ttl_seconds=self._command_ttl,
            p_held=[str(command_id) for command_id in held],
            **self._retry,
        )
        return _claim(answer)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Report what became of attempts; one whose lease has passed on comes back as stale."""
        answer = await self._rpc(
            "fn_settle_commands",
            p_worker=self._worker,
            p_results=[{**asdict(item), "command_id": str(item.command_id)} for item in settlements],
            **self._retry,
        )
        return _shaped(_SETTLED, answer, "fn_settle_commands")

    async def acknowledge(self, rows: Sequence[AcknowledgementRow]) -> list[Acknowledged]:
        """Write devices' answers into their commands, in this order; one result for each."""
        answer = await self._rpc(
            "fn_acknowledge_commands",
            p_acks=[_ack_document(row) for row in rows],
            p_worker=self._worker,
            **self._retry,
        )
        return _shaped(_ACKNOWLEDGED, answer, "fn_acknowledge_commands")

    async def note_replies(self, replies: Sequence[ReplyRow]) -> None:
        """Note what devices are about to be told."""
        await self._rpc(
            "fn_record_replies",
            p_worker=self._worker,
            p_replies=_REPLY_ROWS.dump_python(list(replies), mode="json"),
        )

    async def queue_welcomes(self, device_ids: Sequence[UUID] | None, *, limit: int) -> list[Welcome]:
        """Queue the welcome of these devices (None: of all that await one) and return those queued now."""
        answer = await self._rpc(
            "fn_queue_welcome_commands",
            p_device_ids=None if device_ids is None else [str(device_id) for device_id in device_ids],
            p_limit=limit,
        )
        return _shaped(_WELCOMES, answer, "fn_queue_welcome_commands")

    async def record_hellos(self, hellos: Sequence[HelloRow]) -> list[HelloRecorded]:
        """Write devices' HELLOs and begin their visits, in this order; one result for each."""
        answer = await self._rpc(
            "fn_record_heartbeats",
            p_worker=self._worker,
            p_heartbeats=_HELLO_ROWS.dump_python(list(hellos), mode="json"),
            p_redelivery_limit=self._redelivery_limit,
            p_lease_seconds=self._visit_lease,
            **self._registration,
        )
        return _shaped(_HELLOS, answer, "fn_record_heartbeats")

    async def hold_visits(
        self, devices: Sequence[tuple[str, str]], *, lease: float | None = None
    ) -> list[VisitRow]:
        """Renew this worker's visits among these (root, id), take over lapsed ones; one result for each.

        `lease` 0 gives them back: another worker may take over at once.
        """
        answer = await self._rpc(
            "fn_renew_visits",
            p_worker=self._worker,
            p_devices=[{"topic_root": root, "topic_id": device} for root, device in devices],
            p_lease_seconds=self._visit_lease if lease is None else lease,
        )
        return _shaped(_VISITS, answer, "fn_renew_visits")

    async def adopt_visits(self) -> list[VisitRow]:
        """Take over visits whose worker is gone, whether or not this one heard of them."""
        answer = await self._rpc(
            "fn_take_over_visits", p_worker=self._worker, p_lease_seconds=self._visit_lease
        )
        return _shaped(_VISITS, answer, "fn_take_over_visits")

    async def end_visits(self, device_ids: Sequence[UUID]) -> None:
        """Note that these devices were told when to wake."""
        await self._rpc(
            "fn_end_visits", p_worker=self._worker, p_device_ids=[str(device_id) for device_id in device_ids]
        )

    async def record_images(self, images: Sequence[ImageRow]) -> list[ImageRecorded]:
        """Write announced pictures and their readings, in this order; one result for each."""
        answer = await self._rpc(
            "fn_record_images",
            p_worker=self._worker,
            p_images=_IMAGE_ROWS.dump_python(list(images), mode="json"),
            p_lease_seconds=self._visit_lease,
            **self._registration,
        )
        return _shaped(_IMAGES, answer, "fn_record_images")

    async def settle_images(self, outcomes: Sequence[ImageOutcome]) -> list[ImageSettled]:
        """Report what became of pictures, in this order; one result for each."""
        answer = await self._rpc(
            "fn_settle_images",
            p_worker=self._worker,
            p_results=_OUTCOMES.dump_python(list(outcomes), mode="json"),
        )
        return _shaped(_IMAGES_SETTLED, answer, "fn_settle_images")

    async def announce(self, client_id: str, *, started_ago: float) -> str:
        """Tell that this process, so many seconds old, goes by the client id; returns the newest such."""
        answer = await self._rpc(
            "fn_announce_worker", p_client_id=client_id, p_worker=self._worker, p_started_ago=started_ago
        )
        return _shaped(_INSTANCE, answer, "fn_announce_worker")["worker"]

    async def find_incomplete_lineage(self, after: UUID | None, limit: int) -> list[IncompleteDevice]:
        """One page of devices whose lineage is incomplete, by device_id, beginning behind `after`."""
        query = self._client.rpc("fn_find_devices_with_incomplete_lineage").order("device_id").limit(limit)
        if after is not None:
            query = query.gt("device_id", str(after))
        answer = await _execute(query, "fn_find_devices_with_incomplete_lineage")
        return _shaped(_INCOMPLETE, answer, "fn_find_devices_with_incomplete_lineage")

    async def initialize_device(self, device_id: UUID, site_id: UUID, program_id: UUID | None) -> Initialized:
        """Fill in a mapped device's lineage and activate it."""
        answer = await self._rpc(
            "fn_initialize_device_after_mapping",
            p_device_id=str(device_id),
            p_site_id=str(site_id),
            p_program_id=None if program_id is None else str(program_id),
        )
        return _shaped(_INITIALIZED, answer, "fn_initialize_device_after_mapping")

    async def _rpc(self, function: str, **parameters: object) -> object:
        call = object()
        self._under_way[call] = None
        try:
            return await _execute(self._client.rpc(function, parameters), function)
        except (ValueError, TypeError, RecursionError) as error:
            raise _unreadable(function, parameters, error) from error
        finally:
            del self._under_way[call]


async def _execute(query: Any, call: str) -> object:  # noqa: ANN401 - the library's builders share no base
    try:
        response = await query.execute()
    except httpx.HTTPError as error:
        raise api_errors.from_network_error(error, call) from error
    except APIError as error:
        raise api_errors.from_api_error(error, call) from error
    data: object = response.data
    return data


def _unreadable(call: str, parameters: object, error: Exception) -> ServiceError:
    """What it means that a question could not be written as JSON, or its answer not be read."""
    try:
        json.dumps(parameters, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as fault:
        return PermanentError(f"{call} cannot be asked: {fault}")
    return SupabaseUnavailableError(f"the answer to {call} cannot be read: {error}")


def _shaped(adapter: TypeAdapter[T], data: object, call: str) -> T:
    """Validate an answer; a proxy's page or a cut body is no answer, so the call is to be repeated."""
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole answer"
        raise SupabaseUnavailableError(
            f"the answer to {call} is not what it should be ({where}: {first['msg']}); if this stays, "
            "the migrations in the database and this version do not belong together"
        ) from error


def _ack_document(row: AcknowledgementRow) -> dict[str, Any]:
    """Times go as durations: the database's clock is another."""
    document = asdict(row)
    for moment, duration in (("heard_at", "received_seconds_ago"), ("heard_since", "session_seconds")):
        at = document.pop(moment)
        document[duration] = None if at is None else time.monotonic() - at
    return document


def _claim(answer: object) -> Claim:
    call = "fn_claim_commands"
    document = _shaped(_DOCUMENT, answer, call)
    commands: list[Command] = []
    unreadable: list[UnreadableCommand] = []
    for row in _shaped(_ROWS, document.get("commands"), call):
        try:
            commands.append(_COMMAND.validate_python({**row, "payload": row.get("command_payload")}))
        except ValidationError as error:
            keys = _shaped(_UNREADABLE_KEYS, (row.get("command_id"), row.get("attempt")), call)
            first = error.errors(include_url=False, include_input=False)[0]
            unreadable.append(UnreadableCommand(*keys, f"{first['loc'][0]}: {first['msg']}"))
    return Claim(
        commands=commands,
        unreadable=unreadable,
        failed=_shaped(_FAILED, document.get("failed"), call),
        expired=_shaped(_EXPIRED, document.get("expired"), call),
        refused=_shaped(_REFUSED, document.get("refused", []), call),
        rescued=_shaped(_RESCUED, document.get("rescued", {}), call),
        welcome_due=document.get("welcome_due") is True,
        visits_due=document.get("visits_due") is True,
        more=document.get("more") is True,
        seconds_to_next_due=_shaped(_SECONDS, document.get("seconds_to_next_due"), call),
        newest_age=_newest_age(document),
    )


def _newest_age(claim: dict[str, Any]) -> float | None:
    """See `Claim`; None also where times cannot be read: only the watch over the doorbell needs them."""
    try:
        issued = [row["issued_at"] for row in claim["commands"] if row["attempt"] == 1]
        ages = [datetime.fromisoformat(claim["now"]) - datetime.fromisoformat(moment) for moment in issued]
    except (KeyError, TypeError, ValueError):
        return None
    return min(ages).total_seconds() if ages else None
