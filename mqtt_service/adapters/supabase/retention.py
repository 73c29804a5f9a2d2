"""Old rows in the database: which there are, and removing them; the migrations say what is spared."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import DatabaseFunctions

RowKind = Literal["commands", "history", "telemetry"]


@dataclass(frozen=True, slots=True)
class Removal:
    """What one call removed.

    `held`: this worker has the turn. `refused`: rows that the project does not let go, with a reason in
    `error`. `more`: another call, after `after`, may remove more. `files`: what may be left in Storage.
    """

    removed: int
    held: bool = True
    refused: int = 0
    error: str | None = None
    after: datetime | None = None
    more: bool = False
    files: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class OldImage:
    """A picture to remove; `path` is its file in Storage, None where it has none."""

    image_id: UUID
    path: str | None


@dataclass(frozen=True, slots=True)
class OldImages:
    """Pictures to remove, the oldest first; `held`, `after` and `more` as in `Removal`."""

    held: bool
    images: Sequence[OldImage] = ()
    after: datetime | None = None
    more: bool = False


_REMOVAL = TypeAdapter(Removal)
_OLD_IMAGES = TypeAdapter(OldImages)


class RetentionGateway:
    """Removes old rows for one worker; `days` is their age, `after` where the call before left off."""

    def __init__(self, database: DatabaseFunctions, worker: str) -> None:
        self._database = database
        self._worker = worker

    async def remove_rows(
        self, kind: RowKind, days: float, *, limit: int, after: datetime | None = None
    ) -> Removal:
        """Remove up to `limit` rows, the oldest first."""
        return await self._database.call(
            "fn_remove_old_rows",
            _REMOVAL,
            p_worker=self._worker,
            p_kind=kind,
            p_days=days,
            p_limit=limit,
            p_after=_moment(after),
        )

    async def old_images(self, days: float, *, limit: int, after: datetime | None = None) -> OldImages:
        """List up to `limit` pictures whose files are to be removed."""
        return await self._database.call(
            "fn_list_old_images",
            _OLD_IMAGES,
            p_worker=self._worker,
            p_days=days,
            p_limit=limit,
            p_after=_moment(after),
        )

    async def remove_images(self, images: Sequence[UUID]) -> Removal:
        """Remove the rows of pictures whose files are gone."""
        return await self._database.call(
            "fn_remove_images",
            _REMOVAL,
            p_worker=self._worker,
            p_image_ids=[str(image) for image in images],
        )

    async def sweep_own_tables(self) -> Removal:
        """Remove what the worker's own tables no longer need."""
        return await self._database.call("fn_sweep_own_tables", _REMOVAL, p_worker=self._worker)


def _moment(after: datetime | None) -> str:
    return "-infinity" if after is None else after.isoformat()
