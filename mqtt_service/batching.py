"""A write-behind batch: callers submit one item each, and one task writes whatever has gathered in one call.

An idle batcher writes at once, a busy one writes many; so latency is one call and load is few calls.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from mqtt_service.backoff import patiently
from mqtt_service.errors import PermanentError

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Entry(Generic[T, R]):
    item: T
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    done: "asyncio.Future[R]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[T, R]):
    """Gathers items and writes them in order, at most `limit` in a call.

    `write` returns one result an item, in order. While the database is away or refuses every call, it is
    tried again without end, since the items are facts that must reach it; any other PermanentError is given
    to the callers, after each item of the batch was tried alone, so that one bad item harms no other.
    `attempts` counts the calls.
    """

    def __init__(self, name: str, write: Callable[[Sequence[T]], Awaitable[Sequence[R]]], limit: int) -> None:
        self._name = name
        self._write = write
        self._limit = limit
        self._waiting: deque[_Entry[T, R]] = deque()
        self._batch: list[_Entry[T, R]] = []
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
        """For how many seconds the oldest item has waited; 0 where none does."""
        return asyncio.get_running_loop().time() - self._waiting[0].since if self._waiting else 0.0

    async def drained(self) -> None:
        """Wait until every item submitted so far has been written or refused."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write until cancelled, as one task; what is unwritten then is first in line for a next run."""
        while True:
            await self._arrived.wait()
            self._batch = list(islice(self._waiting, self._limit))
            try:
                await self._write_batch(self._batch)
                for _ in self._batch:
                    self._waiting.popleft()
            finally:
                self._batch = []
            self._note_if_empty()

    def _note_if_empty(self) -> None:
        if not self._waiting:
            self._arrived.clear()
            self._empty.set()

    async def _write_batch(self, batch: list[_Entry[T, R]]) -> None:
        try:
            results = await self._write_patiently([entry.item for entry in batch])
        except PermanentError as error:
            if len(batch) > 1:
                for entry in batch:
                    await self._write_batch([entry])
            elif not batch[0].done.done():
                batch[0].done.set_exception(error)
            return
        for entry, result in zip(batch, results, strict=True):
            if not entry.done.done():
                entry.done.set_result(result)

    async def _write_patiently(self, items: list[T]) -> Sequence[R]:
        def announce(error: BaseException, delay: float) -> None:
            log.warning("[%s] %s; %d waiting, next try in %.1f s", self._name, error, len(items), delay)

        async for attempt in patiently(announce):
            with attempt:
                self.attempts += 1
                return await self._write(items)
        raise AssertionError("patiently() ends only by a result or an error")
