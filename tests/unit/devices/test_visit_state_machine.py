"""The states of a visit, whatever happens to it in any order: what it never does, and that it ends.

Each rule is one event, or one step, taken and performed as visit.py would, with an outcome that is drawn. At
last nothing more happens, and the visit has to come to its end by itself.
"""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.adapters.supabase.visits import VisitRow
from mqtt_service.devices.visit_pictures import MOST_REQUESTS, DevicePictures
from mqtt_service.devices.visit_state import VisitState
from mqtt_service.devices.visit_steps import (
    AckOk,
    BeginVisit,
    CaptureImage,
    End,
    FailPicture,
    MissingChunks,
    NextWake,
    ReadPictureRow,
    Reply,
    SendImage,
    Step,
    StorePicture,
    Wait,
    WatchCommands,
)
from mqtt_service.protocol.assembly import ImageBuffer, Limits
from tests.faults.bench.drills import drill
from tests.unit.devices.visit_fakes import DEVICE, PARTS, PICTURE, WAKE, chunk, metadata

SILENCE, PATIENCE, COMMAND_CHECK = 5.0, 15.0, 2.0
NAMES = ("a.jpg", "b.jpg", "c.jpg")
# More than the longest way to the end: 3 named pictures and 2 others, each with all its requests and waits.
MOST_STEPS = 150

names = st.sampled_from(NAMES)
outcomes = st.sampled_from(["done", "failed", "replaced", "not ours"])
rows = st.builds(
    VisitRow,
    st.just("device"),
    st.just(DEVICE),
    holds_lease=st.booleans(),
    open_commands=st.integers(0, 2),
    schedule_sent=st.booleans(),
    took_over=st.booleans(),
    pending_count=st.integers(0, 2),
    pending_names=st.lists(names, unique=True).map(tuple),
    settled_names=st.lists(names, unique=True, max_size=1).map(tuple),
    next_wake_at=st.just(WAKE),
)


class Machine(RuleBasedStateMachine):
    """A visit, its device, and what this worker has of the device's pictures."""

    @initialize(row=st.none() | rows, last_outcome=st.sampled_from(["done", "failed"]))
    def begin(self, row: VisitRow | None, last_outcome: str) -> None:
        self.now = 0.0
        self.last_outcome = last_outcome
        self.buffer = ImageBuffer(Limits())
        self.finished: set[str] = set()
        self.stored: set[str] = set()
        self.over = False
        self.visit = VisitState("device", DEVICE, row, 0.0, silence=SILENCE, command_patience=PATIENCE)
        self.lease_follows(had_lease=False)

    @property
    def pictures(self) -> DevicePictures:
        unfinished = self.buffer.unfinished(DEVICE)
        return DevicePictures(unfinished, self.finished - {assembly.name for assembly in unfinished})

    def finish(self, name: str, *, stored: bool) -> None:
        self.buffer.discard(DEVICE, name)
        self.finished.add(name)
        self.requests.clear()
        if stored:
            self.stored.add(name)

    def begin_picture(self, name: str, size: int) -> None:
        self.finished.discard(name)
        self.requests.clear()
        self.buffer.add_metadata(metadata(name, size=size), self.now)

    def lease_follows(self, *, had_lease: bool) -> None:
        """After whatever may have told this worker who holds the lease."""
        if not had_lease:
            self.commands_watched_since: float | None = None
            self.commands_are_over = False
            self.requests: Counter[str | None] = Counter()
        if not self.visit.row.open_commands:
            self.commands_are_over = True

    # What happens ---------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 1.0, SILENCE, PATIENCE]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=names, numbers=st.sets(st.integers(0, len(PARTS) - 1), min_size=1))
    def chunks_come(self, name: str, numbers: set[int]) -> None:
        if name not in self.finished:
            for number in numbers:
                self.buffer.add_chunk(chunk(number, name), self.now)
            self.visit.heard(self.now)

    @rule(
        name=names,
        result=st.sampled_from(["receiving", "complete", "silent"]),
        size=st.sampled_from([len(PICTURE), len(PICTURE) + 1]),
    )
    def metadata_comes(self, name: str, result: Any, size: int) -> None:
        self.begin_picture(name, size)
        if result == "complete":
            self.finish(name, stored=True)
        self.visit.heard(self.now)
        recorded = self.picture_is_recorded(result)
        reply = self.visit.reply_to_metadata(name, recorded, self.buffer.get(DEVICE, name))
        if reply is not None and self.visit.holds_lease:
            self.tell(reply, nobody_listens=False)

    def picture_is_recorded(self, result: Any) -> ImageRecorded:
        had_lease = self.visit.holds_lease
        recorded = ImageRecorded("ref", result, next_wake_at=WAKE)
        self.visit.picture_recorded(recorded)
        self.lease_follows(had_lease=had_lease)
        return recorded

    @rule(command_type=st.sampled_from(["capture_image", "send_image", "reboot", None]))
    def a_command_is_acknowledged(self, command_type: str | None) -> None:
        self.visit.command_acknowledged(command_type, self.now)

    @rule(row=rows)
    def the_row_is_read(self, row: VisitRow) -> None:
        had_lease = self.visit.holds_lease
        for name in self.visit.row_read(row):
            self.finish(name, stored=False)
        self.lease_follows(had_lease=had_lease)

    @rule(name=names)
    def a_picture_is_refused(self, name: str) -> None:
        self.finish(name, stored=False)

    # What is done ---------------------------------------------------------------------------------------

    @precondition(lambda self: not self.over)
    @rule(outcome=outcomes, nobody_listens=st.booleans())
    def a_step_is_taken(self, outcome: str, *, nobody_listens: bool) -> None:
        step = self.visit.next_step(self.now, self.pictures)
        if self.visit.holds_lease:
            self.commands_come_first(step)
            self.requests_are_bounded(step)
        match step:
            case End():
                self.over = True
            case Wait(until):
                assert until is None or until > self.now
                self.now = until or self.now
            case WatchCommands():
                self.now += COMMAND_CHECK
            case BeginVisit() if outcome == "failed":
                self.visit.visit_refused()
            case BeginVisit():
                self.picture_is_recorded("silent" if outcome == "not ours" else "receiving")
            case ReadPictureRow(name) | StorePicture(name) | FailPicture(name):
                self.see_to_picture(step, name, outcome)
            case _:
                self.tell(step, nobody_listens=nobody_listens)

    def see_to_picture(self, step: Step, name: str, outcome: str) -> None:
        assert self.visit.holds_lease
        assembly = self.buffer.get(DEVICE, name)
        assert not isinstance(step, StorePicture) or (assembly is not None and assembly.complete)
        if outcome == "not ours":
            self.visit.lease_lost()
        elif outcome == "done":
            self.finish(name, stored=True)
            self.visit.picture_stored(name, WAKE)
        elif not isinstance(step, ReadPictureRow):
            self.finish(name, stored=False)
            if outcome == "replaced":
                self.begin_picture(name, len(PICTURE) + 2)
            self.visit.picture_failed(name)

    def tell(self, reply: Reply, *, nobody_listens: bool) -> None:
        """Only the holder of the lease says anything; ACK_OK for what is stored, and sleep last of all."""
        assert self.visit.holds_lease
        if isinstance(reply, AckOk):
            assert reply.name in self.stored
            if self.buffer.get(DEVICE, reply.name) is not None:
                return  # another picture of that name is coming: visit.py withholds this
            self.visit.told_ack_ok()
        self.visit.published(self.now, nobody_listens=nobody_listens)
        if isinstance(reply, NextWake):
            assert not self.pictures.unfinished
            assert not self.visit.expected_names
            self.visit.told_next_wake()

    def commands_come_first(self, step: Step | End) -> None:
        """Until the device has answered its commands, or patience ends, nothing else is done for it."""
        if isinstance(step, WatchCommands):
            if self.commands_watched_since is None:
                self.commands_watched_since = self.now
            assert self.now < self.commands_watched_since + PATIENCE
        elif not self.commands_are_over:
            assert self.commands_watched_since is not None
            assert self.now >= self.commands_watched_since + PATIENCE
            self.commands_are_over = True

    def requests_are_bounded(self, step: Step | End) -> None:
        """A picture is requested once, and three times more; one without a name three times, and two such."""
        match step:
            case SendImage(name):
                self.requests[name] += 1
                assert self.requests[name] <= 1 + MOST_REQUESTS
            case MissingChunks(name, missing, requests):
                self.requests[name] += 1
                assert self.requests[name] <= 1 + MOST_REQUESTS
                assert requests <= MOST_REQUESTS
                assert missing
            case CaptureImage():
                self.requests[None] += 1
                assert self.requests[None] <= 2 * MOST_REQUESTS

    def teardown(self) -> None:
        """Whatever happened: when nothing more does, the visit ends."""
        for _ in range(MOST_STEPS):
            if self.over:
                return
            self.a_step_is_taken(self.last_outcome, nobody_listens=True)
            if not self.visit.holds_lease and self.visit.begun:
                self.visit.row_read(VisitRow("device", DEVICE, ended=True))
        raise AssertionError(f"it did not end: {self.visit.phase}")


TestVisitState = Machine.TestCase
TestVisitState.settings = settings(max_examples=drill(60, 150), stateful_step_count=40, deadline=None)
