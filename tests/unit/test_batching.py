"""The write-behind batch: few calls, in order, nothing lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from mqtt_service import backoff, batching
from mqtt_service.batching import Batcher
from mqtt_service.errors import PermanentError, RowLockedError, SupabaseUnavailableError

Write = Callable[[Sequence[int]], Awaitable[Sequence[int]]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)


@asynccontextmanager
async def running(write: Write, limit: int = 100, pause: float = 0.0) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher("TEST", write, limit, key=lambda item: item % 10, pause=pause)
    task = asyncio.create_task(batcher.run())
    try:
        async with asyncio.timeout(5):
            yield batcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_gathers_during_a_call_is_written_by_the_next_one_in_order() -> None:
    calls: list[list[int]] = []
    called, go = asyncio.Event(), asyncio.Event()

    async def write(items: Sequence[int]) -> Sequence[int]:
        calls.append(list(items))
        called.set()
        await go.wait()
        return [item * 10 for item in items]

    async with running(write) as batcher:
        submissions = [asyncio.create_task(batcher.submit(1))]
        await called.wait()
        submissions += [asyncio.create_task(batcher.submit(item)) for item in (2, 3, 4)]
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(*submissions) == [10, 20, 30, 40]
    assert calls == [[1], [2, 3, 4]]


@pytest.mark.parametrize(
    ("first", "then", "is_written"),
    [
        ([1], [2], True),  # one by one: nothing waits
        ([1, 2], [3], False),  # busy: what comes gathers for an hour
        ([1, 2], [3, 4, 5], True),  # but a full call goes out
    ],
)
async def test_only_a_busy_batcher_pauses_and_only_until_a_call_is_full(
    first: list[int], then: list[int], is_written: bool
) -> None:
    calls: list[list[int]] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        calls.append(list(items))
        return items

    async with running(write, limit=3, pause=3600) as batcher:
        await asyncio.gather(*(batcher.submit(item) for item in first))
        later = asyncio.gather(*(batcher.submit(item) for item in then))
        if is_written:
            await later
        else:
            for _ in range(10):
                await asyncio.sleep(0)
            later.cancel()
    assert calls == ([first, then] if is_written else [first])


async def test_a_call_is_never_larger_than_the_limit() -> None:
    sizes: list[int] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        return items

    async with running(write, limit=3) as batcher:
        await asyncio.gather(*(batcher.submit(item) for item in range(8)))
    assert sum(sizes) == 8
    assert max(sizes) == 3


async def test_an_unavailable_database_is_tried_until_it_answers() -> None:
    failures = [SupabaseUnavailableError("away")] * 3

    async def write(items: Sequence[int]) -> Sequence[int]:
        if failures:
            raise failures.pop()
        return items

    async with running(write) as batcher:
        assert await batcher.submit(7) == 7
    assert failures == []


async def test_one_refused_item_harms_no_other_of_its_batch() -> None:
    async def write(items: Sequence[int]) -> Sequence[int]:
        if 13 in items:
            raise PermanentError("13 is refused")
        return items

    async with running(write) as batcher:
        results = await asyncio.gather(
            *(batcher.submit(item) for item in (12, 13, 14)), return_exceptions=True
        )
    assert results[0] == 12
    assert isinstance(results[1], PermanentError)
    assert results[2] == 14


async def test_drained_returns_only_when_all_is_written() -> None:
    written: list[int] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0)
        written.extend(items)
        return items

    async with running(write, limit=2) as batcher:
        submissions = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
        await asyncio.sleep(0)
        await batcher.drained()
        assert written == [0, 1, 2, 3, 4]
        await asyncio.gather(*submissions)


async def test_an_item_whose_caller_left_is_withdrawn_unless_it_is_being_written() -> None:
    calls: list[list[int]] = []
    called, go = asyncio.Event(), asyncio.Event()

    async def write(items: Sequence[int]) -> Sequence[int]:
        calls.append(list(items))
        called.set()
        await go.wait()
        return items

    async with running(write, limit=1) as batcher:
        submissions = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        await called.wait()
        submissions[0].cancel()
        submissions[1].cancel()
        await asyncio.gather(*submissions[:2], return_exceptions=True)
        assert batcher.longest_wait > 0
        go.set()
        assert await submissions[2] == 3
        await batcher.drained()
        assert batcher.longest_wait == 0
    assert calls == [[1], [3]]


async def test_a_writer_that_was_cancelled_leaves_its_items_to_the_next_run() -> None:
    stuck = asyncio.Event()

    async def write(items: Sequence[int]) -> Sequence[int]:
        if not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()
        return items

    batcher = Batcher("TEST", write, 10, key=lambda item: item % 10)
    first = asyncio.create_task(batcher.run())
    submission = asyncio.create_task(batcher.submit(1))
    await stuck.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(batcher.run())
    assert await asyncio.wait_for(submission, 5) == 1
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_an_item_whose_row_is_locked_keeps_those_behind_it_of_its_key_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key is an item's last digit here; 7 is locked until it has been tried three times."""
    monkeypatch.setattr(batching, "_LOCKED_RETRY_DELAY", 0.05)
    tries = 0
    written: list[int] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        nonlocal tries
        if any(item % 10 == 7 for item in items) and tries < 3:
            tries += len(items) == 1
            raise RowLockedError("locked")
        written.extend(items)
        return items

    async with running(write) as batcher:
        kept = [asyncio.create_task(batcher.submit(item)) for item in (7, 17, 27)]
        others = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 11)]
        assert await asyncio.gather(*others) == [1, 2, 11]
        assert (written, batcher.longest_wait) == ([1, 2, 11], 0.0)
        assert await batcher.submit(3) == 3
        assert await asyncio.gather(*kept) == [7, 17, 27]
        await batcher.drained()
    assert (written, tries) == ([1, 2, 11, 3, 7, 17, 27], 3)


async def test_what_its_caller_gave_up_while_its_row_was_locked_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "_LOCKED_RETRY_DELAY", 0.05)
    locked = True
    written: list[int] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        if locked and 7 in items:
            raise RowLockedError("locked")
        written.extend(items)
        return items

    async with running(write) as batcher:
        submission = asyncio.create_task(batcher.submit(7))
        assert await batcher.submit(1) == 1
        submission.cancel()
        await asyncio.wait({submission})
        locked = False
        assert await batcher.submit(17) == 17
        await batcher.drained()
    assert written == [1, 17]
