"""Pictures on their way: chunks in memory, rows in the database, whole pictures in Storage.

    announce   metadata arrives: its row and its readings are written
    chunk      bytes are kept, within bounds, until the picture is whole
    store      the whole picture goes into Storage, then its row says `complete`
    fail       its row says why; the device keeps its copy, and offers it again when it wakes next

Nothing here speaks to a device: visit.py does, and only after `store` has returned may it say ACK_OK.
"""

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay

from mqtt_service.adapters.supabase.images import (
    ImageGateway,
    ImageOutcome,
    ImageRecorded,
    ImageRow,
    ImageSettled,
)
from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.backoff import Backoff
from mqtt_service.batching import Batcher
from mqtt_service.errors import (
    ProjectMisconfiguredError,
    RemoteProtocolError,
    ServiceError,
    SupabaseUnavailableError,
)
from mqtt_service.log import context
from mqtt_service.metrics import BUFFERED_BYTES, CHUNKS, DROPPED_MESSAGES, IMAGES
from mqtt_service.protocol.assembly import Assembly, ImageBuffer, ImageFaultError, Limits
from mqtt_service.protocol.images import ImageChunk, ImageMetadata, Readings
from mqtt_service.protocol.topics import device_key

log = logging.getLogger(__name__)

_BATCH = 200
_MOST_FINISHED = 10_000
_UPLOADS = 8
# The same metadata without a time of capture, so soon after, is an echo; later it may be another picture's.
_ECHO = 30.0
# A device waits for its ACK_OK with its radio on: what Storage does not take by then is offered again.
_STORE_PATIENCE = 60.0

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Finished:
    """A picture that is done with, since a time of the event loop; `row` is None unless it is stored.

    `digest` is of the metadata, which may be large, and is None where none came.
    """

    since: float
    digest: bytes | None
    row: ImageRecorded | None


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A picture's row; `with_metadata`: it holds what the device announced."""

    assembly: Assembly
    row: ImageRecorded
    with_metadata: bool


class Pictures:
    """All pictures of all devices that this worker hears; a picture's key is (device_key, its name)."""

    def __init__(
        self,
        gateway: ImageGateway,
        store: PictureStore,
        limits: Limits,
        worker: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.now = now
        self._store = store
        self._buffer = ImageBuffer(limits)
        self._worker = worker
        self._refs = count(1)
        self._rows: Batcher[ImageRow, ImageRecorded] = Batcher(
            "IMAGE", gateway.record_images, _BATCH, key=lambda row: device_key(row.topic_id)
        )
        self._outcomes: Batcher[ImageOutcome, ImageSettled] = Batcher(
            "IMAGE", gateway.settle_images, _BATCH, key=lambda outcome: outcome.image_id
        )
        self._recorded: dict[Key, _Recorded] = {}
        self._finished: OrderedDict[Key, Finished] = OrderedDict()
        self._uploads = asyncio.Semaphore(_UPLOADS)

    async def run(self) -> None:
        """Write rows until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rows.run())
            group.create_task(self._outcomes.run())

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest row has waited for the database."""
        return max(self._rows.longest_wait, self._outcomes.longest_wait)

    def get(self, key: Key) -> Assembly | None:
        """The picture under this key, as far as it is there."""
        return self._buffer.get(*key)

    def of_device(self, device: str) -> list[Assembly]:
        """The unfinished pictures of a device_key, the oldest first."""
        return self._buffer.of_device(device)

    def finished(self, key: Key) -> Finished | None:
        """What became of a picture that is done with, for some time after."""
        return self._finished.get(key)

    def expect(self, key: Key) -> None:
        """The device is asked for this picture: what comes under its name is news."""
        self._finished.pop(key, None)

    def chunk(self, chunk: ImageChunk) -> Assembly | None:
        """Keep a chunk; None if its picture is done with. Raises ImageRefusedError at a bound."""
        key = (device_key(chunk.device), chunk.name)
        if key in self._finished:
            DROPPED_MESSAGES.labels("late").inc()
            return None
        assembly = self._buffer.chunk(chunk, asyncio.get_running_loop().time())
        CHUNKS.inc()
        BUFFERED_BYTES.set(self._buffer.buffered_bytes)
        return assembly

    async def announce(self, metadata: ImageMetadata) -> ImageRecorded:
        """Record an announced picture. Raises ImageRefusedError at a bound, PermanentError if refused."""
        key = (device_key(metadata.device), metadata.name)
        finished = self._finished.get(key)
        if finished is not None and finished.row is not None and self._is_that(finished, metadata):
            return finished.row
        self._finished.pop(key, None)
        assembly = self._buffer.metadata(metadata, asyncio.get_running_loop().time())
        known = self._recorded.get(key)
        if known is not None and known.assembly is assembly and known.with_metadata:
            return known.row
        recorded = await self._rows.submit(self._row(metadata))
        if self._buffer.get(*key) is not assembly:
            return recorded
        if recorded.result == "receiving":
            self._recorded[key] = _Recorded(assembly, recorded, with_metadata=True)
        elif recorded.result == "complete":
            self._finish(key, recorded)
        elif recorded.result != "silent":
            self.discard(key)
        return recorded

    @staticmethod
    def _is_that(finished: Finished, metadata: ImageMetadata) -> bool:
        """Whether a picture that is stored is announced again; without a time, only its bytes could tell."""
        echo = finished.since > asyncio.get_running_loop().time() - _ECHO
        return (metadata.captured_at is not None or echo) and finished.digest == _digest(metadata)

    async def record(self, device: str, name: str) -> ImageRecorded:
        """The row of a picture, also of one whose metadata did not come."""
        key = (device_key(device), name)
        assembly = self._buffer.get(*key)
        known = self._recorded.get(key)
        if known is not None and known.assembly is assembly:
            return known.row
        if assembly is not None and assembly.metadata is not None:
            return await self.announce(assembly.metadata)
        recorded = await self._rows.submit(ImageRow(self._ref(), device, name))
        assembly = self._completed(key, recorded)
        # What nothing came of has no memory to free, so nothing would ever drop its row from here.
        if assembly is not None and recorded.result == "receiving":
            told = recorded.total_chunks is not None
            self._recorded[key] = _Recorded(assembly, recorded, with_metadata=told)
        return recorded

    def _completed(self, key: Key, recorded: ImageRecorded) -> Assembly | None:
        """The picture, with what its row says of it if another worker heard its metadata and not this one."""
        assembly = self._buffer.get(*key)
        if assembly is None or assembly.metadata is not None or recorded.total_chunks is None:
            return assembly
        metadata = ImageMetadata(
            recorded.topic_root,
            *key,
            captured_at=recorded.captured_at,
            captured_text=None,
            size=recorded.image_size,
            chunk_size=None,
            total_chunks=recorded.total_chunks,
            readings=Readings(None, None, None, None),
            location=None,
            error_code=None,
            claimed_device=None,
            document={},
        )
        return self._buffer.metadata(metadata, assembly.last_heard)

    async def asked(self, recorded: ImageRecorded, assembly: Assembly | None, requests: int) -> None:
        """Note in the row that the device was asked for missing chunks once more."""
        if recorded.image_id is not None:
            received = assembly.received if assembly else 0
            outcome = ImageOutcome(recorded.image_id, "asked", received, missing_requests=requests)
            await self._outcomes.submit(outcome)

    async def store(self, key: Key, recorded: ImageRecorded) -> ImageSettled | None:
        """Store the picture of this row, which is whole; returns what the database says, None if it failed.

        None too if the device began another picture of that name meanwhile: that one is not stored, so
        nothing may be confirmed by name.
        """
        assembly = self._buffer.get(*key)
        known = self._recorded.get(key)
        if assembly is None or known is None or known.assembly is not assembly or known.row is not recorded:
            return None
        return await self._store_as(recorded, key, assembly)

    async def _store_as(self, recorded: ImageRecorded, key: Key, assembly: Assembly) -> ImageSettled | None:
        if recorded.image_id is None or recorded.storage_path is None:
            return None
        try:
            picture = assembly.assemble()
            await self._put(recorded.storage_path, picture)
        except ImageFaultError as error:
            await self._fail(key, assembly, recorded, str(error))
            return None
        except ServiceError as error:
            await self._fail(key, assembly, recorded, f"it could not be stored: {error}")
            return None
        digest = hashlib.sha256(picture).hexdigest()
        settled = await self._outcomes.submit(
            ImageOutcome(
                recorded.image_id,
                "complete",
                assembly.received,
                image_size=len(picture),
                sha256=digest,
            )
        )
        if settled.result == "unknown":
            await self._store.remove(recorded.storage_path)
            self._give_up(key, assembly, recorded, "its row was deleted meanwhile")
            return None
        IMAGES.labels(settled.result).inc()
        if settled.result == "duplicate":
            await self._store.remove(recorded.storage_path)
        log.info(
            "[IMAGE] ✅ %s stored (%d bytes) as %s",
            key[1],
            len(picture),
            settled.storage_path,
            extra=context(device=recorded.device_code or key[0]),
        )
        if self._buffer.get(*key) is not assembly:
            return None
        self._finish(key, _as_stored(recorded, settled))
        return settled

    async def fail(self, key: Key, recorded: ImageRecorded, why: str, requests: int = 0) -> None:
        """Give a picture up for now: the row says why, memory is freed, the device keeps its copy."""
        await self._fail(key, self._buffer.get(*key), recorded, why, requests)

    async def _fail(
        self, key: Key, assembly: Assembly | None, recorded: ImageRecorded, why: str, requests: int = 0
    ) -> None:
        await self._write_failure(recorded, assembly, why, requests)
        self._give_up(key, assembly, recorded, why)

    async def refuse(self, device: str, name: str, error: RemoteProtocolError) -> ImageRecorded | None:
        """A bound was hit: the row, which is returned, says which; chunks that still come are dropped.

        None where it was refused before, and not announced again since.
        """
        key = (device_key(device), name)
        if key in self._finished:
            return None
        # Before the first wait, since chunks go on coming.
        self._finish(key, None)
        IMAGES.labels("refused").inc()
        log.warning("[IMAGE] ❌ Refused: %s", error, extra=context(device=device))
        recorded = await self._rows.submit(ImageRow(self._ref(), device, name))
        await self._write_failure(recorded, None, str(error))
        return recorded

    async def _write_failure(
        self, recorded: ImageRecorded, assembly: Assembly | None, why: str, requests: int = 0
    ) -> None:
        if recorded.image_id is None:
            return
        await self._outcomes.submit(
            ImageOutcome(
                recorded.image_id,
                "failed",
                assembly.received if assembly else 0,
                missing_requests=requests,
                error=why,
                missing=assembly.missing() if assembly and assembly.metadata else (),
            )
        )

    def _give_up(self, key: Key, assembly: Assembly | None, recorded: ImageRecorded, why: str) -> None:
        """Count a failure and free the picture, unless the device began another of that name meanwhile."""
        IMAGES.labels("failed").inc()
        log.warning(
            "[IMAGE] ❌ %s failed: %s; the device keeps it and offers it again",
            key[1],
            why,
            extra=context(device=recorded.device_code or key[0]),
        )
        if self._buffer.get(*key) is assembly:
            self._finish(key, None)

    def forget(self, key: Key) -> None:
        """Another worker has stored this picture: what still comes of it is late."""
        self._finish(key, None)

    def discard(self, key: Key) -> None:
        """Free a picture's memory, wherever it stands; what still comes of it begins it anew."""
        self._buffer.discard(*key)
        self._recorded.pop(key, None)
        BUFFERED_BYTES.set(self._buffer.buffered_bytes)

    def discard_device(self, device: str) -> None:
        """Forget a device's unfinished pictures."""
        for assembly in self._buffer.of_device(device):
            self.discard((device, assembly.name))

    def expire(self, age: float) -> None:
        """Free the memory of pictures of which nothing was heard for so many seconds."""
        for assembly in self._buffer.expire(asyncio.get_running_loop().time() - age):
            self._recorded.pop((assembly.device_key, assembly.name), None)
        BUFFERED_BYTES.set(self._buffer.buffered_bytes)

    def _finish(self, key: Key, row: ImageRecorded | None) -> None:
        assembly = self._buffer.get(*key)
        digest = _digest(assembly.metadata) if row and assembly and assembly.metadata else None
        self.discard(key)
        self._finished[key] = Finished(asyncio.get_running_loop().time(), digest, row)
        if len(self._finished) > _MOST_FINISHED:
            self._finished.popitem(last=False)

    async def _put(self, path: str, picture: bytes) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((SupabaseUnavailableError, ProjectMisconfiguredError)),
            wait=Backoff(),
            stop=stop_after_delay(_STORE_PATIENCE),
            before_sleep=lambda state: log.warning(
                "[IMAGE] %s; next try in %.1f s",
                state.outcome.exception() if state.outcome else "Storage does not answer",
                state.upcoming_sleep,
            ),
            reraise=True,
        )
        await retrying(self._upload, path, picture)

    async def _upload(self, path: str, picture: bytes) -> None:
        """Try once; a picture that waits for its next try keeps no other from Storage."""
        async with self._uploads:
            await self._store.put(path, picture)

    def _ref(self) -> str:
        return f"{self._worker}:{next(self._refs)}"

    def _row(self, metadata: ImageMetadata) -> ImageRow:
        readings = metadata.readings
        return ImageRow(
            ref=self._ref(),
            topic_id=metadata.device,
            image_name=metadata.name,
            captured_at=metadata.captured_at,
            image_size=metadata.size,
            max_chunk_size=metadata.chunk_size,
            total_chunks=metadata.total_chunks,
            error_code=metadata.error_code,
            location=metadata.location,
            temperature=readings.temperature,
            humidity=readings.humidity,
            pressure=readings.pressure,
            gas_resistance=readings.gas_resistance,
            metadata=metadata.document,
        )


def _as_stored(recorded: ImageRecorded, settled: ImageSettled) -> ImageRecorded:
    """What the database would say of the picture from now on."""
    return replace(
        recorded,
        result="complete",
        image_id=settled.image_id,
        storage_path=settled.storage_path,
        next_wake_at=settled.next_wake_at,
    )


def _digest(metadata: ImageMetadata) -> bytes:
    return hashlib.sha256(json.dumps(metadata.document, sort_keys=True).encode()).digest()
