"""Pictures on their way: what is recorded, stored, given up and forgotten, without a database."""

import asyncio
from datetime import timedelta

import pytest

from mqtt_service import backoff
from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.devices import finished_pictures, picture_uploads
from mqtt_service.devices.giving_up import Failure
from mqtt_service.errors import PermanentError, SupabaseUnavailableError
from mqtt_service.protocol.assembly import ImageRefusedError, Limits
from tests.unit.devices.visit_fakes import (
    CAPTURED,
    DEVICE,
    PICTURE,
    Bench,
    bench,
    chunk,
    chunks,
    counted,
    metadata,
    until,
)

KEY = (DEVICE, "a.jpg")


async def whole(parts: Bench) -> ImageRecorded:
    """A picture of which everything came; its row."""
    recorded = await parts.pictures.announce(metadata())
    for piece in chunks():
        parts.pictures.chunk(piece)
    return recorded


async def test_a_whole_picture_is_stored_before_its_row_says_so_and_leaves_no_memory() -> None:
    async with bench() as parts:
        recorded = await whole(parts)
        parts.store.gate.clear()
        storing = asyncio.create_task(parts.pictures.store(KEY, recorded))
        await until(lambda: parts.store.asked)
        assert not parts.gateway.outcomes
        parts.store.gate.set()
        settled = await storing
        assert settled is not None
        assert settled.result == "complete"
        assert parts.store.files == {"path/of/a.jpg": PICTURE}
        assert [outcome.outcome for outcome in parts.gateway.outcomes] == ["complete"]
        assert parts.pictures.unfinished(DEVICE) == []


async def test_metadata_of_a_stored_picture_is_answered_without_the_database_and_with_its_root() -> None:
    async with bench() as parts:
        parts.gateway.answer = {"topic_root": "ESP32CAM"}
        await parts.pictures.store(KEY, await whole(parts))
        again = await parts.pictures.announce(metadata())
        assert (again.result, again.topic_root) == ("complete", "ESP32CAM")
        assert len(parts.gateway.rows) == 1
        assert parts.pictures.chunk(chunk(0)) is None


async def test_the_same_metadata_without_a_time_is_another_picture_unless_it_is_an_echo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untimed = metadata(captured_at=None, captured_text=None)
    async with bench() as parts:
        recorded = await parts.pictures.announce(untimed)
        for piece in chunks():
            parts.pictures.chunk(piece)
        await parts.pictures.store(KEY, recorded)
        assert (await parts.pictures.announce(untimed)).result == "complete"
        monkeypatch.setattr(finished_pictures, "_REPETITION_WINDOW", 0.0)
        assert (await parts.pictures.announce(untimed)).result == "receiving"


async def test_another_picture_of_a_stored_name_is_received() -> None:
    async with bench() as parts:
        await parts.pictures.store(KEY, await whole(parts))
        later = metadata(captured_at=CAPTURED + timedelta(hours=1), document={"image_name": "a.jpg", "n": 2})
        assert (await parts.pictures.announce(later)).result == "receiving"
        assert parts.pictures.chunk(chunk(0)) is not None


async def test_chunks_after_metadata_of_a_picture_that_the_database_has_are_late() -> None:
    async with bench() as parts:
        parts.gateway.answer = {"result": "complete"}
        assert (await parts.pictures.announce(metadata())).result == "complete"
        assert parts.pictures.chunk(chunk(0)) is None
        assert parts.pictures.unfinished(DEVICE) == []


async def test_a_picture_whose_row_was_deleted_is_never_confirmed_and_its_file_goes() -> None:
    async with bench() as parts:
        parts.gateway.end = {"result": "unknown"}
        before = counted("failed")
        assert await parts.pictures.store(KEY, await whole(parts)) is None
        assert parts.store.removed == ["path/of/a.jpg"]
        assert counted("failed") == before + 1
        assert parts.pictures.unfinished(DEVICE) == []


async def test_the_file_of_a_duplicate_goes_and_it_is_confirmed() -> None:
    async with bench() as parts:
        parts.gateway.end = {"result": "duplicate"}
        assert await parts.pictures.store(KEY, await whole(parts)) is not None
        assert parts.store.removed == ["path/of/a.jpg"]


async def test_storage_that_is_away_for_a_moment_costs_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.0001)
    async with bench() as parts:
        parts.store.faults = [SupabaseUnavailableError("away"), SupabaseUnavailableError("away")]
        assert await parts.pictures.store(KEY, await whole(parts)) is not None


async def test_a_picture_that_storage_refuses_fails_with_its_words() -> None:
    async with bench() as parts:
        parts.store.faults = [PermanentError("too large for the bucket")]
        assert await parts.pictures.store(KEY, await whole(parts)) is None
        (outcome,) = parts.gateway.outcomes
        assert outcome.outcome == "failed"
        assert "too large for the bucket" in str(outcome.error)


async def test_a_failure_leaves_a_picture_that_the_device_began_under_the_same_name_meanwhile() -> None:
    async with bench() as parts:
        recorded = await whole(parts)
        parts.store.gate.clear()
        parts.store.faults = [PermanentError("refused")]
        storing = asyncio.create_task(parts.pictures.store(KEY, recorded))
        await until(lambda: parts.store.asked)
        another = metadata(captured_at=CAPTURED + timedelta(hours=1))
        await parts.pictures.announce(another)
        parts.pictures.chunk(chunk(2))
        parts.store.gate.set()
        assert await storing is None
        (left,) = parts.pictures.unfinished(DEVICE)
        assert (left.metadata, left.received) == (another, 1)


@pytest.mark.parametrize("began_another", [False, True])
@pytest.mark.parametrize("refused", [False, True])
async def test_one_given_up_is_not_deleted_by_name_where_another_of_that_name_comes(
    refused: bool, began_another: bool
) -> None:
    async with bench() as parts:
        parts.gateway.end = {"given_up": "discard", "failed_visits": 3}
        recorded = await whole(parts)
        error = ImageRefusedError("max_bytes", "too large")
        giving_up = asyncio.create_task(
            parts.pictures.refuse(*KEY, error)
            if refused
            else parts.pictures.fail(KEY, recorded, Failure("cut off", "cut_off"))
        )
        await asyncio.sleep(0)  # it has begun, and waits for the database
        if began_another:
            await parts.pictures.announce(metadata(captured_at=CAPTURED + timedelta(hours=1)))
        answer = await giving_up
        is_to_delete = answer.given_up is not None if answer is not None else False
        assert is_to_delete is not began_another
        assert len(parts.pictures.unfinished(DEVICE)) == began_another


async def test_a_picture_replaced_while_it_is_stored_is_not_confirmed_by_name() -> None:
    async with bench() as parts:
        recorded = await whole(parts)
        parts.store.gate.clear()
        storing = asyncio.create_task(parts.pictures.store(KEY, recorded))
        await until(lambda: parts.store.asked)
        await parts.pictures.announce(metadata(captured_at=CAPTURED + timedelta(hours=1)))
        parts.store.gate.set()
        assert await storing is None
        assert parts.store.files
        assert [outcome.outcome for outcome in parts.gateway.outcomes] == ["complete"]


async def test_a_picture_is_never_stored_in_the_row_of_another_of_that_name() -> None:
    async with bench() as parts:
        first = await whole(parts)
        await parts.pictures.announce(metadata(captured_at=CAPTURED + timedelta(hours=1)))
        for piece in chunks():
            parts.pictures.chunk(piece)
        assert await parts.pictures.store(KEY, first) is None
        assert not parts.store.files
        assert not parts.gateway.outcomes


async def test_a_refused_picture_is_counted_and_written_once_with_the_bound() -> None:
    async with bench(Limits(max_chunks=2)) as parts:
        before = (counted("refused"), counted("failed"))
        for _ in range(2):
            with pytest.raises(ImageRefusedError) as refusal:
                await parts.pictures.announce(metadata())
        recorded = await parts.pictures.refuse(DEVICE, "a.jpg", refusal.value)
        assert recorded is not None
        assert await parts.pictures.refuse(DEVICE, "a.jpg", refusal.value) is None
        assert (counted("refused"), counted("failed")) == (before[0] + 1, before[1])
        (outcome,) = parts.gateway.outcomes
        assert (outcome.image_id, outcome.outcome) == (recorded.image_id, "failed")
        assert "the limit is 2" in str(outcome.error)
        assert parts.pictures.chunk(chunk(0)) is None


async def test_an_upload_that_waits_for_its_next_try_keeps_no_other_from_storage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture_uploads, "_UPLOADS_AT_ONCE", 1)
    monkeypatch.setattr(backoff, "FIRST_DELAY", 1000.0)
    monkeypatch.setattr(picture_uploads, "_UPLOAD_TIMEOUT", 1e6)
    async with bench() as parts:
        stuck_row = await whole(parts)
        parts.store.faults = [SupabaseUnavailableError("away", retry_after=1000.0)]
        stuck = asyncio.create_task(parts.pictures.store(KEY, stuck_row))
        await until(lambda: not parts.store.faults)
        other = await parts.pictures.announce(metadata("b.jpg"))
        for piece in chunks("b.jpg"):
            parts.pictures.chunk(piece)
        assert await parts.pictures.store((DEVICE, "b.jpg"), other) is not None
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


async def test_nothing_is_kept_of_pictures_that_were_asked_for_and_never_came() -> None:
    async with bench() as parts:
        for number in range(100):
            await parts.pictures.record(DEVICE, f"{number}.jpg")
        assert not parts.pictures._recorded


async def test_a_picture_discarded_while_its_row_is_written_leaves_nothing() -> None:
    async with bench() as parts:
        announcing = asyncio.create_task(parts.pictures.announce(metadata()))
        await asyncio.sleep(0)
        parts.pictures.discard_device(DEVICE)
        await announcing
        assert not parts.pictures._recorded


async def test_metadata_that_another_worker_heard_is_filled_in_from_the_row() -> None:
    async with bench() as parts:
        for piece in chunks():
            parts.pictures.chunk(piece)
        parts.gateway.answer = {"total_chunks": 4, "image_size": len(PICTURE), "captured_at": CAPTURED}
        recorded = await parts.pictures.record(DEVICE, "a.jpg")
        assembly = parts.pictures.get(KEY)
        assert assembly is not None
        assert assembly.complete
        assert await parts.pictures.store(KEY, recorded) is not None
        assert list(parts.store.files.values()) == [PICTURE]


async def test_a_picture_whose_row_cannot_say_that_it_is_stored_is_not_confirmed_and_comes_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as parts:
        parts.gateway.end = {"result": "refused", "error": "their_rule refuses it (42703)"}
        assert await parts.pictures.store(KEY, await whole(parts)) is None
        assert parts.store.files == {"path/of/a.jpg": PICTURE}
        assert not parts.store.removed
        assert "it is in Storage, but its row cannot say so: their_rule refuses it (42703)" in caplog.text
        parts.gateway.end = {}
        assert await parts.pictures.store(KEY, await whole(parts)) is not None


async def test_what_the_project_does_not_take_of_a_picture_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as parts:
        parts.gateway.answer = {"warnings": ["public.device_telemetry does not take humidity: …"]}
        await whole(parts)
        assert "Not recorded (picture): public.device_telemetry does not take humidity" in caplog.text
