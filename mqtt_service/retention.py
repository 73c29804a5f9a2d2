"""Removes what is old: once an hour, in small batches, by one worker at a time (the database decides which).

Pictures lose their file first and then their row, so that no file is left behind that no row names. What
cannot be removed waits for the next run.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import random
from typing import Protocol
from uuid import UUID

from mqtt_service.adapters.supabase.retention import OldImages, Removal, RowKind
from mqtt_service.errors import ServiceError
from mqtt_service.metrics import REMOVED_ROWS, RETENTION_RUNS

log = logging.getLogger(__name__)

_EVERY = 3600.0
# The first run comes this long after the start, so that a worker that starts up has other things to do.
_FIRST_AFTER = 120.0
# Between two batches: the database has time for others, and vacuum for what is dead.
_PAUSE = 0.2
_ROWS = 500
_IMAGES = 100


@dataclass(frozen=True, slots=True)
class Keep:
    """For how many days each kind of rows is kept; 0: for ever."""

    commands: float
    history: float
    telemetry: float
    images: float


class Gateway(Protocol):
    """The database functions that retention needs (`adapters.supabase.retention`)."""

    async def remove_rows(
        self, kind: RowKind, days: float, *, limit: int, after: datetime | None = None
    ) -> Removal:
        """Remove up to `limit` rows."""

    async def old_images(self, days: float, *, limit: int, after: datetime | None = None) -> OldImages:
        """List up to `limit` pictures."""

    async def remove_images(self, images: Sequence[UUID]) -> Removal:
        """Remove the rows of pictures whose files are gone."""

    async def sweep_own_tables(self) -> Removal:
        """Remove what the worker's own tables no longer need."""


class Store(Protocol):
    """The files (`adapters.supabase.storage`)."""

    async def remove_all(self, paths: Sequence[str]) -> None:
        """Remove files; one that is gone is no fault. Raises ServiceError."""


class Retention:
    """Removes old rows until cancelled; seconds between two runs in `every`, between batches in `pause`."""

    def __init__(
        self, gateway: Gateway, store: Store, keep: Keep, *, every: float = _EVERY, pause: float = _PAUSE
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._keep = keep
        self._every = every
        self._pause = pause

    async def run(self) -> None:
        """Do a run every hour."""
        delay = min(_FIRST_AFTER, self._every)
        while True:
            await asyncio.sleep(delay * (1 + random() / 10))  # noqa: S311 - it only keeps workers apart
            await self.run_once()
            delay = self._every

    async def run_once(self) -> dict[str, int]:
        """Remove everything that is old now; returns how many rows of each kind, and logs it."""
        removed: dict[str, int] = {}
        steps: dict[str, Callable[[], AsyncIterator[Removal]]] = {
            "commands": lambda: self._rows("commands", self._keep.commands),
            "history": lambda: self._rows("history", self._keep.history),
            "telemetry": lambda: self._rows("telemetry", self._keep.telemetry),
            "images": lambda: self._images(self._keep.images),
            "own": lambda: _once(self._gateway.sweep_own_tables),
        }
        try:
            for kind, step in steps.items():
                async for batch in step():
                    if not batch.held:
                        RETENTION_RUNS.labels("another").inc()
                        log.debug("[RETENTION] Another worker removes what is old")
                        return removed
                    removed[kind] = removed.get(kind, 0) + batch.removed
                    REMOVED_ROWS.labels(kind).inc(batch.removed)
                    _log_refused(kind, batch)
        except ServiceError as error:
            RETENTION_RUNS.labels("failed").inc()
            log.warning("[RETENTION] What is old stays until the next run: %s", error)
            return removed
        RETENTION_RUNS.labels("done").inc()
        log.info(
            "[RETENTION] Removed what is old: %s",
            ", ".join(f"{count} {kind}" for kind, count in removed.items() if count) or "nothing",
        )
        return removed

    async def _rows(self, kind: RowKind, days: float) -> AsyncIterator[Removal]:
        after, more = None, days > 0
        while more:
            batch = await self._gateway.remove_rows(kind, days, limit=_ROWS, after=after)
            yield batch
            after, more = batch.after, batch.more
            await asyncio.sleep(self._pause if more else 0)

    async def _images(self, days: float) -> AsyncIterator[Removal]:
        after, more = None, days > 0
        while more:
            old = await self._gateway.old_images(days, limit=_IMAGES, after=after)
            if not old.held or not old.images:
                yield Removal(0, held=old.held)
                return
            await self._store.remove_all([image.path for image in old.images if image.path])
            batch = await self._gateway.remove_images([image.image_id for image in old.images])
            if batch.files:
                await self._store.remove_all(batch.files)
            yield batch
            # Where nothing could be removed, the same pictures would be listed for ever.
            more = old.more and (batch.removed > 0 or old.after != after)
            after = old.after
            await asyncio.sleep(self._pause if more else 0)


async def _once(call: Callable[[], Awaitable[Removal]]) -> AsyncIterator[Removal]:
    yield await call()


def _log_refused(kind: str, batch: Removal) -> None:
    if batch.refused:
        log.warning(
            "[RETENTION] The project does not let go of %d old %s, which stay: %s",
            batch.refused,
            kind,
            batch.error,
        )
