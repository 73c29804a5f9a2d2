"""When what is old is removed, and what a failure does."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from mqtt_service.adapters.supabase.retention import OldImage, OldImages, Removal, RowKind
from mqtt_service.errors import SupabaseUnavailableError
from mqtt_service.retention import Keep, Retention

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeGateway:
    """Rows by kind, and pictures; each call is noted. `held`: whether this worker has the turn."""

    rows: dict[str, int] = field(default_factory=dict)
    images: list[OldImage] = field(default_factory=list)
    held: bool = True
    stuck: bool = False
    calls: list[str] = field(default_factory=list)

    async def remove_rows(
        self, kind: RowKind, days: float, *, limit: int, after: datetime | None = None
    ) -> Removal:
        self.calls.append(f"{kind} {days:g}")
        count = min(limit, self.rows.get(kind, 0))
        self.rows[kind] = self.rows.get(kind, 0) - count
        return Removal(count, held=self.held, after=after, more=self.held and self.rows[kind] > 0)

    async def old_images(self, days: float, *, limit: int, after: datetime | None = None) -> OldImages:
        self.calls.append(f"images {days:g}")
        found = self.images[:limit]
        moment = NOW if self.stuck else (after or NOW) + timedelta(seconds=1)
        return OldImages(self.held, found, moment, more=len(found) == limit)

    async def remove_images(self, images: Sequence[UUID]) -> Removal:
        self.calls.append("rows of images")
        if self.stuck:
            return Removal(0, refused=len(images), error="no")
        gone = [image for image in self.images if image.image_id in images]
        self.images = [image for image in self.images if image not in gone]
        return Removal(len(gone), files=["left"] if any(image.path is None for image in gone) else [])

    async def sweep_own_tables(self) -> Removal:
        self.calls.append("own")
        return Removal(2)


@dataclass
class FakeStore:
    """Storage; `broken`: it does not answer."""

    removed: list[str] = field(default_factory=list)
    broken: bool = False

    async def remove_all(self, paths: Sequence[str]) -> None:
        if self.broken:
            raise SupabaseUnavailableError("Storage is away")
        self.removed += paths


def pictures(count: int) -> list[OldImage]:
    return [OldImage(uuid4(), f"{number}.jpg") for number in range(count)]


def retention(gateway: FakeGateway, store: FakeStore, *, every: float = 3600.0, **days: float) -> Retention:
    keep = Keep(**{"commands": 0, "history": 0, "telemetry": 0, "images": 0, **days})
    return Retention(gateway, store, keep, every=every, pause=0)


async def test_batches_follow_each_other_until_nothing_is_old() -> None:
    gateway = FakeGateway({"commands": 1200, "history": 3})
    removed = await retention(gateway, FakeStore(), commands=90, history=30).run_once()
    assert removed == {"commands": 1200, "history": 3, "own": 2}
    assert gateway.calls == ["commands 90"] * 3 + ["history 30", "own"]


async def test_what_is_kept_for_ever_is_not_asked_for() -> None:
    gateway = FakeGateway({"commands": 5, "telemetry": 5}, pictures(5))
    await retention(gateway, FakeStore()).run_once()
    assert gateway.calls == ["own"]


async def test_a_picture_loses_its_file_first() -> None:
    gateway, store = FakeGateway(images=[*pictures(150), OldImage(uuid4(), None)]), FakeStore()
    removed = await retention(gateway, store, images=10).run_once()
    assert removed["images"] == 151
    assert store.removed == [*(f"{number}.jpg" for number in range(150)), "left"]


async def test_where_storage_is_away_rows_stay_and_the_run_ends() -> None:
    gateway = FakeGateway(images=pictures(3))
    await retention(gateway, FakeStore(broken=True), images=10).run_once()
    assert gateway.calls == ["images 10"]


async def test_pictures_that_the_project_does_not_let_go_are_listed_twice_at_most() -> None:
    gateway = FakeGateway(images=pictures(100), stuck=True)
    removed = await asyncio.wait_for(retention(gateway, FakeStore(), images=10).run_once(), 5)
    assert removed["images"] == 0
    assert gateway.calls.count("images 10") == 2


async def test_another_worker_that_has_the_turn_is_left_to_it() -> None:
    gateway = FakeGateway({"commands": 5}, held=False)
    assert await retention(gateway, FakeStore(), commands=1, history=1).run_once() == {}
    assert gateway.calls == ["commands 1"]


async def test_runs_come_again() -> None:
    gateway, third = FakeGateway(), asyncio.Event()

    class Counting(list[str]):
        def append(self, call: str) -> None:
            super().append(call)
            if len(self) == 3:
                third.set()

    gateway.calls = Counting()
    task = asyncio.create_task(retention(gateway, FakeStore(), every=0.001).run())
    await asyncio.wait_for(third.wait(), 5)
    task.cancel()
