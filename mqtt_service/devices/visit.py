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
from mqtt_service.devices.visit_actions import VisitActions
from mqtt_service.devices.visit_pictures import DevicePictures
from mqtt_service.devices.visit_state import VisitState
from mqtt_service.devices.visit_steps import End, Step, Wait, WatchCommands
from mqtt_service.errors import ServiceError
from mqtt_service.protocol.commands import WakeFormat
from mqtt_service.protocol.images import ImageMetadata
from mqtt_service.protocol.topics import Root, device_key
from mqtt_service.publisher import Publisher

log = logging.getLogger(__name__)

# Seconds.
_COMMAND_CHECK_INTERVAL = 2.0
_METADATA_REPLY_TIMEOUT = 5.0


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

    `row` is None where a picture's message came of a device whose heartbeat was not heard. From
    `unanswered_since`, a time of the event loop's clock, until the first reply is measured; None: it is not.
    """

    def __init__(
        self,
        services: VisitServices,
        root: Root,
        device: str,
        row: VisitRow | None,
        *,
        unanswered_since: float | None = None,
    ) -> None:
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
        publisher = ReplyPublisher(
            services.link,
            services.reply_log,
            self._state,
            options.wake_format,
            self._clock,
            unanswered_since=unanswered_since,
        )
        self._actions = VisitActions(self._state, services.pictures, publisher)
        self._services = services
        self._pictures = services.pictures
        self._news = asyncio.Event()
        self._row_arrived = asyncio.Event()
        # Set while no command is open, or somebody else is to see to that.
        self._commands_done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.key = device_key(device)
        # When the database last said who holds the lease.
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
        self._note_news()

    def command_in_progress(self) -> None:
        """The device says that it is at a command."""
        self._state.command_in_progress(self._clock())
        self._news.set()

    def row_read(self, row: VisitRow) -> None:
        """The database says how the visit stands."""
        self.row_read_at = self._clock()
        for name in self._state.row_read(row):
            self._pictures.mark_finished((self.key, name))
        self._row_arrived.set()
        self._note_news()

    def picture_recorded(self, recorded: ImageRecorded) -> None:
        """A picture is in its row, which tells who holds the lease, and where the device listens."""
        self._state.picture_recorded(recorded)
        if recorded.result in {"receiving", "complete"}:  # which renewed our lease
            self.row_read_at = self._clock()
        self._note_news()

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
                await self._actions.tell(reply)
        except (LeaseLostError, TimeoutError):
            pass
        except ServiceError as error:
            extra = self._actions.log_context()
            log.warning("[VISIT] %s was not answered: %s", metadata.name, error, extra=extra)

    # What it does ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        longest = self._services.options.longest
        try:
            async with asyncio.timeout(longest):
                await self._follow_state()
        except TimeoutError:
            await self._actions.give_up(f"it took longer than {longest:.0f} s")
        except ServiceError as error:
            await self._actions.give_up(str(error))
        except Exception as error:
            log.exception("[VISIT] A fault of this service", extra=self._actions.log_context())
            await self._actions.give_up(f"a fault of this service, please report it: {error!r}")
        self._services.on_end(self)

    async def _follow_state(self) -> None:
        step = self._next_step()
        while not isinstance(step, End):
            with suppress(LeaseLostError):  # the state knows, and goes on with listening
                await self._take(step)
            step = self._next_step()
        if step.device_gone:
            extra = self._actions.log_context()
            log.info("[VISIT] The device no longer listens; its visit ends", extra=extra)

    def _next_step(self) -> Step | End:
        unfinished = self._pictures.unfinished(self.key)
        finished = {
            name for name in self._state.expected_names if self._pictures.is_finished((self.key, name))
        }
        return self._state.next_step(self._clock(), DevicePictures(unfinished, finished))

    async def _take(self, step: Step) -> None:
        match step:
            case Wait(until):
                await self._wait_for_news(until)
            case WatchCommands():
                await self._wait_for_answers(_COMMAND_CHECK_INTERVAL)
                self._row_arrived.clear()
                self._services.request_row(self)
                await self._row_arrived.wait()
            case _:
                await self._actions.take(step)

    def _note_news(self) -> None:
        self._news.set()
        if not self._state.waits_for_answers:
            self._commands_done.set()

    async def _wait_for_answers(self, seconds: float) -> None:
        """Wait until as many commands were answered as were open, at most so long; the row then says more."""
        self._commands_done.clear()
        self._note_news()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._commands_done.wait()

    async def _wait_for_news(self, until: float | None) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()
