"""Takes the steps of a visit that need database, Storage or broker, and tells its state what came of each."""

import asyncio
import logging
from contextlib import suppress

from mqtt_service.adapters.supabase.images import ImageRecorded, ImageSettled
from mqtt_service.devices.giving_up import Failure, missing_failure
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.reply_publisher import LeaseLostError, ReplyPublisher
from mqtt_service.devices.visit_pictures import MOST_REQUESTS
from mqtt_service.devices.visit_state import VisitState
from mqtt_service.devices.visit_steps import (
    AckOk,
    BeginVisit,
    FailPicture,
    MissingChunks,
    NextWake,
    ReadPictureRow,
    Reply,
    StorePicture,
)
from mqtt_service.errors import ServiceError
from mqtt_service.log import context
from mqtt_service.protocol.assembly import Assembly
from mqtt_service.protocol.topics import device_key

log = logging.getLogger(__name__)

# Seconds.
_RECORD_FAILURES_TIMEOUT = 10.0
_MOST_CHUNKS_NAMED = 20


class VisitActions:
    """The steps of one visit. They raise LeaseLostError where another worker turns out to hold its lease."""

    def __init__(self, state: VisitState, pictures: Pictures, publisher: ReplyPublisher) -> None:
        self._state = state
        self._pictures = pictures
        self._publisher = publisher
        self._key = device_key(state.device)

    async def take(self, step: BeginVisit | ReadPictureRow | StorePicture | FailPicture | Reply) -> None:
        """Take one step; returns when it is done."""
        match step:
            case BeginVisit(name):
                await self._begin_visit(name)
            case ReadPictureRow(name):
                await self._read_picture_row(name)
            case StorePicture(name):
                await self._store(name)
            case FailPicture(name, requests):
                await self._fail(name, requests)
            case MissingChunks():
                await self._request_chunks(step)
            case _:
                await self.tell(step)

    async def tell(self, reply: Reply) -> None:
        """Tell the device."""
        match reply:
            case AckOk(name):
                # What is there under that name again is another picture, which is not stored.
                told = await self._publisher.publish(reply, unless=lambda: self._unfinished(name) is not None)
                if told:
                    self._state.told_ack_ok()
            case NextWake():
                await self._publisher.publish(reply)
                self._state.told_next_wake()
            case _:
                await self._publisher.publish(reply)

    async def give_up(self, reason: str) -> None:
        """End the visit before its time: the device is told to sleep, and its pictures' rows say why."""
        log.warning("[VISIT] Given up: %s", reason, extra=self.log_context())
        with suppress(LeaseLostError, ServiceError):
            await self._publisher.publish(NextWake(self._state.row.next_wake_at))
        with suppress(LeaseLostError, ServiceError, TimeoutError):
            async with asyncio.timeout(_RECORD_FAILURES_TIMEOUT):
                for assembly in self._pictures.unfinished(self._key) if self._state.holds_lease else ():
                    recorded = await self._record(assembly.name)
                    key = (self._key, assembly.name)
                    await self._pictures.fail(key, recorded, Failure(f"not finished: {reason}"))

    def log_context(self) -> dict[str, object]:
        """The `extra` of a log line about this visit."""
        return context(device=self._state.row.device_code or self._state.device)

    async def _begin_visit(self, name: str) -> None:
        recorded = await self._pictures.record(self._state.device, name)
        if recorded.result in {"unknown_device", "refused"}:
            reason = recorded.error or "the device is not registered and may not register itself"
            log.warning("[VISIT] Chunks dropped: %s", reason, extra=self.log_context())
            self._state.visit_refused()
        else:
            self._state.picture_recorded(recorded)

    async def _read_picture_row(self, name: str) -> None:
        recorded = await self._record(name)
        if recorded.result == "complete":
            self._pictures.mark_finished((self._key, name))
            self._state.picture_stored(name, recorded.next_wake_at)

    async def _store(self, name: str) -> None:
        recorded = await self._record(name)
        if recorded.result == "complete":
            self._state.picture_stored(name, recorded.next_wake_at)
            return
        self._settled(name, await self._pictures.store((self._key, name), recorded))

    def _settled(self, name: str, settled: ImageSettled | None) -> None:
        """The picture is stored, or given up so that the device is to delete it; None: it keeps its copy."""
        if settled is None:
            self._state.picture_failed(name)
        else:
            self._state.picture_stored(name, settled.next_wake_at)

    async def _fail(self, name: str, requests: int) -> None:
        assembly = self._unfinished(name)
        failure = missing_failure(assembly, _describe_missing(assembly))
        recorded = await self._record(name)
        if recorded.result == "complete":  # another worker stored it in this visit
            self._state.picture_stored(name, recorded.next_wake_at)
            return
        settled = await self._pictures.fail((self._key, name), recorded, failure, requests)
        self._settled(name, settled)

    async def _request_chunks(self, request: MissingChunks) -> None:
        log.info(
            "[IMAGE] %s is missing %d chunk(s): requesting them (%d of %d)",
            request.name,
            len(request.chunks),
            request.requests,
            MOST_REQUESTS,
            extra=self.log_context(),
        )
        assembly = self._unfinished(request.name)
        await self._publisher.publish(request)
        recorded = await self._record(request.name)
        await self._pictures.chunks_requested(recorded, assembly, request.requests)

    async def _record(self, name: str) -> ImageRecorded:
        recorded = await self._pictures.record(self._state.device, name)
        if recorded.result == "silent":
            self._state.lease_lost()
            raise LeaseLostError
        return recorded

    def _unfinished(self, name: str) -> Assembly | None:
        return self._pictures.get((self._key, name))


def _describe_missing(assembly: Assembly | None) -> str:
    if assembly is None or (assembly.metadata is None and not assembly.received):
        return f"the device sent nothing of it though asked for it {MOST_REQUESTS} times"
    if assembly.metadata is None:
        return f"its metadata did not come though asked for {MOST_REQUESTS} times"
    missing = assembly.missing()
    named = ", ".join(str(chunk) for chunk in missing[:_MOST_CHUNKS_NAMED])
    more = ", …" if len(missing) > _MOST_CHUNKS_NAMED else ""
    return (
        f"{len(missing)} of {assembly.total} chunks did not come though asked for {MOST_REQUESTS} times "
        f"(chunk ids: {named}{more})"
    )
