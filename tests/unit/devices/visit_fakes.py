"""Fakes of what a visit needs: a broker, a database and Storage that record what they are told."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from mqtt_service.adapters.supabase.images import (
    ImageGateway,
    ImageOutcome,
    ImageRecorded,
    ImageRow,
    ImageSettled,
)
from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.adapters.supabase.visits import ReplyRow, VisitGateway, VisitRow
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.devices.visit import Visit, VisitOptions, VisitServices
from mqtt_service.metrics import REGISTRY
from mqtt_service.protocol.assembly import Limits
from mqtt_service.protocol.images import ImageChunk, ImageMetadata, Readings
from mqtt_service.publisher import PublishResult

DEVICE = "cam-1"
DEVICE_ID = uuid4()
WAKE = datetime(2026, 5, 1, 17, 30, tzinfo=UTC)
CAPTURED = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)
PICTURE = b"\xff\xd8" + bytes(30) + b"\xff\xd9"
PARTS = [PICTURE[start : start + 10] for start in range(0, len(PICTURE), 10)]


class FakeLink:
    """A broker's end: what was published, and what each publish shall meet."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Exception] = []
        self.nobody_listens = False
        self.connected = True
        self.hear: Callable[[dict[str, Any]], None] = lambda _: None
        self.waiting = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, topic: str, payload: bytes, *, expiry_seconds: int | None) -> PublishResult:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.faults:
            raise self.faults.pop(0)
        message = json.loads(payload)
        self.said.append((topic, message))
        self.hear(message)
        return PublishResult(no_subscriber=self.nobody_listens)

    def told(self, key: str) -> list[Any]:
        return [message[key] for _, message in self.said if key in message]


class FakeGateway:
    """The database's pictures; `answer` and `end` change what it says of the next ones."""

    def __init__(self) -> None:
        self.rows: list[ImageRow] = []
        self.outcomes: list[ImageOutcome] = []
        self.noted: list[ReplyRow] = []
        self.answer: dict[str, Any] = {}
        self.end: dict[str, Any] = {}

    async def record_images(self, images: Sequence[ImageRow]) -> list[ImageRecorded]:
        await asyncio.sleep(0)
        self.rows.extend(images)
        return [self._recorded(row) for row in images]

    def _recorded(self, row: ImageRow) -> ImageRecorded:
        recorded = ImageRecorded(
            row.ref, "receiving", DEVICE_ID, "DEVICE-1", uuid4(), f"path/of/{row.image_name}", WAKE
        )
        return replace(recorded, **self.answer)

    async def record_replies(self, replies: Sequence[ReplyRow]) -> None:
        await asyncio.sleep(0)
        self.noted.extend(replies)

    async def settle_images(self, outcomes: Sequence[ImageOutcome]) -> list[ImageSettled]:
        await asyncio.sleep(0)
        self.outcomes.extend(outcomes)
        return [replace(self._settled(item), **self.end) for item in outcomes]

    @staticmethod
    def _settled(outcome: ImageOutcome) -> ImageSettled:
        if outcome.outcome == "quarantined":
            return ImageSettled(outcome.image_id, "failed", None, WAKE, given_up="quarantine")
        return ImageSettled(outcome.image_id, outcome.outcome, "path/of/it", WAKE)


class FakeStore:
    """A bucket; each `put` meets the next of `faults` first."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[Exception] = []
        self.removed: list[str] = []
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def put(self, path: str, picture: bytes) -> None:
        self.asked.append(path)
        await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        self.files[path] = picture

    async def remove(self, path: str) -> None:
        self.removed.append(path)


@dataclass
class Bench:
    """One worker's part in pictures and visits."""

    link: FakeLink
    gateway: FakeGateway
    store: FakeStore
    pictures: Pictures
    replies: ReplyLog
    rows_requested: list[Visit]
    ended_visits: list[Visit]
    options: VisitOptions

    def visit(self, row: VisitRow | None, device: str = DEVICE) -> Visit:
        """A visit that has begun."""
        services = VisitServices(
            self.link,
            self.pictures,
            self.replies,
            self.options,
            self.rows_requested.append,
            self.ended_visits.append,
        )
        visit = Visit(services, row.topic_root if row else "device", device, row)
        visit.start()
        return visit

    async def send(self, visit: Visit, announced: ImageMetadata | None, *chunks: ImageChunk) -> None:
        """The device sends this; `inbound.py` does the same."""
        if announced is not None:
            await visit.picture_announced(announced, await self.pictures.announce(announced))
        for piece in chunks:
            assembly = self.pictures.chunk(piece)
            visit.device_heard()
            if assembly is not None and assembly.complete:
                visit.picture_complete()

    async def ended(self, visit: Visit) -> None:
        await until(lambda: visit in self.ended_visits)


@asynccontextmanager
async def bench(limits: Limits | None = None, **options: Any) -> AsyncIterator[Bench]:
    """Everything running; a device is waited for as long as a test may take."""
    gateway, store = FakeGateway(), FakeStore()
    pictures = Pictures(
        cast("ImageGateway", gateway), cast("PictureStore", store), limits or Limits(), "w1", lambda: CAPTURED
    )
    replies = ReplyLog(cast("VisitGateway", gateway))
    visits = VisitOptions(**{"silence": 20.0, **options})
    made = Bench(FakeLink(), gateway, store, pictures, replies, [], [], visits)
    tasks = [asyncio.create_task(part.run()) for part in (pictures, replies)]
    try:
        async with asyncio.timeout(20):
            yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def row(**changes: Any) -> VisitRow:
    """A visit that this worker speaks in."""
    known = VisitRow("ESP32CAM", DEVICE, DEVICE_ID, "DEVICE-1", holds_lease=True, next_wake_at=WAKE)
    return replace(known, **changes)


def metadata(name: str = "a.jpg", **changes: Any) -> ImageMetadata:
    made = ImageMetadata(
        "ESP32CAM",
        DEVICE,
        name,
        captured_at=CAPTURED,
        captured_text=CAPTURED.isoformat(),
        size=len(PICTURE),
        chunk_size=10,
        total_chunks=len(PARTS),
        readings=Readings(),
        location=None,
        error_code=None,
        claimed_device=None,
        document={"image_name": name},
    )
    return replace(made, **changes)


def chunk(number: int, name: str = "a.jpg", device: str = DEVICE) -> ImageChunk:
    return ImageChunk("ESP32CAM", device, name, number, PARTS[number], None)


def chunks(name: str = "a.jpg") -> list[ImageChunk]:
    return [chunk(number, name) for number in range(len(PARTS))]


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("mqtt_service_images_total", {"result": result}) or 0.0


async def until(look: Callable[[], object]) -> None:
    """Give everyone else a turn until this holds."""
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)  # the pause between two looks, not the wait itself
