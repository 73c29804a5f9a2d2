"""Write-behind batches: callers submit one item each, and one task writes all that has gathered in one call.

An idle batcher writes at once, a busy one writes many; so latency is one call and load is few calls. A busy
one can also pause between its calls, so that those carry more.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from mqtt_service.backoff import retry_forever
from mqtt_service.errors import PermanentError, RowLockedError

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

# Each try at a locked row takes the call two seconds, in which nothing else is written.
_LOCKED_RETRY_DELAY = 10.0


@dataclass(slots=True, eq=False)
class _Entry(Generic[T, R]):
    item: T
    done: Callable[[R | PermanentError], None]
    since: float
    finished: bool = False

    def finish(self, result: R | PermanentError) -> None:
        self.finished = True
        self.done(result)


class Batcher(Generic[T, R]):
    """Gathers items and writes them in order, at most `limit` in a call.

    `write` returns one result an item, in order. While the database is away or refuses every call, the call
    is repeated without end, since the items are facts that must reach it. Where a call meets one bad item or
    a locked row, each item of the batch is written alone, so that one does not hold up the others: any other
    PermanentError is raised to the item's caller, and an item whose row is locked waits, as do later ones
    with the same `key`. `attempts` counts the calls.

    `pause`: after a call with several items the next one begins so many seconds later, or with `limit` items.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        limit: int,
        key: Callable[[T], Hashable],
        *,
        pause: float = 0.0,
    ) -> None:
        self._name = name
        self._write = write
        self._limit = limit
        self._key = key
        self._pause = pause
        self._full = asyncio.Event()
        self._waiting: deque[_Entry[T, R]] = deque()
        self._batch: list[_Entry[T, R]] = []
        # By key, when its items are tried again (the event loop's clock).
        self._locked: dict[Hashable, float] = {}
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.attempts = 0

    def add(self, item: T, done: Callable[[R | PermanentError], None]) -> None:
        """Have the item written; `done` is called with its result, or with the error that it met."""
        self._append(_Entry(item, done, asyncio.get_running_loop().time()))

    async def submit(self, item: T) -> R:
        """Have the item written; returns its result, or raises the PermanentError that it met.

        An item whose caller is cancelled is withdrawn, unless it is being written at that moment.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[R] = loop.create_future()

        def done(result: R | PermanentError) -> None:
            if outcome.done():
                return
            if isinstance(result, PermanentError):
                outcome.set_exception(result)
            else:
                outcome.set_result(result)

        entry = _Entry[T, R](item, done, loop.time())
        self._append(entry)
        try:
            return await outcome
        except asyncio.CancelledError:
            if entry in self._waiting and entry not in self._batch:
                self._waiting.remove(entry)
                self._note_if_empty()
            raise

    def _append(self, entry: _Entry[T, R]) -> None:
        self._waiting.append(entry)
        self._empty.clear()
        self._arrived.set()
        if len(self._waiting) >= self._limit:
            self._full.set()

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest item has waited, leaving out those with a locked row; 0 if none."""
        oldest = next((entry for entry in self._waiting if self._key(entry.item) not in self._locked), None)
        return asyncio.get_running_loop().time() - oldest.since if oldest else 0.0

    async def drained(self) -> None:
        """Wait until every item submitted so far has been written or refused."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write until cancelled, as one task; what is unwritten then is what the next run writes first."""
        while True:
            self._batch = self._next_batch()
            if not self._batch:
                await self._wait_for_items()
                continue
            several = len(self._batch) > 1
            try:
                await self._write_batch(self._batch)
            finally:
                self._forget_finished()
                self._batch = []
            self._note_if_empty()
            if several and self._pause:
                await self._gather()

    async def _gather(self) -> None:
        """Let items come together for the length of the pause, unless they fill a call before."""
        self._full.clear()
        if len(self._waiting) >= self._limit:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause):
                await self._full.wait()

    def _forget_finished(self) -> None:
        """Take out what was written; only behind an item that stays does that need a look at all of them."""
        finished = sum(entry.finished for entry in self._batch)
        while self._waiting and self._waiting[0].finished:
            self._waiting.popleft()
            finished -= 1
        if finished:
            self._waiting = deque(entry for entry in self._waiting if not entry.finished)

    def _next_batch(self) -> list[_Entry[T, R]]:
        """What is written next: one item alone of a key that has been locked for long enough, else many."""
        now = asyncio.get_running_loop().time()
        for key in [key for key, retry_at in self._locked.items() if retry_at <= now]:
            del self._locked[key]
            for entry in self._waiting:
                if self._key(entry.item) == key:
                    return [entry]
        unlocked = (entry for entry in self._waiting if self._key(entry.item) not in self._locked)
        return list(islice(unlocked, self._limit))

    async def _wait_for_items(self) -> None:
        """Wait until an item is submitted, or a locked key may be tried again."""
        self._arrived.clear()
        retry_at = min(self._locked.values(), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(retry_at):
                await self._arrived.wait()

    def _note_if_empty(self) -> None:
        if not self._waiting:
            self._empty.set()

    async def _write_batch(self, batch: list[_Entry[T, R]]) -> None:
        try:
            results = await self._call([entry.item for entry in batch])
        except (PermanentError, RowLockedError) as error:
            if len(batch) == 1:
                self._set_apart(batch[0], error)
                return
            for entry in batch:
                if self._key(entry.item) not in self._locked:
                    await self._write_batch([entry])
            return
        for entry, result in zip(batch, results, strict=True):
            entry.finish(result)

    def _set_apart(self, entry: _Entry[T, R], error: PermanentError | RowLockedError) -> None:
        if isinstance(error, RowLockedError):
            self._locked[self._key(entry.item)] = asyncio.get_running_loop().time() + _LOCKED_RETRY_DELAY
            log.warning(
                "[%s] %s; what is written to it waits, next try in %.0f s, the rest goes on",
                self._name,
                error,
                _LOCKED_RETRY_DELAY,
            )
        else:
            entry.finish(error)

    async def _call(self, items: list[T]) -> Sequence[R]:
        """Write these items, however long the database is away."""

        def log_retry(error: BaseException, delay: float) -> None:
            log.warning("[%s] %s; %d waiting, next try in %.1f s", self._name, error, len(items), delay)

        async for attempt in retry_forever(log_retry, except_for=(RowLockedError,)):
            with attempt:
                self.attempts += 1
                return await self._write(items)
        raise AssertionError("retry_forever() ends only by a result or an error")
