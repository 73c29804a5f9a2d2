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

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from enum import Enum, auto

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.adapters.supabase.visits import VisitRow
from mqtt_service.devices.visit_pictures import DevicePictures, Moment, VisitPictures
from mqtt_service.devices.visit_steps import (
    AckOk,
    BeginVisit,
    End,
    NextWake,
    SendImage,
    Step,
    Wait,
    WatchCommands,
)
from mqtt_service.protocol.assembly import Assembly
from mqtt_service.protocol.topics import Root

# How often a wake time that nobody heard is told again in one visit.
_MOST_WAKE_REPETITIONS = 3

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


class VisitState:
    """One device, awake, as far as this worker knows. `row` is None where no heartbeat of it was heard.

    A device that says nothing for `silence` seconds waits for us. Open commands keep pictures and sleep
    waiting for `command_patience` seconds, and for as long again after each word of progress.
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
        self._answered = 0
        self._last_heard = now
        self._command_brings_picture = False
        self._pictures = VisitPictures(self.row)
        self._wake_told = False
        self._wake_repetitions = 0
        self._device_gone = False
        # As of the latest next_step.
        self._now = now
        self._device_pictures = DevicePictures()
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
    def waits_for_answers(self) -> bool:
        """Whether fewer answers came since the row was read than commands were open then, in our visit."""
        return self.holds_lease and self.row.open_commands > self._answered

    @property
    def expected_names(self) -> list[str]:
        """The pictures that are still to be seen to, as far as their names are known."""
        return self._pictures.expected_names

    # The moves: each answers with the step to take, or with the phase to go on to --------------------------

    def next_step(self, now: float, pictures: DevicePictures) -> Step | End:
        """What to do now. A step counts as taken: it does not come again unless there is reason to."""
        self._now, self._device_pictures = now, pictures
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
        unfinished = self._device_pictures.unfinished
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
        if self._device_pictures.unfinished:
            return Phase.PICTURES
        return self._until_silence() or Phase.PICTURES

    def _next_picture(self) -> Step | Phase:
        moment = Moment(self._device_pictures, self._until_silence(), self.nobody_listens)
        step = self._pictures.next_step(moment)
        if isinstance(step, End):
            self._device_gone = step.device_gone
            return Phase.ENDED
        return step or Phase.SLEEP

    def _sleep(self) -> Step | Phase:
        if self._wake_told or self.row.schedule_sent:
            return Phase.ENDED
        return NextWake(self.row.next_wake_at)

    def _ended(self) -> End:
        return End(self._device_gone)

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
        self._answered += 1
        if command_type in _COMMANDS_THAT_BRING_PICTURES:
            self._command_brings_picture = True

    def command_in_progress(self, now: float) -> None:
        """The device says that it is at a command: it gets more time for it."""
        self.heard(now)
        if self._commands_until is not None:
            self._commands_until = now + self._command_patience

    def row_read(self, row: VisitRow) -> list[str]:
        """The database says how the visit stands; returns the pictures that another worker has seen to."""
        had_lease = self.row.holds_lease
        settled = [] if had_lease else self._pictures.settled_elsewhere(row.settled_names)
        if row.took_over:
            self.root = row.topic_root
        if row.took_over and not had_lease:
            self._pictures.expect(row)
        self.row, self._answered = row, 0
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
        if recorded.given_up is not None and self.holds_lease:
            next_wake = recorded.next_wake_at or self.row.next_wake_at
            self._pictures.confirm(AckOk(recorded.given_up, next_wake))

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
            self._pictures.put_aside()
            self._wake_repetitions = 0

    # What came of the steps --------------------------------------------------------------------------------

    def published(self, now: float, *, nobody_listens: bool) -> None:
        """The broker has what the device is to be told; `nobody_listens`: and no subscriber for it."""
        self._last_heard = now
        self.nobody_listens = nobody_listens

    def picture_stored(self, name: str, next_wake: datetime | None) -> None:
        """The device may delete the picture: its row says that it is complete, or given up for good."""
        self._pictures.confirm(AckOk(name, next_wake or self.row.next_wake_at))

    def picture_failed(self, name: str) -> None:
        """The picture was given up for this visit; no ACK_OK tells the device when to wake."""
        self._pictures.failed(name)
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
        if self.nobody_listens and self._wake_repetitions < _MOST_WAKE_REPETITIONS:
            self._wake_repetitions += 1
            self._wake_told = False
            self.phase = Phase.AWAITING_PICTURE
        else:
            self._wake_told = True
            self.phase = Phase.PICTURES

    def reply_to_metadata(
        self, name: str, recorded: ImageRecorded, assembly: Assembly | None
    ) -> SendImage | AckOk | None:
        """What a device that announced a picture is told at once; None where there is nothing to say."""
        next_wake = recorded.next_wake_at or self.row.next_wake_at
        return self._pictures.reply_to_metadata(name, recorded, assembly, next_wake)
