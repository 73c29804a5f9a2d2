"""The states of a visit, and its moves between them: what is to be done next for a device that is awake.

    BEGINNING ──▶ COMMANDS ──▶ AWAITING_PICTURE ──▶ PICTURES ◀──▶ SLEEP ──▶ ENDED
        │            ▲                ▲                             │
        │            │ lease gained   └──── nobody heard that ──────┘
        └──▶ LISTENING
                  ▲ lease lost, wherever the visit stands

    BEGINNING         chunks came, but no heartbeat and no metadata: the database is to begin the visit
    LISTENING         another worker holds the visit's lease, and it alone answers the device
    COMMANDS          the device gets time to answer its open commands
    AWAITING_PICTURE  the device may be about to send a picture: wait until it does, or falls silent
    PICTURES          one at a time: requested until it is complete, then stored, and only then ACK_OK
    SLEEP             the device is told when to wake, unless a command or an ACK_OK has told it
    ENDED             nothing is left to do; or the device is gone, or the visit is another worker's and over

Nothing here waits, publishes or reads a clock. `VisitState.next_step` says what to do; visit.py has it done,
and tells the state what came of it and what else happened. Times are seconds of a clock that never goes back.
"""

from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.adapters.supabase.visits import VisitRow
from mqtt_service.devices.visit_steps import (
    AckOk,
    BeginVisit,
    CaptureImage,
    End,
    FailPicture,
    MissingChunks,
    NextWake,
    ReadPictureRow,
    SendImage,
    Step,
    StorePicture,
    Wait,
    WatchCommands,
)
from mqtt_service.protocol.assembly import Assembly
from mqtt_service.protocol.topics import Root

# How often, in one visit, a picture is requested again, and a wake time told again that nobody heard.
MOST_REQUESTS = 3

_COMMANDS_THAT_BRING_PICTURES = frozenset({"capture_image", "send_image"})


class Phase(Enum):
    """Where a visit stands; the head of the module says what each means."""

    BEGINNING = auto()
    LISTENING = auto()
    COMMANDS = auto()
    AWAITING_PICTURE = auto()
    PICTURES = auto()
    SLEEP = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class DevicePictures:
    """What this worker has of a device's pictures.

    `unfinished`: those on their way, the first begun first. `finished`: names of pictures that were stored,
    given up or refused.
    """

    unfinished: Sequence[Assembly] = ()
    finished: Container[str] = frozenset()

    def get(self, name: str) -> Assembly | None:
        """The picture of this name, if it is on its way."""
        return next((assembly for assembly in self.unfinished if assembly.name == name), None)


@dataclass(slots=True)
class _PictureInHand:
    """The one picture that is seen to now; `name` is None for one that the device counted and did not name.

    `requested`: it was requested by its name, or comes unasked. `requests` counts the further requests, each
    after a silence; of a picture without a name, all. `row_read`: its row was read in the present silence.
    """

    name: str | None
    requested: bool = False
    requests: int = 0
    row_read: bool = False


class VisitState:
    """One device, awake, as far as this worker knows. `row` is None where no heartbeat of it was heard.

    A device that says nothing for `silence` seconds waits for us. Open commands keep pictures and sleep
    waiting for `command_patience` seconds.
    """

    def __init__(
        self,
        root: Root,
        device: str,
        row: VisitRow | None,
        now: float,
        *,
        silence: float,
        command_patience: float,
    ) -> None:
        self.root = root
        self.device = device
        self.row = row or VisitRow(root, device)
        self.phase = Phase.BEGINNING
        self.nobody_listens = False
        self._silence = silence
        self._command_patience = command_patience
        self._commands_until: float | None = None
        self._last_heard = now
        self._command_brings_picture = False
        self._in_hand: _PictureInHand | None = None
        self._ack_ok_due: AckOk | None = None
        self._requested: set[str] = set()
        self._done: set[str] = set()
        self._wake_told = False
        self._wake_repetitions = 0
        self._device_gone = False
        # As of the latest next_step.
        self._now = now
        self._pictures = DevicePictures()
        self._take_pending(self.row)
        if row is not None:
            self._follow_lease()

    @property
    def address(self) -> tuple[Root, str]:
        """The root on which the device listens, and its id as it spells itself."""
        return self.root, self.device

    @property
    def holds_lease(self) -> bool:
        """Whether this worker is the one that answers the device."""
        return self.row.holds_lease

    @property
    def begun(self) -> bool:
        """Whether the database knows of this visit."""
        return self.phase is not Phase.BEGINNING

    @property
    def expected_names(self) -> list[str]:
        """The pictures that are still to be seen to, as far as their names are known."""
        in_hand = [self._in_hand.name] if self._in_hand and self._in_hand.name else []
        return [*in_hand, *self._pending]

    # The moves: each answers with the step to take, or with the phase to go on to --------------------------

    def next_step(self, now: float, pictures: DevicePictures) -> Step | End:
        """What to do now. A step counts as taken: it does not come again unless there is reason to."""
        self._now, self._pictures = now, pictures
        moves: dict[Phase, Callable[[], Step | End | Phase]] = {
            Phase.BEGINNING: self._beginning,
            Phase.LISTENING: self._listening,
            Phase.COMMANDS: self._commands,
            Phase.AWAITING_PICTURE: self._awaiting_picture,
            Phase.PICTURES: self._next_picture,
            Phase.SLEEP: self._sleep,
            Phase.ENDED: self._ended,
        }
        while isinstance(step := moves[self.phase](), Phase):
            self.phase = step
        return step

    def _beginning(self) -> Step | Phase:
        if wait := self._until_silence():
            return wait
        unfinished = self._pictures.unfinished
        return BeginVisit(unfinished[0].name) if unfinished else Phase.ENDED

    def _listening(self) -> Step | Phase:
        return Phase.ENDED if self.row.ended else Wait(None)

    def _commands(self) -> Step | Phase:
        if self._commands_until is None:
            self._commands_until = self._now + self._command_patience
        if self.row.open_commands and self._now < self._commands_until:
            return WatchCommands()
        return Phase.AWAITING_PICTURE if self._command_brings_picture else Phase.PICTURES

    def _awaiting_picture(self) -> Step | Phase:
        if self._pictures.unfinished:
            return Phase.PICTURES
        return self._until_silence() or Phase.PICTURES

    def _next_picture(self) -> Step | Phase:
        if self._ack_ok_due is not None:
            ack_ok, self._ack_ok_due = self._ack_ok_due, None
            return ack_ok
        in_hand = self._in_hand or self._take_picture()
        if in_hand is None:
            return Phase.SLEEP
        if in_hand.name is None:
            return self._unnamed_picture(in_hand)
        return self._named_picture(in_hand, in_hand.name)

    def _sleep(self) -> Step | Phase:
        if self._wake_told or self.row.schedule_sent:
            return Phase.ENDED
        return NextWake(self.row.next_wake_at)

    def _ended(self) -> End:
        return End(self._device_gone)

    # The moves of the picture in hand ----------------------------------------------------------------------

    def _take_picture(self) -> _PictureInHand | None:
        """Choose what the device is sending, else what it named, else one of those that it only counted."""
        if self._pictures.unfinished:
            name = self._pictures.unfinished[0].name
            self._done.discard(name)  # none that is done with is unfinished: this is another of that name
            self._in_hand = _PictureInHand(name, requested=True)
        while self._in_hand is None and self._pending:
            name = self._pending.popleft()
            if not self._is_done(name):
                self._in_hand = _PictureInHand(name)
        if self._in_hand is None and self._unnamed > 0:
            self._unnamed -= 1
            self._in_hand = _PictureInHand(None)
        return self._in_hand

    def _unnamed_picture(self, in_hand: _PictureInHand) -> Step | Phase:
        """Have the device send any; once one comes, it has a name."""
        if self._pictures.unfinished:
            return self._put_picture_aside()
        if in_hand.requests and (wait := self._until_silence()):
            return wait
        if in_hand.requests == MOST_REQUESTS:
            return self._leave_gone_device() if self.nobody_listens else self._put_picture_aside()
        in_hand.requests += 1
        return CaptureImage()

    def _named_picture(self, in_hand: _PictureInHand, name: str) -> Step | Phase:
        """Have the device send this one; once it is complete, have it stored."""
        if self._is_done(name):
            return self._put_picture_aside()
        assembly = self._pictures.get(name)
        if assembly is not None and assembly.complete:
            return StorePicture(name)
        if not in_hand.requested:
            in_hand.requested = True
            return self._send_image(name)
        return self._until_silence() or self._after_silence(in_hand, name, assembly)

    def _after_silence(self, in_hand: _PictureInHand, name: str, assembly: Assembly | None) -> Step | Phase:
        """The device waits for us, and the picture is not complete."""
        if assembly is not None and assembly.metadata is None and not in_hand.row_read:
            in_hand.row_read = True
            return ReadPictureRow(name)
        nothing_came = assembly is None or not assembly.received
        if in_hand.requests == MOST_REQUESTS:
            gone = self.nobody_listens and nothing_came
            return self._leave_gone_device() if gone else FailPicture(name, in_hand.requests)
        in_hand.requests += 1
        in_hand.row_read = False
        if assembly is None or assembly.metadata is None or nothing_came:
            return self._send_image(name)
        return MissingChunks(name, assembly.missing(), in_hand.requests)

    def _send_image(self, name: str) -> SendImage:
        self._requested.add(name)
        return SendImage(name)

    def _put_picture_aside(self) -> Phase:
        self._in_hand = None
        return Phase.PICTURES

    def _leave_gone_device(self) -> Phase:
        self._device_gone = True
        return Phase.ENDED

    def _is_done(self, name: str) -> bool:
        refused_or_stored = self._pictures.get(name) is None and name in self._pictures.finished
        return name in self._done or refused_or_stored

    def _until_silence(self) -> Wait | None:
        """Wait until neither the device nor we have said anything for long enough; None when that is so."""
        silent_at = self._last_heard + self._silence
        return Wait(silent_at) if self._now < silent_at else None

    # What happens to the visit -----------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """The device sent something."""
        self._last_heard = now

    def command_acknowledged(self, command_type: str | None, now: float) -> None:
        """The device answered a command, and the command's row says so."""
        self.heard(now)
        if command_type in _COMMANDS_THAT_BRING_PICTURES:
            self._command_brings_picture = True

    def row_read(self, row: VisitRow) -> list[str]:
        """The database says how the visit stands; returns the pictures that another worker has seen to."""
        had_lease = self.row.holds_lease
        settled = [] if had_lease else [name for name in row.settled_names if name not in self._done]
        self._done.update(settled)
        if row.took_over:
            self.root = row.topic_root
        if row.took_over and not had_lease:
            self._take_pending(row)
        self.row = row
        self._follow_lease()
        return settled

    def picture_recorded(self, recorded: ImageRecorded) -> None:
        """A picture is in its row, which tells who holds the lease, and where the device listens."""
        if recorded.result in {"receiving", "complete"} and not (self.begun and self.holds_lease):
            self.root = recorded.topic_root
            self.row = VisitRow(
                self.root,
                self.device,
                recorded.device_id,
                recorded.device_code,
                holds_lease=True,
                next_wake_at=recorded.next_wake_at,
            )
            self._follow_lease()
        elif recorded.result == "silent" and not self.begun:
            self.root = recorded.topic_root
            self._follow_lease()

    def visit_refused(self) -> None:
        """The device is not registered and may not register itself: it gets no visit."""
        self.phase = Phase.ENDED

    def lease_lost(self) -> None:
        """Another worker answers the device from now on."""
        self.row = replace(self.row, holds_lease=False)
        self._follow_lease()

    def _follow_lease(self) -> None:
        """Without the lease, listen; with one that is new, see to the device from the start."""
        if not self.holds_lease:
            self.phase = Phase.LISTENING
        elif self.phase in {Phase.BEGINNING, Phase.LISTENING}:
            self.phase = Phase.COMMANDS if self.row.open_commands else Phase.PICTURES
            self._commands_until = None
            self._in_hand = self._ack_ok_due = None
            self._wake_repetitions = 0

    def _take_pending(self, row: VisitRow) -> None:
        self._pending = deque(row.pending_names)
        self._unnamed = 0 if self._pending else row.pending_count

    # What came of the steps --------------------------------------------------------------------------------

    def published(self, now: float, *, nobody_listens: bool) -> None:
        """The broker has what the device is to be told; `nobody_listens`: and no subscriber for it."""
        self._last_heard = now
        self.nobody_listens = nobody_listens

    def picture_stored(self, name: str, next_wake: datetime | None) -> None:
        """The picture is in Storage, and its row says `complete`: now, or before."""
        self._done.add(name)
        self._in_hand = None
        self._ack_ok_due = AckOk(name, next_wake or self.row.next_wake_at)

    def picture_failed(self, name: str) -> None:
        """The picture was given up for this visit; no ACK_OK tells the device when to wake."""
        self._done.add(name)
        self._in_hand = None
        self._wake_told = False

    def told_ack_ok(self) -> None:
        """The device was told that a picture is stored, and when to wake."""
        self._wake_told = True

    def told_next_wake(self) -> None:
        """The device was told when to wake; what it began to send meanwhile is still taken.

        It is told again where nobody listened: a heartbeat can be faster than the device's subscription.
        """
        if self.phase is not Phase.SLEEP:
            return
        if self.nobody_listens and self._wake_repetitions < MOST_REQUESTS:
            self._wake_repetitions += 1
            self._wake_told = False
            self.phase = Phase.AWAITING_PICTURE
        else:
            self._wake_told = True
            self.phase = Phase.PICTURES

    def reply_to_metadata(
        self, name: str, recorded: ImageRecorded, assembly: Assembly | None
    ) -> SendImage | AckOk | None:
        """What a device that announced a picture is told at once (docs/protocol.md, "Uploading a picture").

        Not SendImage where we had requested the picture, and it is coming.
        """
        if recorded.result == "complete":
            self._done.add(name)
            return AckOk(name, recorded.next_wake_at or self.row.next_wake_at)
        if recorded.result != "receiving" or assembly is None:
            return None
        return None if name in self._requested and assembly.received else self._send_image(name)
