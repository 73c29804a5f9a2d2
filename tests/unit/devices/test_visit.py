"""One visit: what a device that is awake is told, and when; without a broker or a database."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from mqtt_service import backoff
from mqtt_service.devices import visit as module
from mqtt_service.errors import BrokerUnavailableError, PermanentError
from mqtt_service.protocol.assembly import ImageRefusedError
from tests.unit.devices.visit_fakes import (
    CAPTURED,
    DEVICE,
    DEVICE_ID,
    WAKE,
    Bench,
    bench,
    chunk,
    chunks,
    counted,
    metadata,
    row,
    until,
)

CMD, ACK = f"ESP32CAM/{DEVICE}/cmd", f"ESP32CAM/{DEVICE}/ack"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(module, "_COMMAND_CHECK_INTERVAL", 0.01)


@pytest.fixture
async def parts() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


@pytest.fixture
async def brief() -> AsyncIterator[Bench]:
    """For devices that say nothing: they are waited for 30 ms."""
    async with bench(silence=0.03) as made:
        yield made


async def test_a_device_without_commands_and_pictures_is_told_when_to_wake_and_no_more(parts: Bench) -> None:
    visit = parts.visit(row())
    await parts.ended(visit)
    ((topic, message),) = parts.link.said
    assert (topic, message["next_wake"]) == (CMD, "5:30PM")


async def test_sleep_waits_for_open_commands_and_is_left_out_where_one_said_when(parts: Bench) -> None:
    visit = parts.visit(row(open_commands=1))
    await until(lambda: parts.rows_requested)
    visit.row_read(row(open_commands=1))
    await until(lambda: len(parts.rows_requested) > 1)
    assert not parts.link.said
    visit.command_acknowledged("set_wake_schedule")
    visit.row_read(row(open_commands=0, schedule_sent=True))
    await parts.ended(visit)
    assert not parts.link.said


async def test_a_command_that_is_not_answered_does_not_keep_the_device_awake() -> None:
    async with bench(command_patience=0.03) as parts:
        visit = parts.visit(row(open_commands=1, pending_names=("a.jpg",)))
        await until(lambda: parts.rows_requested)
        while not parts.link.told("send_image"):
            visit.row_read(row(open_commands=1))
            await asyncio.sleep(0.001)  # the pause between two looks
        visit.cancel()


async def test_a_picture_that_a_command_brings_is_taken_before_sleep(parts: Bench) -> None:
    visit = parts.visit(row(open_commands=1))
    await until(lambda: parts.rows_requested)
    visit.command_acknowledged("capture_image")
    visit.row_read(row(open_commands=0))
    await parts.send(visit, metadata(), *chunks())
    await parts.ended(visit)
    assert parts.link.told("ACK_OK") == [{"next_wake_time": "5:30PM"}]
    assert not parts.link.told("next_wake")


async def test_named_pictures_are_asked_for_one_after_another(parts: Bench) -> None:
    visit = parts.visit(row(pending_count=2, pending_names=("a.jpg", "b.jpg")))
    for number, name in enumerate(("a.jpg", "b.jpg"), start=1):
        await until(lambda: name in parts.link.told("send_image"))  # noqa: B023 - used at once
        assert len(parts.link.told("ACK_OK")) == number - 1
        await parts.send(visit, metadata(name), *chunks(name))
    await parts.ended(visit)
    assert not parts.link.told("next_wake")


async def test_pictures_without_names_are_asked_for_by_capture_image(parts: Bench) -> None:
    visit = parts.visit(row(pending_count=2))
    for number in (1, 2):
        await until(lambda: len(parts.link.told("capture_image")) == number)  # noqa: B023 - used at once
        await parts.send(visit, metadata(f"{number}.jpg"), *chunks(f"{number}.jpg"))
    await parts.ended(visit)
    assert len(parts.link.told("ACK_OK")) == 2


async def test_a_device_that_never_sends_what_it_listed_is_asked_again_and_sleeps_in_the_end(
    brief: Bench,
) -> None:
    before = counted("failed")
    visit = brief.visit(row(pending_names=("a.jpg",)))
    await brief.ended(visit)
    assert brief.link.told("send_image") == ["a.jpg"] * 4
    assert brief.link.told("next_wake") == ["5:30PM"]
    (outcome,) = brief.gateway.outcomes
    reason = "the device sent nothing of it though asked for it 3 times"
    assert (outcome.outcome, outcome.error) == ("failed", reason)
    assert counted("failed") == before + 1


async def test_missing_chunks_are_asked_for_at_most_three_times(brief: Bench) -> None:
    await brief.pictures.announce(metadata())
    for number in (0, 2):
        brief.pictures.chunk(chunk(number))
    visit = brief.visit(row())
    await brief.ended(visit)
    assert brief.link.told("missing_chunks") == [[1, 3]] * 3
    assert brief.link.told("next_wake") == ["5:30PM"]
    failed = brief.gateway.outcomes[-1]
    assert (failed.outcome, failed.missing_requests, failed.missing) == ("failed", 3, (1, 3))
    assert brief.pictures.unfinished(DEVICE) == []


async def test_a_device_that_is_gone_is_not_asked_for_ever_and_its_pictures_are_not_failed(
    brief: Bench,
) -> None:
    brief.link.nobody_listens = True
    visit = brief.visit(row(pending_names=("a.jpg", "b.jpg")))
    await brief.ended(visit)
    assert set(brief.link.told("send_image")) == {"a.jpg"}
    assert not brief.gateway.outcomes


async def test_a_device_whose_hello_was_faster_than_its_subscription_is_told_to_sleep_again(
    brief: Bench,
) -> None:
    def begins_to_listen(_: object) -> None:
        brief.link.nobody_listens = len(brief.link.said) < 2

    brief.link.hear = begins_to_listen
    visit = brief.visit(row())
    await brief.ended(visit)
    assert brief.link.told("next_wake") == ["5:30PM"] * 2


async def test_a_device_that_never_listens_is_told_to_sleep_a_bounded_number_of_times(brief: Bench) -> None:
    brief.link.nobody_listens = True
    visit = brief.visit(row())
    await brief.ended(visit)
    assert brief.link.told("next_wake") == ["5:30PM"] * 4


async def test_the_same_metadata_twice_is_one_picture(parts: Bench) -> None:
    visit = parts.visit(row())
    await parts.send(visit, metadata(), chunk(0), chunk(1))
    await parts.send(visit, metadata(), chunk(2), chunk(3))
    await parts.ended(visit)
    assert len(parts.link.told("ACK_OK")) == 1
    assert len(parts.store.files) == 1
    assert len(parts.gateway.rows) == 1


async def test_a_picture_that_is_stored_already_is_confirmed_at_once_on_the_root_of_the_device(
    parts: Bench,
) -> None:
    parts.gateway.answer = {"result": "complete", "topic_root": "ESP32CAM"}
    visit = parts.visit(None)
    await parts.send(visit, metadata())
    await parts.ended(visit)
    assert (ACK, {"next_wake_time": "5:30PM"}) in [(t, m.get("ACK_OK")) for t, m in parts.link.said]


async def test_another_picture_of_a_confirmed_name_is_taken_in_the_same_visit(parts: Bench) -> None:
    visit = parts.visit(row(pending_names=("z.jpg",)))
    await parts.send(visit, metadata(), *chunks())
    await until(lambda: parts.link.told("ACK_OK"))
    later = metadata(captured_at=CAPTURED + timedelta(hours=1), document={"n": 2})
    await parts.send(visit, later, *chunks())
    await parts.send(visit, metadata("z.jpg"), *chunks("z.jpg"))
    await parts.ended(visit)
    assert [m["image_name"] for _, m in parts.link.said if "ACK_OK" in m] == ["a.jpg", "z.jpg", "a.jpg"]


async def test_a_confirmation_that_waits_for_the_broker_is_dropped_when_another_picture_has_that_name(
    parts: Bench,
) -> None:
    visit = parts.visit(row(pending_names=("z.jpg",)))
    await parts.send(visit, metadata())
    await until(lambda: parts.link.told("send_image"))
    parts.link.gate.clear()
    parts.link.faults = [BrokerUnavailableError("away")]
    await parts.send(visit, None, *chunks())
    await until(lambda: parts.link.waiting)
    another = metadata(captured_at=CAPTURED + timedelta(hours=1), document={"n": 2})
    await parts.pictures.announce(another)
    parts.link.gate.set()
    await parts.send(visit, None, *chunks())
    await until(lambda: parts.link.told("ACK_OK"))
    assert len(parts.store.asked) == 2
    assert len(parts.link.told("ACK_OK")) == 1
    visit.cancel()


async def test_a_link_that_is_away_delays_the_answer_and_loses_none(parts: Bench) -> None:
    parts.link.faults = [BrokerUnavailableError("away") for _ in range(3)]
    visit = parts.visit(row())
    await parts.ended(visit)
    assert parts.link.told("next_wake") == ["5:30PM"]


async def test_a_message_that_the_broker_refuses_does_not_keep_the_device_awake(brief: Bench) -> None:
    brief.link.faults = [PermanentError("too large for the broker")]
    visit = brief.visit(row(pending_names=("a.jpg",)))
    await brief.ended(visit)
    assert brief.link.told("next_wake") == ["5:30PM"]


async def test_a_fault_of_ours_does_not_keep_the_device_awake_and_is_written_down(
    parts: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    parts.link.faults = [ZeroDivisionError("a bug")]
    visit = parts.visit(row(pending_names=("a.jpg",)))
    await parts.ended(visit)
    assert parts.link.told("next_wake") == ["5:30PM"]
    assert "a bug" in caplog.text


async def test_a_visit_without_a_wake_time_ends_all_the_same(parts: Bench) -> None:
    visit = parts.visit(row(next_wake_at=None))
    await parts.ended(visit)
    assert not parts.link.said


async def test_a_visit_that_takes_too_long_ends_with_sleep_and_the_reason_in_the_row() -> None:
    async with bench(longest=0.1, silence=20.0) as parts:
        before = counted("failed")
        visit = parts.visit(row())
        await parts.send(visit, metadata(), chunk(0))
        await parts.ended(visit)
        assert parts.link.told("next_wake") == ["5:30PM"]
        (outcome,) = parts.gateway.outcomes
        assert outcome.outcome == "failed"
        assert str(outcome.error).startswith("not finished: it took longer than")
        assert counted("failed") == before + 1
        assert parts.pictures.unfinished(DEVICE) == []


async def test_a_picture_that_storage_refuses_is_kept_by_the_device_which_is_told_to_sleep(
    parts: Bench,
) -> None:
    parts.store.faults = [PermanentError("no room")]
    visit = parts.visit(row())
    await parts.send(visit, metadata(), *chunks())
    await parts.ended(visit)
    assert not parts.link.told("ACK_OK")
    assert parts.link.told("next_wake") == ["5:30PM"]


@pytest.mark.parametrize("listening", ["from the start", "since a moment"])
async def test_a_worker_that_may_not_speak_says_nothing(parts: Bench, listening: str) -> None:
    holds_lease = listening != "from the start"
    visit = parts.visit(row(holds_lease=holds_lease, open_commands=1))
    visit.row_read(row(holds_lease=False))
    await parts.send(visit, None, *chunks())
    parts.gateway.answer = {"result": "silent"}
    await parts.send(visit, metadata())
    visit.row_read(row(holds_lease=False, ended=True))
    await parts.ended(visit)
    assert not parts.link.said
    assert not parts.store.files


async def test_a_visit_that_turns_out_to_be_anothers_falls_silent_midway(brief: Bench) -> None:
    visit = brief.visit(row())
    await brief.send(visit, None, *chunks()[:2])
    brief.gateway.answer = {"result": "silent"}
    await until(lambda: brief.gateway.rows)
    await until(lambda: not visit.holds_lease)
    said = len(brief.link.said)
    visit.row_read(row(holds_lease=False, ended=True))
    await brief.ended(visit)
    assert len(brief.link.said) == said


async def test_a_worker_that_takes_over_goes_on_with_what_it_heard_and_skips_what_is_done_with(
    parts: Bench,
) -> None:
    visit = parts.visit(row(holds_lease=False, pending_names=("a.jpg", "b.jpg")))
    await parts.send(visit, None, *chunks("b.jpg")[:2])
    visit.row_read(
        row(took_over=True, pending_names=("b.jpg",), settled_names=("a.jpg",), topic_root="ESP32CAM")
    )
    await parts.send(visit, metadata("b.jpg"), *chunks("b.jpg")[2:])
    await parts.ended(visit)
    assert [m["image_name"] for _, m in parts.link.said if "ACK_OK" in m] == ["b.jpg"]
    assert "a.jpg" not in parts.link.told("send_image")


async def test_a_worker_that_only_heard_chunks_and_takes_over_speaks_where_the_device_listens(
    brief: Bench,
) -> None:
    brief.gateway.answer = {"result": "silent", "topic_root": "ESP32CAM"}
    visit = brief.visit(None)
    await brief.send(visit, None, chunk(0))
    await until(lambda: visit.begun)
    brief.gateway.answer = {}
    brief.pictures.discard_device(DEVICE)
    visit.row_read(row(topic_root=visit.address[0], took_over=True))
    await brief.ended(visit)
    assert [topic for topic, message in brief.link.said if "next_wake" in message] == [CMD]


async def test_chunks_without_a_hello_and_metadata_begin_a_visit_after_a_silence(brief: Bench) -> None:
    visit = brief.visit(None)
    await brief.send(visit, None, *chunks())
    await until(lambda: brief.gateway.rows)
    await brief.send(visit, metadata())
    await brief.ended(visit)
    assert len(brief.link.told("ACK_OK")) == 1


async def test_chunks_of_a_device_that_may_not_register_end_their_visit(brief: Bench) -> None:
    brief.gateway.answer = {"result": "unknown_device", "device_id": None, "image_id": None}
    visit = brief.visit(None)
    await brief.send(visit, None, chunk(0))
    await brief.ended(visit)
    assert not brief.link.said


async def test_a_device_whose_only_picture_is_refused_is_told_to_sleep(brief: Bench) -> None:
    refused = await brief.pictures.refuse(DEVICE, "a.jpg", ImageRefusedError("max_bytes", "too large"))
    assert refused is not None
    visit = brief.visit(None)
    visit.picture_recorded(replace(refused, topic_root="ESP32CAM"))
    await brief.ended(visit)
    assert [(topic, message["next_wake"]) for topic, message in brief.link.said] == [(CMD, "5:30PM")]


async def test_a_reply_is_noted_before_it_is_said_since_its_answer_can_be_quick(parts: Bench) -> None:
    noted_when_said: list[list[tuple[UUID, str]]] = []
    parts.link.hear = lambda _: noted_when_said.append(
        [(reply.device_id, reply.reply_type) for reply in parts.gateway.noted]
    )
    visit = parts.visit(row())
    await parts.ended(visit)
    assert noted_when_said == [[(DEVICE_ID, "set_wake_schedule")]]
    assert [str(reply.reply_id) for reply in parts.gateway.noted] == parts.link.told("command_id")


async def test_a_worker_that_may_not_speak_notes_nothing(brief: Bench) -> None:
    visit = brief.visit(row())
    visit.row_read(row(holds_lease=False))
    await until(lambda: not visit.holds_lease)
    visit.row_read(row(holds_lease=False, ended=True))
    await brief.ended(visit)
    assert (brief.gateway.noted, brief.link.said) == ([], [])


async def test_every_reply_names_the_device_and_only_its_own_field(brief: Bench) -> None:
    visit = brief.visit(row(pending_names=("a.jpg",)))
    await brief.ended(visit)
    fields: set[Any] = {
        json.dumps(sorted(set(message) - {"device_id", "command_id"})) for _, message in brief.link.said
    }
    assert fields == {'["send_image"]', '["next_wake"]'}
    assert {message["device_id"] for _, message in brief.link.said} == {DEVICE}
    assert WAKE.hour == 17


async def test_metadata_is_done_with_though_the_broker_takes_no_answer_to_it(
    parts: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where `picture_announced` waits for the broker: all devices' answers would wait behind it."""
    monkeypatch.setattr(module, "_METADATA_REPLY_TIMEOUT", 0.05)
    parts.link.faults = [BrokerUnavailableError("quota exceeded")] * 10_000
    visit = parts.visit(row())
    await parts.send(visit, metadata())
    parts.link.faults.clear()
    await parts.send(visit, None, *chunks())
    await parts.ended(visit)
    assert [told["next_wake_time"] for told in parts.link.told("ACK_OK")] == ["5:30PM"]


async def test_a_visits_row_is_read_once_all_its_open_commands_are_answered(
    parts: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqtt_service.devices.visit._COMMAND_CHECK_INTERVAL", 20.0)
    visit = parts.visit(row(open_commands=3))
    for _ in range(2):
        await asyncio.sleep(0)
        visit.command_acknowledged("ping")
        visit.picture_complete()
    for _ in range(10):  # turns of the event loop in which it could ask
        await asyncio.sleep(0)
    assert parts.rows_requested == []
    visit.command_acknowledged("ping")
    await until(lambda: parts.rows_requested == [visit])
    visit.row_read(row())
    await parts.ended(visit)
    assert parts.rows_requested == [visit]
