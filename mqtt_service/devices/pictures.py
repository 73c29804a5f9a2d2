"""Pictures on their way: chunks in memory, rows in the database, whole pictures in Storage.

    announce   metadata comes: its row and its readings are written
    chunk      bytes are kept, within bounds, until the picture is complete
    store      the complete picture goes into Storage, then its row says `complete`
    fail       its row says why; the device keeps its copy, and offers it again when it wakes next, until the
               picture is given up for good

    picture_rows.py   picture_uploads.py   picture_failures.py
    giving_up.py   finished_pictures.py   protocol/assembly.py

Nothing here speaks to a device: visit.py does, and only after `store` or `fail` has returned a row may it say
ACK_OK.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mqtt_service.adapters.supabase.images import ImageGateway, ImageRecorded, ImageSettled
from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.devices.finished_pictures import FinishedPictures, PictureKey
from mqtt_service.devices.giving_up import Failure, GiveUpPolicy, refused_failure
from mqtt_service.devices.picture_failures import PictureFailures, describe, is_device_to_delete
from mqtt_service.devices.picture_rows import PictureRows, TemperatureUnit
from mqtt_service.devices.picture_uploads import PictureUploader
from mqtt_service.errors import RemoteProtocolError, ServiceError
from mqtt_service.log import context
from mqtt_service.metrics import BUFFERED_BYTES, CHUNKS, DROPPED_MESSAGES, IMAGES
from mqtt_service.protocol.assembly import Assembly, ImageBuffer, Limits
from mqtt_service.protocol.images import ImageChunk, ImageMetadata, Readings
from mqtt_service.protocol.topics import device_key
from mqtt_service.protocol.whole_picture import ImageFaultError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The row of an unfinished picture; `with_metadata`: it holds what the device announced."""

    assembly: Assembly
    row: ImageRecorded
    with_metadata: bool


class Pictures:
    """All pictures of all devices that this worker hears; `now` tells the time of day, with a zone."""

    def __init__(
        self,
        gateway: ImageGateway,
        store: PictureStore,
        limits: Limits,
        worker: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        temperature_unit: TemperatureUnit = "celsius",
        give_up: GiveUpPolicy = GiveUpPolicy(),  # noqa: B008 - frozen
    ) -> None:
        self.now = now
        self._rows = PictureRows(gateway, worker, temperature_unit)
        self._uploader = PictureUploader(store)
        self._failures = PictureFailures(self._rows, self._uploader, give_up)
        self._buffer = ImageBuffer(limits)
        self._finished = FinishedPictures()
        self._recorded: dict[PictureKey, _Recorded] = {}

    async def run(self) -> None:
        """Write rows until cancelled."""
        await self._rows.run()

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest row has waited for the database."""
        return self._rows.longest_wait

    # What is there ------------------------------------------------------------------------------------------

    def get(self, key: PictureKey) -> Assembly | None:
        """The unfinished picture under this key."""
        return self._buffer.get(*key)

    def unfinished(self, device: str) -> list[Assembly]:
        """The unfinished pictures of a device_key, the first begun first."""
        return self._buffer.unfinished(device)

    def is_finished(self, key: PictureKey) -> bool:
        """Whether the picture was stored, given up or refused, and nothing more is expected of it."""
        return key in self._finished

    def reopen(self, key: PictureKey) -> None:
        """The device has a picture of this name: what comes under it is not late."""
        self._finished.remove(key)

    def mark_finished(self, key: PictureKey) -> None:
        """Another worker has dealt with this picture: what still comes of it is late."""
        self._finish(key, stored=None)

    # What comes in ------------------------------------------------------------------------------------------

    def chunk(self, chunk: ImageChunk) -> Assembly | None:
        """Keep a chunk; None if its picture is finished. Raises ImageRefusedError at a bound."""
        if (device_key(chunk.device), chunk.name) in self._finished:
            DROPPED_MESSAGES.labels("late").inc()
            return None
        assembly = self._buffer.add_chunk(chunk, _loop_time())
        CHUNKS.inc()
        BUFFERED_BYTES.set(self._buffer.buffered_bytes)
        return assembly

    async def announce(self, metadata: ImageMetadata) -> ImageRecorded:
        """Record an announced picture. Raises ImageRefusedError at a bound, PermanentError if refused."""
        key = (device_key(metadata.device), metadata.name)
        stored = self._finished.stored_row(key, metadata, _loop_time())
        if stored is not None:
            return stored
        self._finished.remove(key)
        assembly = self._buffer.add_metadata(metadata, _loop_time())
        before = self._row_of(key, assembly)
        if before is not None and before.with_metadata:
            return before.row
        recorded = await self._rows.record_metadata(metadata)
        if self._buffer.get(*key) is assembly:
            self._keep_row(key, assembly, recorded)
        return recorded

    def _keep_row(self, key: PictureKey, assembly: Assembly, recorded: ImageRecorded) -> None:
        if recorded.result == "receiving":
            self._recorded[key] = _Recorded(assembly, recorded, with_metadata=True)
        elif recorded.result == "complete":
            self._finish(key, recorded)
        elif recorded.result != "silent":
            self.discard(key)

    async def record(self, device: str, name: str) -> ImageRecorded:
        """The row of a picture, also of one whose metadata did not come. Raises PermanentError if refused."""
        key = (device_key(device), name)
        assembly = self._buffer.get(*key)
        before = self._row_of(key, assembly)
        if before is not None:
            return before.row
        if assembly is not None and assembly.metadata is not None:
            return await self.announce(assembly.metadata)
        recorded = await self._rows.record(device, name)
        assembly = self._fill_in_metadata(key, recorded)
        # What nothing came of has no memory to free, so nothing would ever drop its row from here.
        if assembly is not None and recorded.result == "receiving":
            with_metadata = recorded.total_chunks is not None
            self._recorded[key] = _Recorded(assembly, recorded, with_metadata)
        return recorded

    def _row_of(self, key: PictureKey, assembly: Assembly | None) -> _Recorded | None:
        """What was recorded of this picture; None if that was another one of its name."""
        recorded = self._recorded.get(key)
        return recorded if recorded is not None and recorded.assembly is assembly else None

    def _fill_in_metadata(self, key: PictureKey, recorded: ImageRecorded) -> Assembly | None:
        """The unfinished picture, with what its row says of it if another worker heard its metadata."""
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
            readings=Readings(),
            location=None,
            error_code=None,
            claimed_device=None,
            document={},
        )
        return self._buffer.add_metadata(metadata, assembly.last_heard)

    async def chunks_requested(
        self, recorded: ImageRecorded, assembly: Assembly | None, requests: int
    ) -> None:
        """Record that the device was asked for missing chunks, in this visit so many times."""
        await self._rows.chunks_requested(recorded, assembly, requests)

    # How it ends --------------------------------------------------------------------------------------------

    async def store(self, key: PictureKey, recorded: ImageRecorded) -> ImageSettled | None:
        """Store the complete picture of this row; returns what the database says, None if it failed.

        None too if the device began another picture of that name meanwhile: that one is not stored, so
        nothing may be confirmed by name. A picture that fails and is given up for good is answered as by
        `fail`.
        """
        assembly = self._buffer.get(*key)
        before = self._row_of(key, assembly)
        if assembly is None or before is None or before.row is not recorded:
            return None
        if recorded.image_id is None or recorded.storage_path is None:
            return None
        try:
            picture = assembly.assemble()
            await self._uploader.upload(recorded.storage_path, picture)
        except ImageFaultError as error:
            return await self._fail(key, assembly, recorded, Failure(str(error), error.fault))
        except ServiceError as error:
            failure = Failure(f"it could not be stored: {error}")
            return await self._fail(key, assembly, recorded, failure)
        settled = await self._rows.complete(recorded.image_id, assembly, picture)
        if settled.result in {"unknown", "duplicate"}:
            await self._uploader.remove(recorded.storage_path)
        if settled.result in {"unknown", "refused"}:
            deleted = "its row was deleted meanwhile"
            refused = f"it is in Storage, but its row cannot say so: {settled.error}"
            reason = deleted if settled.result == "unknown" else refused
            self._failed(key, assembly, recorded, f"{reason}; {describe(None)}")
            return None
        return self._after_storing(key, assembly, recorded, settled, len(picture))

    def _after_storing(
        self, key: PictureKey, assembly: Assembly, recorded: ImageRecorded, settled: ImageSettled, size: int
    ) -> ImageSettled | None:
        IMAGES.labels(settled.result).inc()
        log.info(
            "[IMAGE] ✅ %s stored (%d bytes) as %s",
            key[1],
            size,
            settled.storage_path,
            extra=context(device=recorded.device_code or key[0]),
        )
        if self._buffer.get(*key) is not assembly:
            return None
        self._finish(key, _as_stored(recorded, settled))
        return settled

    async def fail(
        self, key: PictureKey, recorded: ImageRecorded, failure: Failure, requests: int = 0
    ) -> ImageSettled | None:
        """Give a picture up for now: the row says why, memory is freed, the device keeps its copy.

        Returns what the database says where the picture is given up for good and the device is to delete its
        copy; None where it keeps it, and where it began another picture of that name meanwhile: an answer
        names the picture alone, and it would delete that one.
        """
        return await self._fail(key, self._buffer.get(*key), recorded, failure, requests)

    async def _fail(
        self,
        key: PictureKey,
        assembly: Assembly | None,
        recorded: ImageRecorded,
        failure: Failure,
        requests: int = 0,
    ) -> ImageSettled | None:
        settled = await self._failures.record(recorded, assembly, failure, requests)
        is_same = self._buffer.get(*key) is assembly
        self._failed(key, assembly, recorded, f"{failure.reason}; {describe(settled)}")
        return settled if is_same and is_device_to_delete(settled) else None

    def _failed(
        self, key: PictureKey, assembly: Assembly | None, recorded: ImageRecorded, reason: str
    ) -> None:
        """Count a failure and free the picture, unless the device began another of that name meanwhile."""
        IMAGES.labels("failed").inc()
        log.warning(
            "[IMAGE] ❌ %s failed: %s",
            key[1],
            reason,
            extra=context(device=recorded.device_code or key[0]),
        )
        if self._buffer.get(*key) is assembly:
            self._finish(key, stored=None)

    async def refuse(self, device: str, name: str, error: RemoteProtocolError) -> ImageRecorded | None:
        """A bound was hit: the row, which is returned, says which; chunks that still come are dropped.

        None where it was refused before, and not announced again since. `given_up` is the picture's name
        where the device is to delete its copy, and began no other of that name meanwhile.
        """
        key = (device_key(device), name)
        if key in self._finished:
            return None
        # Before the first wait, since chunks go on coming.
        self._finish(key, stored=None)
        IMAGES.labels("refused").inc()
        log.warning("[IMAGE] ❌ Refused: %s", error, extra=context(device=device))
        recorded = await self._rows.record(device, name)
        settled = await self._failures.record(recorded, None, refused_failure(error))
        if settled is not None and settled.given_up is not None:
            log.warning("[IMAGE] %s: %s", name, describe(settled), extra=context(device=device))
        began_another = self._buffer.get(*key) is not None
        return (
            replace(recorded, given_up=name)
            if is_device_to_delete(settled) and not began_another
            else recorded
        )

    # What memory is freed -----------------------------------------------------------------------------------

    def discard(self, key: PictureKey) -> None:
        """Free a picture's memory, wherever it stands; what still comes of it begins it anew."""
        self._buffer.discard(*key)
        self._recorded.pop(key, None)
        BUFFERED_BYTES.set(self._buffer.buffered_bytes)

    def discard_device(self, device: str) -> None:
        """Free the memory of a device's unfinished pictures."""
        for assembly in self._buffer.unfinished(device):
            self.discard((device, assembly.name))

    def expire(self, age: float) -> None:
        """Free the memory of pictures of which nothing was heard for so many seconds."""
        for assembly in self._buffer.expire(_loop_time() - age):
            self._recorded.pop((assembly.device_key, assembly.name), None)
        BUFFERED_BYTES.set(self._buffer.buffered_bytes)

    def _finish(self, key: PictureKey, stored: ImageRecorded | None) -> None:
        assembly = self._buffer.get(*key)
        self.discard(key)
        self._finished.add(key, _loop_time(), stored, assembly.metadata if assembly else None)


def _as_stored(recorded: ImageRecorded, settled: ImageSettled) -> ImageRecorded:
    """What the database would say of the picture from now on."""
    return replace(
        recorded,
        result="complete",
        image_id=settled.image_id,
        storage_path=settled.storage_path,
        next_wake_at=settled.next_wake_at,
    )


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
