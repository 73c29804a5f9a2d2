"""The states of a visit: where each event leads, and what is to be done there; without clock or network."""

import ast
import inspect
import sys
from dataclasses import replace
from typing import Any

import pytest

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.adapters.supabase.visits import VisitRow
from mqtt_service.devices import visit_pictures, visit_state, visit_steps
from mqtt_service.devices.visit_pictures import DevicePictures
from mqtt_service.devices.visit_state import Phase, VisitState
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
from mqtt_service.protocol.assembly import ImageBuffer, Limits
from tests.unit.devices.visit_fakes import DEVICE, WAKE, chunk, chunks, metadata, row

SILENCE, PATIENCE = 5.0, 15.0
NOTHING = DevicePictures()


def state(row: VisitRow | None) -> VisitState:
    """A visit that begins at time 0."""
    return VisitState("device", DEVICE, row, 0.0, silence=SILENCE, command_patience=PATIENCE)


def recorded(result: Any, **changes: Any) -> ImageRecorded:
    return replace(ImageRecorded("ref", result, next_wake_at=WAKE, topic_root="ESP32CAM"), **changes)


def pictures(*numbers: int, announced: bool = True, name: str = "a.jpg") -> DevicePictures:
    """One unfinished picture, of which these chunks came."""
    buffer = ImageBuffer(Limits())
    if announced:
        buffer.add_metadata(metadata(name), 0.0)
    for number in numbers:
        buffer.add_chunk(chunk(number, name), 0.0)
    return DevicePictures(buffer.unfinished(DEVICE))


def whole(name: str = "a.jpg") -> DevicePictures:
    return pictures(*range(len(chunks())), name=name)


def steps_of_silence(visit: VisitState, there: DevicePictures) -> list[Step | End]:
    """What is done for a device that says nothing, but for the waits, until a picture fails or it sleeps."""
    steps: list[Step | End] = []
    now = 0.0
    while not steps or not isinstance(steps[-1], FailPicture | NextWake | End):
        step = visit.next_step(now, there)
        if isinstance(step, Wait):
            assert step.until is not None
            now = step.until
        else:
            steps.append(step)
            visit.published(now, nobody_listens=False)
    return steps


# Where a visit begins ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins_with", "phase", "step"),
    [
        (None, Phase.BEGINNING, Wait(SILENCE)),
        (row(holds_lease=False), Phase.LISTENING, Wait(None)),
        (row(holds_lease=False, ended=True), Phase.ENDED, End(device_gone=False)),
        (row(open_commands=1, pending_names=("a.jpg",)), Phase.COMMANDS, WatchCommands()),
        (row(pending_names=("a.jpg",)), Phase.PICTURES, SendImage("a.jpg")),
        (row(pending_count=1), Phase.PICTURES, CaptureImage()),
        (row(), Phase.SLEEP, NextWake(WAKE)),
        (row(schedule_sent=True), Phase.ENDED, End(device_gone=False)),
    ],
)
def test_what_a_heartbeat_found_decides_where_a_visit_begins(
    begins_with: VisitRow | None, phase: Phase, step: Step | End
) -> None:
    visit = state(begins_with)
    assert visit.next_step(0.0, NOTHING) == step
    assert visit.phase is phase


# Who speaks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [NOTHING, pictures(0), whole()])
@pytest.mark.parametrize("open_commands", [0, 1])
def test_without_the_lease_a_visit_only_listens_wherever_it_stood(
    there: DevicePictures, open_commands: int
) -> None:
    visit = state(row(open_commands=open_commands, pending_names=("b.jpg",)))
    visit.next_step(0.0, there)
    visit.lease_lost()
    assert visit.next_step(100.0, there) == Wait(None)
    assert visit.phase is Phase.LISTENING


def test_a_lease_that_is_gained_begins_with_the_commands_and_with_the_pictures_that_are_left() -> None:
    visit = state(row(holds_lease=False, pending_names=("a.jpg", "b.jpg")))
    settled = visit.row_read(
        row(took_over=True, open_commands=1, pending_names=("b.jpg",), settled_names=("a.jpg",))
    )
    assert settled == ["a.jpg"]
    assert visit.address == ("ESP32CAM", DEVICE)
    assert visit.next_step(0.0, NOTHING) == WatchCommands()
    visit.row_read(row())
    assert visit.next_step(0.0, NOTHING) == SendImage("b.jpg")


@pytest.mark.parametrize(
    ("result", "phase"),
    [("receiving", Phase.PICTURES), ("complete", Phase.PICTURES), ("silent", Phase.LISTENING)],
)
def test_the_row_of_a_picture_says_who_speaks_to_a_device_whose_heartbeat_was_not_heard(
    result: str, phase: Phase
) -> None:
    visit = state(None)
    visit.picture_recorded(recorded(result))
    assert (visit.phase, visit.address) == (phase, ("ESP32CAM", DEVICE))


def test_chunks_alone_begin_a_visit_after_a_silence_and_end_it_where_the_device_is_refused() -> None:
    visit = state(None)
    there = pictures(0, announced=False)
    assert visit.next_step(SILENCE, there) == BeginVisit("a.jpg")
    visit.visit_refused()
    assert visit.next_step(SILENCE, there) == End(device_gone=False)


def test_chunks_that_are_gone_before_the_visit_began_leave_nothing_to_do() -> None:
    assert state(None).next_step(SILENCE, NOTHING) == End(device_gone=False)


# Commands before pictures before sleep -----------------------------------------------------------------


def test_commands_are_waited_for_until_they_are_answered_or_patience_ends() -> None:
    visit = state(row(open_commands=1))
    assert visit.next_step(0.0, whole()) == WatchCommands()
    assert visit.next_step(PATIENCE - 0.1, whole()) == WatchCommands()
    assert visit.next_step(PATIENCE, whole()) == StorePicture("a.jpg")


@pytest.mark.parametrize(
    ("command_type", "step"),
    [
        ("capture_image", Wait(1.0 + SILENCE)),
        ("send_image", Wait(1.0 + SILENCE)),
        ("reboot", NextWake(WAKE)),
        (None, NextWake(WAKE)),
    ],
)
def test_a_picture_is_waited_for_only_after_a_command_that_brings_one(
    command_type: str | None, step: Step
) -> None:
    visit = state(row(open_commands=1))
    visit.next_step(0.0, NOTHING)
    visit.command_acknowledged(command_type, 1.0)
    visit.row_read(row())
    assert visit.next_step(1.0, NOTHING) == step


def test_a_picture_that_begins_while_one_is_waited_for_is_seen_to_at_once() -> None:
    visit = state(row(open_commands=1))
    visit.command_acknowledged("capture_image", 0.0)
    visit.row_read(row())
    assert visit.next_step(0.0, NOTHING) == Wait(SILENCE)
    assert visit.next_step(1.0, whole()) == StorePicture("a.jpg")


def test_what_the_device_began_to_send_while_it_was_told_to_sleep_is_still_taken() -> None:
    visit = state(row())
    assert visit.next_step(0.0, NOTHING) == NextWake(WAKE)
    visit.published(0.1, nobody_listens=False)
    visit.told_next_wake()
    assert visit.next_step(0.1, whole()) == StorePicture("a.jpg")
    visit.picture_stored("a.jpg", None)
    assert visit.next_step(0.2, NOTHING) == AckOk("a.jpg", WAKE)
    visit.told_ack_ok()
    assert visit.next_step(0.2, NOTHING) == End(device_gone=False)


def test_a_picture_that_failed_has_the_device_told_when_to_wake_though_an_ack_ok_had_said_so() -> None:
    visit = state(row(pending_names=("b.jpg",)))
    visit.next_step(0.0, whole())
    visit.picture_stored("a.jpg", WAKE)
    visit.next_step(0.0, NOTHING)
    visit.told_ack_ok()
    assert visit.next_step(0.0, NOTHING) == SendImage("b.jpg")
    visit.picture_failed("b.jpg")
    assert visit.next_step(0.0, NOTHING) == NextWake(WAKE)


# The picture in hand -----------------------------------------------------------------------------------


def test_a_picture_that_never_comes_is_requested_three_more_times_and_fails() -> None:
    steps = steps_of_silence(state(row(pending_names=("a.jpg",))), NOTHING)
    assert steps == [*[SendImage("a.jpg")] * 4, FailPicture("a.jpg", 3)]


def test_chunks_that_never_come_are_requested_three_times_and_the_picture_fails() -> None:
    steps = steps_of_silence(state(row()), pictures(0, 2))
    requests = [MissingChunks("a.jpg", (1, 3), number) for number in (1, 2, 3)]
    assert steps == [*requests, FailPicture("a.jpg", 3)]


def test_the_row_of_a_picture_without_metadata_is_read_in_each_silence_before_it_is_requested() -> None:
    steps = steps_of_silence(state(row()), pictures(0, announced=False))
    assert steps == [
        *[ReadPictureRow("a.jpg"), SendImage("a.jpg")] * 3,
        ReadPictureRow("a.jpg"),
        FailPicture("a.jpg", 3),
    ]


def test_metadata_found_in_the_row_can_make_a_picture_complete_which_needs_no_request() -> None:
    visit = state(row())
    assert visit.next_step(SILENCE, pictures(0, 1, 2, 3, announced=False)) == ReadPictureRow("a.jpg")
    assert visit.next_step(SILENCE, whole()) == StorePicture("a.jpg")


def test_pictures_without_names_are_requested_three_times_each() -> None:
    steps = steps_of_silence(state(row(pending_count=2)), NOTHING)
    assert steps == [*[CaptureImage()] * 6, NextWake(WAKE)]


def test_a_picture_that_comes_for_an_unnamed_one_takes_its_place() -> None:
    visit = state(row(pending_count=1))
    assert visit.next_step(0.0, NOTHING) == CaptureImage()
    assert visit.next_step(0.0, whole()) == StorePicture("a.jpg")
    visit.picture_stored("a.jpg", WAKE)
    assert visit.next_step(0.0, NOTHING) == AckOk("a.jpg", WAKE)
    assert visit.next_step(0.0, NOTHING) == NextWake(WAKE)


@pytest.mark.parametrize("finished", [set(), {"a.jpg"}])
def test_a_picture_that_is_finished_is_not_requested_unless_another_of_its_name_is_coming(
    finished: set[str],
) -> None:
    visit = state(row(pending_names=("a.jpg",)))
    coming = DevicePictures(whole().unfinished, finished)
    assert visit.next_step(0.0, coming) == StorePicture("a.jpg")
    nothing_coming = DevicePictures((), {"a.jpg"})
    assert state(row(pending_names=("a.jpg",))).next_step(0.0, nothing_coming) == NextWake(WAKE)


def test_a_picture_refused_while_it_is_in_hand_is_put_aside() -> None:
    visit = state(row(pending_names=("a.jpg", "b.jpg")))
    visit.next_step(0.0, NOTHING)
    assert visit.next_step(0.0, DevicePictures((), {"a.jpg"})) == SendImage("b.jpg")


def test_a_picture_that_was_in_hand_when_the_lease_was_lost_is_not_with_the_next() -> None:
    visit = state(row(pending_names=("a.jpg",)))
    assert visit.next_step(0.0, NOTHING) == SendImage("a.jpg")
    visit.lease_lost()
    visit.row_read(row(took_over=True, pending_names=("b.jpg",)))
    assert visit.next_step(0.0, NOTHING) == SendImage("b.jpg")


def test_another_picture_of_a_name_that_is_done_with_is_stored_too() -> None:
    visit = state(row())
    visit.next_step(0.0, whole())
    visit.picture_stored("a.jpg", WAKE)
    assert visit.next_step(0.0, whole()) == AckOk("a.jpg", WAKE)
    assert visit.next_step(0.0, whole()) == StorePicture("a.jpg")


def test_an_ack_ok_is_lost_with_the_lease_and_does_not_come_with_the_next() -> None:
    visit = state(row())
    visit.next_step(0.0, whole())
    visit.lease_lost()
    visit.picture_stored("a.jpg", WAKE)
    visit.row_read(row(took_over=True))
    assert visit.next_step(0.0, NOTHING) == NextWake(WAKE)


# A device that is gone ---------------------------------------------------------------------------------


def test_a_wake_time_that_nobody_heard_is_told_three_more_times_each_after_a_silence() -> None:
    visit = state(row())
    now = 0.0
    for _ in range(4):
        assert visit.next_step(now, NOTHING) == NextWake(WAKE)
        visit.published(now, nobody_listens=True)
        visit.told_next_wake()
        if visit.phase is Phase.AWAITING_PICTURE:
            assert visit.next_step(now, NOTHING) == Wait(now + SILENCE)
        now += SILENCE
    assert visit.next_step(now, NOTHING) == End(device_gone=False)


def test_an_ack_ok_said_meanwhile_is_no_reason_not_to_repeat_a_wake_time_that_nobody_heard() -> None:
    visit = state(row())
    visit.next_step(0.0, NOTHING)
    visit.told_ack_ok()
    visit.published(0.0, nobody_listens=True)
    visit.told_next_wake()
    assert visit.next_step(SILENCE, NOTHING) == NextWake(WAKE)


@pytest.mark.parametrize("pending", [{"pending_names": ("a.jpg",)}, {"pending_count": 1}])
def test_a_device_that_nobody_hears_from_and_that_does_not_listen_is_gone(pending: dict[str, Any]) -> None:
    visit = state(row(**pending))
    now, step = 0.0, visit.next_step(0.0, NOTHING)
    while not isinstance(step, End):
        visit.published(now, nobody_listens=True)
        now += SILENCE
        step = visit.next_step(now, NOTHING)
    assert step == End(device_gone=True)


# The answer to metadata --------------------------------------------------------------------------------


def test_metadata_is_answered_by_a_request_and_that_of_a_stored_picture_by_ack_ok() -> None:
    visit = state(row())
    (assembly,) = pictures(0).unfinished
    assert visit.reply_to_metadata("a.jpg", recorded("complete", next_wake_at=None), None) == AckOk(
        "a.jpg", WAKE
    )
    assert visit.reply_to_metadata("a.jpg", recorded("silent"), assembly) is None
    assert visit.reply_to_metadata("a.jpg", recorded("receiving"), assembly) == SendImage("a.jpg")
    assert visit.reply_to_metadata("a.jpg", recorded("receiving"), assembly) is None, "it is coming"
    assert visit.reply_to_metadata("b.jpg", recorded("receiving"), None) is None, "it was discarded meanwhile"


@pytest.mark.parametrize("module", [visit_pictures, visit_state, visit_steps])
def test_the_state_of_a_visit_waits_for_nothing_and_reads_no_clock(module: Any) -> None:
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    standard = {name for name in imported if name.split(".")[0] in sys.stdlib_module_names}
    assert standard <= {"collections", "collections.abc", "dataclasses", "datetime", "enum"}
    assert not [
        node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Await)
    ]
