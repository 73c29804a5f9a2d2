"""What ends a process, and what does not."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from mqtt_service import supervision
from mqtt_service.errors import PermanentError
from mqtt_service.supervision import Failures, keep_running, wait_for_unhandled_error, wait_until_stalled


@asynccontextmanager
async def watched() -> AsyncIterator["asyncio.Task[None]"]:
    """A task that ends with the first fault of ours."""
    task = asyncio.create_task(wait_for_unhandled_error())
    await asyncio.sleep(0)
    yield task
    task.cancel()


async def leave_behind(work: Callable[[], Awaitable[None]]) -> None:
    """Have a task fail that nobody asks."""
    task = asyncio.ensure_future(work())
    await asyncio.wait({task})
    del task
    gc.collect()
    await asyncio.sleep(0)


async def raises_in_our_code() -> None:
    supervision._is_ours(object())  # type: ignore[arg-type]  # that is the fault


async def raises_on_purpose() -> None:
    raise PermanentError("the database refuses it")


async def raises_elsewhere() -> None:
    raise ValueError("a library's own")


async def test_code_of_ours_that_raises_where_nobody_sees_it_is_a_fault() -> None:
    async with watched() as fault:
        await leave_behind(raises_in_our_code)
        await asyncio.wait_for(fault, 10)


@pytest.mark.parametrize("work", [raises_on_purpose, raises_elsewhere])
async def test_what_a_library_or_the_service_on_purpose_leaves_behind_is_a_line_in_the_log(
    work: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with watched() as fault:
        await leave_behind(work)
        assert not fault.done()
    assert "never retrieved" in caplog.text


async def test_a_part_that_fails_is_started_again_and_named() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    starts = 0

    async def part() -> None:
        nonlocal starts
        starts += 1
        if starts <= 3:
            raise KeyError("a secret")

    failures = Failures()
    await keep_running("part", part, failures, sleep)
    assert (starts, pauses) == (4, [1.0, 2.0, 4.0])
    assert failures.recent() == {"part": "KeyError; see the log"}


async def test_a_part_that_keeps_failing_is_given_up() -> None:
    async def sleep(_: float) -> None:
        return

    async def part() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await keep_running("part", part, Failures(), sleep)


async def test_work_that_goes_on_is_no_standstill() -> None:
    said = iter(range(1_000_000))
    watch = asyncio.create_task(wait_until_stalled("it", lambda: next(said), seconds=0.06))
    await asyncio.wait({watch}, timeout=0.3)
    assert not watch.done()
    watch.cancel()


async def test_work_that_says_the_same_for_long_stands_still() -> None:
    await asyncio.wait_for(wait_until_stalled("it", lambda: 7, seconds=0.06), 10)
