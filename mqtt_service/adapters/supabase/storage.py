"""Pictures in Supabase Storage: bytes in, our errors instead of the API's.

The migrations create the bucket, which is private. Storing the same picture again is harmless: the file is
overwritten with itself.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import httpx
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from mqtt_service.adapters.supabase.storage_errors import translated
from mqtt_service.errors import ServiceError
from mqtt_service.metrics import IMAGE_BYTES

log = logging.getLogger(__name__)

BUCKET = "device-images"


class PictureStore:
    """The worker's view of the bucket `device-images`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._calls: set[asyncio.Task[None]] = set()

    async def put(self, path: str, picture: bytes) -> None:
        """Store a JPEG; return once it is safe. An upload is completed even if its caller is cancelled.

        Raises SupabaseUnavailableError where waiting can help, ProjectMisconfiguredError where a person must
        correct the project, and PermanentError where this picture is refused.
        """
        await self._complete(self._put(path, picture))

    async def _put(self, path: str, picture: bytes) -> None:
        bucket = self._client.storage.from_(BUCKET)
        try:
            await bucket.upload(path, picture, {"content-type": "image/jpeg", "upsert": "true"})
            IMAGE_BYTES.inc(len(picture))
        except Exception as error:
            raise translated(error, "the upload of a picture", BUCKET) from error

    async def remove(self, path: str) -> None:
        """Remove a file that no row names. If that fails the file does no harm, so it is only logged."""
        await self._complete(self._remove(path))

    async def _remove(self, path: str) -> None:
        try:
            await self._client.storage.from_(BUCKET).remove([path])
        except (httpx.HTTPError, StorageApiError, ServiceError) as error:
            log.warning("[IMAGE] %s is not needed and could not be removed: %s", path, error)

    async def remove_all(self, paths: Sequence[str]) -> None:
        """Remove these files, in one request; one that is gone is no fault. Raises as `put` does."""
        if paths:
            await self._complete(self._remove_all(paths))

    async def _remove_all(self, paths: Sequence[str]) -> None:
        try:
            await self._client.storage.from_(BUCKET).remove(list(paths))
        except Exception as error:
            raise translated(error, "the removal of old pictures", BUCKET) from error

    async def _complete(self, call: Coroutine[Any, Any, None]) -> None:
        """Do not cancel the request with its caller: each cancelled one can cost the client a connection."""
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # its caller gets it, if there still is one
