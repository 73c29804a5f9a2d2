"""The pictures of a visit, one after another: which is next, and what is to be done for it.

    requested ──▶ coming ──▶ complete ──▶ stored ──▶ ACK_OK
        ▲            │           └─────▶ failed: it could not be stored
        └── silence ─┘
     three times more, then: failed

As pure as visit_state.py, which says when pictures have their turn.
"""

from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.adapters.supabase.visits import VisitRow
from mqtt_service.devices.visit_steps import (
    AckOk,
    CaptureImage,
    End,
    FailPicture,
    MissingChunks,
    ReadPictureRow,
    SendImage,
    Step,
    StorePicture,
    Wait,
)
from mqtt_service.protocol.assembly import Assembly

# How often a picture is requested again in one visit.
MOST_REQUESTS = 3


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

    def is_finished(self, name: str) -> bool:
        """Whether the picture of this name is finished, and no other of that name is on its way."""
        return name in self.finished and self.get(name) is None


@dataclass(frozen=True, slots=True)
class Moment:
    """What a step is decided from: the pictures, and who can be heard.

    `until_silence` is None once the device waits for us. `nobody_listens`: so said the broker last.
    """

    pictures: DevicePictures
    until_silence: Wait | None
    nobody_listens: bool


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


class VisitPictures:
    """What a device said is pending, what was requested and what is settled, in one visit."""

    def __init__(self, row: VisitRow) -> None:
        self._in_hand: _PictureInHand | None = None
        self._ack_oks_due: deque[AckOk] = deque()
        self._requested: set[str] = set()
        self._settled: set[str] = set()
        self.expect(row)

    def expect(self, row: VisitRow) -> None:
        """The visit's row says which pictures are pending."""
        self._pending = deque(row.pending_names)
        self._unnamed = 0 if self._pending else row.pending_count

    @property
    def expected_names(self) -> list[str]:
        """The pictures that are still to be seen to, as far as their names are known."""
        in_hand = [self._in_hand.name] if self._in_hand and self._in_hand.name else []
        return [*in_hand, *self._pending]

    # The moves ---------------------------------------------------------------------------------------------

    def next_step(self, moment: Moment) -> Step | End | None:
        """What to do now; None when no picture is left."""
        if self._ack_oks_due:
            return self._ack_oks_due.popleft()
        while in_hand := self._in_hand or self._take(moment.pictures):
            step = (
                self._unnamed_picture(in_hand, moment)
                if in_hand.name is None
                else self._named_picture(in_hand, in_hand.name, moment)
            )
            if step is not None:
                return step
            self._in_hand = None
        return None

    def _take(self, pictures: DevicePictures) -> _PictureInHand | None:
        """Choose what the device is sending, else what it named, else one of those that it only counted."""
        if pictures.unfinished:
            self._in_hand = _PictureInHand(pictures.unfinished[0].name, requested=True)
        while self._in_hand is None and self._pending:
            name = self._pending.popleft()
            if not pictures.is_finished(name):
                self._in_hand = _PictureInHand(name)
        if self._in_hand is None and self._unnamed > 0:
            self._unnamed -= 1
            self._in_hand = _PictureInHand(None)
        return self._in_hand

    def _unnamed_picture(self, in_hand: _PictureInHand, moment: Moment) -> Step | End | None:
        """Have the device send any picture; None once one comes, since that has a name, or if none does."""
        if moment.pictures.unfinished:
            return None
        if in_hand.requests and moment.until_silence:
            return moment.until_silence
        if in_hand.requests == MOST_REQUESTS:
            return End(device_gone=True) if moment.nobody_listens else None
        in_hand.requests += 1
        return CaptureImage()

    def _named_picture(self, in_hand: _PictureInHand, name: str, moment: Moment) -> Step | End | None:
        """Have the device send this picture, and store it once it is complete; None if it is finished."""
        if moment.pictures.is_finished(name):
            return None
        assembly = moment.pictures.get(name)
        if assembly is not None and assembly.complete:
            return StorePicture(name)
        if not in_hand.requested:
            in_hand.requested = True
            return self._send_image(name)
        return moment.until_silence or self._after_silence(in_hand, name, assembly, moment)

    def _after_silence(
        self, in_hand: _PictureInHand, name: str, assembly: Assembly | None, moment: Moment
    ) -> Step | End:
        """The device waits for us, and the picture is not complete."""
        if assembly is not None and assembly.metadata is None and not in_hand.row_read:
            in_hand.row_read = True
            return ReadPictureRow(name)
        if assembly is not None and assembly.is_whole_without_last():
            return StorePicture(name)
        nothing_came = assembly is None or not assembly.received
        if in_hand.requests == MOST_REQUESTS:
            gone = moment.nobody_listens and nothing_came
            return End(device_gone=True) if gone else FailPicture(name, in_hand.requests)
        in_hand.requests += 1
        in_hand.row_read = False
        if assembly is None or assembly.metadata is None or nothing_came:
            return self._send_image(name)
        return MissingChunks(name, assembly.missing(), in_hand.requests)

    def _send_image(self, name: str) -> SendImage:
        self._requested.add(name)
        return SendImage(name)

    # What happened -----------------------------------------------------------------------------------------

    def put_aside(self) -> None:
        """Another worker saw to the device meanwhile: what was in hand is no longer."""
        self._in_hand = None
        self._ack_oks_due.clear()

    def settled_elsewhere(self, names: Sequence[str]) -> list[str]:
        """Another worker has stored or failed these; returns those that are news."""
        news = [name for name in names if name not in self._settled]
        self._settled.update(news)
        return news

    def confirm(self, ack_ok: AckOk) -> None:
        """The picture's row says that it is stored, or given up for good: now the device may be told."""
        self._settled.add(ack_ok.name)
        if self._in_hand is not None and self._in_hand.name == ack_ok.name:
            self._in_hand = None
        self._ack_oks_due.append(ack_ok)

    def failed(self, name: str) -> None:
        """The picture was given up for this visit."""
        self._settled.add(name)
        self._in_hand = None

    def reply_to_metadata(
        self, name: str, recorded: ImageRecorded, assembly: Assembly | None, next_wake: datetime | None
    ) -> SendImage | AckOk | None:
        """What a device that announced a picture is told at once (docs/protocol.md, "Uploading a picture").

        Not SendImage where we had requested the picture, and it is coming.
        """
        if recorded.result == "complete":
            self._settled.add(name)
            return AckOk(name, next_wake)
        if recorded.result != "receiving" or assembly is None:
            return None
        return None if name in self._requested and assembly.received else self._send_image(name)
