"""One visit: does for a device that is awake what visit_state.py decides, until it sleeps again.

    commands   its due commands go out at once, by the queue; they are given time to be answered
    pictures   one after another: what it is sending, then what it said is pending; ACK_OK once each is stored
    sleep      it is told when to wake, unless a command or the last ACK_OK said so

Every worker that hears the device has a visit for it. Only the one that holds the visit's lease answers; any
other listens, keeps the same pictures, and goes on from there when it gets the lease.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.adapters.supabase.visits import VisitRow
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.devices.reply_publisher import LeaseLostError, ReplyPublisher
from mqtt_service.devices.visit_state import MOST_REQUESTS, DevicePictures, VisitState
from mqtt_service.devices.visit_steps import (
    AckOk,
    BeginVisit,
    End,
    FailPicture,
    MissingChunks,
    NextWake,
    ReadPictureRow,
    Reply,
    Step,
    StorePicture,
    Wait,
    WatchCommands,
)
from mqtt_service.errors import ServiceError
from mqtt_service.log import context
from mqtt_service.protocol.assembly import Assembly
from mqtt_service.protocol.commands import WakeFormat
from mqtt_service.protocol.images import ImageMetadata
from mqtt_service.protocol.topics import Root, device_key
from mqtt_service.publisher import Publisher

log = logging.getLogger(__name__)

# Seconds.
_COMMAND_CHECK_INTERVAL = 2.0
_METADATA_REPLY_TIMEOUT = 5.0
_RECORD_FAILURES_TIMEOUT = 10.0

_MOST_CHUNKS_NAMED = 20


@dataclass(frozen=True, slots=True)
class VisitOptions:
    """How long a device is waited for; seconds.

    `silence`: one that says nothing for so long waits for us. `command_patience`: how long open commands
    keep pictures and sleep waiting. `longest`: a visit is given up then, whatever is open. `lease`: within
    this time another worker takes over from one that died.
    """

    lease: float = 10.0
    silence: float = 5.0
    command_patience: float = 15.0
    longest: float = 600.0
    wake_format: WakeFormat = "12h"


@dataclass(frozen=True, slots=True)
class VisitServices:
    """What every visit works with.

    `request_row` has its row read anew and given to `row_read`. `on_end` is called once, at its end.
    """

    link: Publisher
    pictures: Pictures
    reply_log: ReplyLog
    options: VisitOptions
    request_row: Callable[["Visit"], None]
    on_end: Callable[["Visit"], None]


class Visit:
    """One device, awake. `start` it once; whatever concerns the device is told to it.

    `row` is None where a picture's message came of a device whose heartbeat was not heard.
    """

    def __init__(self, services: VisitServices, root: Root, device: str, row: VisitRow | None) -> None:
        options = services.options
        self._clock = asyncio.get_running_loop().time
        self._state = VisitState(
            root,
            device,
            row,
            self._clock(),
            silence=options.silence,
            command_patience=options.command_patience,
        )
        self._publisher = ReplyPublisher(
            services.link, services.reply_log, self._state, options.wake_format, self._clock
        )
        self._services = services
        self._pictures = services.pictures
        self._news = asyncio.Event()
        self._row_arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.key = device_key(device)
        self.row_read_at = self._clock()

    @property
    def address(self) -> tuple[Root, str]:
        """The root on which the device listens, and its id as it spells itself."""
        return self._state.address

    @property
    def begun(self) -> bool:
        """Whether the database knows of this visit."""
        return self._state.begun

    @property
    def holds_lease(self) -> bool:
        """Whether this worker is the one that answers the device."""
        return self._state.holds_lease

    @property
    def device_id(self) -> UUID | None:
        """The id of the device's row; None as long as it is not known."""
        return self._state.row.device_id

    # What happens to it ------------------------------------------------------------------------------------

    def start(self) -> None:
        """See to the device in the background."""
        self._task = asyncio.create_task(self._run(), name=f"visit of {self._state.device}")

    def cancel(self) -> None:
        """Stop seeing to it, at once and without a word."""
        if self._task is not None:
            self._task.cancel()

    def device_heard(self) -> None:
        """The device sent something about a picture."""
        self._state.heard(self._clock())

    def picture_complete(self) -> None:
        """The last chunk of a picture came."""
        self._news.set()

    def command_acknowledged(self, command_type: str | None) -> None:
        """The device answered a command, and the command's row says so."""
        self._state.command_acknowledged(command_type, self._clock())
        self._news.set()

    def row_read(self, row: VisitRow) -> None:
        """The database says how the visit stands."""
        self.row_read_at = self._clock()
        for name in self._state.row_read(row):
            self._pictures.mark_finished((self.key, name))
        self._row_arrived.set()
        self._news.set()

    def picture_recorded(self, recorded: ImageRecorded) -> None:
        """A picture is in its row, which tells who holds the lease, and where the device listens."""
        self._state.picture_recorded(recorded)
        if recorded.result in {"receiving", "complete"}:  # which renewed our lease
            self.row_read_at = self._clock()
        self._news.set()

    async def picture_announced(self, metadata: ImageMetadata, recorded: ImageRecorded) -> None:
        """A picture's metadata is in its row; the device is answered, if that is ours to do.

        The messages behind this one wait meanwhile, so not for long. What cannot be said by then, the visit
        says later; an ACK_OK is due again when the device offers the picture again.
        """
        self.picture_recorded(recorded)
        reply = self._state.reply_to_metadata(
            metadata.name, recorded, self._pictures.get((self.key, metadata.name))
        )
        if reply is None:
            return
        try:
            async with asyncio.timeout(_METADATA_REPLY_TIMEOUT):
                await self._tell(reply)
        except (LeaseLostError, TimeoutError):
            pass
        except ServiceError as error:
            log.warning("[VISIT] %s was not answered: %s", metadata.name, error, extra=self._context())

    # What it does ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        longest = self._services.options.longest
        try:
            async with asyncio.timeout(longest):
                await self._follow_state()
        except TimeoutError:
            await self._give_up(f"it took longer than {longest:.0f} s")
        except ServiceError as error:
            await self._give_up(str(error))
        except Exception as error:
            log.exception("[VISIT] A fault of this service; the visit is given up", extra=self._context())
            await self._give_up(f"a fault of this service, please report it: {error!r}")
        self._services.on_end(self)

    async def _follow_state(self) -> None:
        step = self._next_step()
        while not isinstance(step, End):
            with suppress(LeaseLostError):  # the state knows, and goes on with listening
                await self._perform(step)
            step = self._next_step()
        if step.device_gone:
            log.info("[VISIT] The device no longer listens; its visit ends", extra=self._context())

    def _next_step(self) -> Step | End:
        return self._state.next_step(self._clock(), self._device_pictures())

    def _device_pictures(self) -> DevicePictures:
        unfinished = self._pictures.unfinished(self.key)
        names = set(self._state.expected_names) - {assembly.name for assembly in unfinished}
        return DevicePictures(
            unfinished, {name for name in names if self._pictures.is_finished((self.key, name))}
        )

    async def _perform(self, step: Step) -> None:
        match step:
            case Wait(until):
                await self._wait_for_news(until)
            case WatchCommands():
                await self._watch_commands()
            case BeginVisit(name):
                await self._begin_in_database(name)
            case ReadPictureRow(name):
                await self._read_picture_row(name)
            case StorePicture(name):
                await self._store(name)
            case FailPicture(name, requests):
                await self._fail(name, requests)
            case _:
                await self._tell(step)

    async def _wait_for_news(self, until: float | None) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()

    async def _watch_commands(self) -> None:
        await self._wait_for_news(self._clock() + _COMMAND_CHECK_INTERVAL)
        self._row_arrived.clear()
        self._services.request_row(self)
        await self._row_arrived.wait()

    async def _begin_in_database(self, name: str) -> None:
        recorded = await self._pictures.record(self._state.device, name)
        if recorded.result in {"unknown_device", "refused"}:
            reason = recorded.error or "the device is not registered and may not register itself"
            log.warning("[VISIT] Chunks dropped: %s", reason, extra=self._context())
            self._state.visit_refused()
        else:
            self.picture_recorded(recorded)

    async def _read_picture_row(self, name: str) -> None:
        recorded = await self._record(name)
        if recorded.result == "complete":
            self._pictures.mark_finished((self.key, name))
            self._state.picture_stored(name, recorded.next_wake_at)

    async def _store(self, name: str) -> None:
        recorded = await self._record(name)
        if recorded.result == "complete":
            self._state.picture_stored(name, recorded.next_wake_at)
            return
        settled = await self._pictures.store((self.key, name), recorded)
        if settled is None:
            self._state.picture_failed(name)
        else:
            self._state.picture_stored(name, settled.next_wake_at)

    async def _fail(self, name: str, requests: int) -> None:
        assembly = self._pictures.get((self.key, name))
        recorded = await self._record(name)
        if recorded.result == "complete":  # another worker stored it in this visit
            self._state.picture_stored(name, recorded.next_wake_at)
            return
        await self._pictures.fail((self.key, name), recorded, _describe_missing(assembly), requests)
        self._state.picture_failed(name)

    async def _record(self, name: str) -> ImageRecorded:
        recorded = await self._pictures.record(self._state.device, name)
        if recorded.result == "silent":
            self._state.lease_lost()
            raise LeaseLostError
        return recorded

    async def _tell(self, reply: Reply) -> None:
        match reply:
            case AckOk(name):
                # What is there under that name again is another picture, which is not stored.
                if await self._publisher.publish(
                    reply, unless=lambda: self._pictures.get((self.key, name)) is not None
                ):
                    self._state.told_ack_ok()
            case MissingChunks(name):
                await self._request_chunks(reply)
            case NextWake():
                await self._publisher.publish(reply)
                self._state.told_next_wake()
            case _:
                await self._publisher.publish(reply)

    async def _request_chunks(self, request: MissingChunks) -> None:
        log.info(
            "[IMAGE] %s is missing %d chunk(s): requesting them (%d of %d)",
            request.name,
            len(request.chunks),
            request.requests,
            MOST_REQUESTS,
            extra=self._context(),
        )
        assembly = self._pictures.get((self.key, request.name))
        await self._publisher.publish(request)
        recorded = await self._record(request.name)
        await self._pictures.chunks_requested(recorded, assembly, request.requests)

    async def _give_up(self, reason: str) -> None:
        """Nothing more can be done: the device is told to sleep, and its pictures' rows say why."""
        log.warning("[VISIT] Given up: %s", reason, extra=self._context())
        with suppress(LeaseLostError, ServiceError):
            await self._publisher.publish(NextWake(self._state.row.next_wake_at))
        with suppress(LeaseLostError, ServiceError, TimeoutError):
            async with asyncio.timeout(_RECORD_FAILURES_TIMEOUT):
                for assembly in self._pictures.unfinished(self.key) if self.holds_lease else ():
                    recorded = await self._record(assembly.name)
                    await self._pictures.fail((self.key, assembly.name), recorded, f"not finished: {reason}")

    def _context(self) -> dict[str, object]:
        return context(device=self._state.row.device_code or self._state.device)


def _describe_missing(assembly: Assembly | None) -> str:
    if assembly is None or (assembly.metadata is None and not assembly.received):
        return f"the device sent nothing of it, asked {MOST_REQUESTS} times"
    if assembly.metadata is None:
        return f"its metadata did not come, asked {MOST_REQUESTS} times"
    missing = assembly.missing()
    named = ", ".join(str(chunk) for chunk in missing[:_MOST_CHUNKS_NAMED])
    more = ", …" if len(missing) > _MOST_CHUNKS_NAMED else ""
    return (
        f"{len(missing)} of {assembly.total} chunks did not come, asked {MOST_REQUESTS} times: {named}{more}"
    )
