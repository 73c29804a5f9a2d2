"""A write-behind batch: callers submit one item each, and one task writes whatever has gathered in one call.

An idle batcher writes at once, a busy one writes many; so latency is one call and load is few calls.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from mqtt_service.backoff import patiently
from mqtt_service.errors import PermanentError, RowLockedError

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

# Each look at a locked row takes the call's own two seconds, in which the rest waits.
_WHILE_LOCKED = 10.0


@dataclass(slots=True, eq=False)
class _Entry(Generic[T, R]):
    item: T
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    done: "asyncio.Future[R]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[T, R]):
    """Gathers items and writes them in order, at most `limit` in a call.

    `write` returns one result an item, in order. While the database is away or refuses every call, it is
    tried again without end, since the items are facts that must reach it. Where a call meets one bad item or
    a locked row, each item of the batch is tried alone, so that one harms no other: any other PermanentError
    is given to the item's caller, and an item whose row is locked waits, with those behind it of its `key`.
    `attempts` counts the calls.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        limit: int,
        key: Callable[[T], Hashable],
    ) -> None:
        self._name = name
        self._write = write
        self._limit = limit
        self._key = key
        self._waiting: deque[_Entry[T, R]] = deque()
        self._batch: list[_Entry[T, R]] = []
        # By key, when what is kept back is tried again, on the loop's clock.
        self._locked: dict[Hashable, float] = {}
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.attempts = 0

    async def submit(self, item: T) -> R:
        """Have the item written; returns its result, or raises the PermanentError that it met.

        An item whose caller is cancelled is withdrawn, unless it is being written at that moment.
        """
        entry = _Entry[T, R](item)
        self._waiting.append(entry)
        self._empty.clear()
        self._arrived.set()
        try:
            return await entry.done
        except asyncio.CancelledError:
            if entry in self._waiting and entry not in self._batch:
                self._waiting.remove(entry)
                self._note_if_empty()
            raise

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest item has waited that no locked row keeps; 0 where none does."""
        oldest = next((entry for entry in self._waiting if self._key(entry.item) not in self._locked), None)
        return asyncio.get_running_loop().time() - oldest.since if oldest else 0.0

    async def drained(self) -> None:
        """Wait until every item submitted so far has been written or refused."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write until cancelled, as one task; what is unwritten then is first in line for a next run."""
        while True:
            self._batch = self._next_batch()
            if not self._batch:
                await self._until_some_may_be_written()
                continue
            try:
                await self._write_batch(self._batch)
                over = {entry for entry in self._batch if entry.done.done()}
                self._waiting = deque(entry for entry in self._waiting if entry not in over)
            finally:
                self._batch = []
            self._note_if_empty()

    def _next_batch(self) -> list[_Entry[T, R]]:
        """What is written next: alone, the first item of those kept back for long enough; else many."""
        now = asyncio.get_running_loop().time()
        for key in [key for key, due in self._locked.items() if due <= now]:
            del self._locked[key]
            for entry in self._waiting:
                if self._key(entry.item) == key:
                    return [entry]
        free = (entry for entry in self._waiting if self._key(entry.item) not in self._locked)
        return list(islice(free, self._limit))

    async def _until_some_may_be_written(self) -> None:
        self._arrived.clear()
        due = min(self._locked.values(), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._arrived.wait()

    def _note_if_empty(self) -> None:
        if not self._waiting:
            self._empty.set()

    async def _write_batch(self, batch: list[_Entry[T, R]]) -> None:
        try:
            results = await self._write_patiently([entry.item for entry in batch])
        except (PermanentError, RowLockedError) as error:
            if len(batch) == 1:
                self._set_apart(batch[0], error)
                return
            for entry in batch:
                if self._key(entry.item) not in self._locked:
                    await self._write_batch([entry])
            return
        for entry, result in zip(batch, results, strict=True):
            if not entry.done.done():
                entry.done.set_result(result)

    def _set_apart(self, entry: _Entry[T, R], error: PermanentError | RowLockedError) -> None:
        if isinstance(error, RowLockedError):
            self._locked[self._key(entry.item)] = asyncio.get_running_loop().time() + _WHILE_LOCKED
            log.warning(
                "[%s] %s; what is for it waits, next try in %.0f s, the rest goes on",
                self._name,
                error,
                _WHILE_LOCKED,
            )
        elif not entry.done.done():
            entry.done.set_exception(error)

    async def _write_patiently(self, items: list[T]) -> Sequence[R]:
        def announce(error: BaseException, delay: float) -> None:
            log.warning("[%s] %s; %d waiting, next try in %.1f s", self._name, error, len(items), delay)

        async for attempt in patiently(announce, but=(RowLockedError,)):
            with attempt:
                self.attempts += 1
                return await self._write(items)
        raise AssertionError("patiently() ends only by a result or an error")
