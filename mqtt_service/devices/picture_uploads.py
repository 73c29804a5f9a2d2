"""Uploads of complete pictures to Storage: a few at a time, each tried again while its device waits."""

import asyncio
import logging

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay

from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.backoff import Backoff
from mqtt_service.errors import ProjectMisconfiguredError, SupabaseUnavailableError

log = logging.getLogger(__name__)

_UPLOADS_AT_ONCE = 8
# Seconds. A device waits for its ACK_OK with its radio on: what is not stored by then is offered again later.
_UPLOAD_TIMEOUT = 60.0


class PictureUploader:
    """Stores pictures under their paths; no more than a few uploads are under way at once."""

    def __init__(self, store: PictureStore) -> None:
        self._store = store
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def upload(self, path: str, picture: bytes) -> None:
        """Store it, trying again for a minute; raises what the last attempt met."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((SupabaseUnavailableError, ProjectMisconfiguredError)),
            wait=Backoff(),
            stop=stop_after_delay(_UPLOAD_TIMEOUT),
            before_sleep=_log_retry,
            reraise=True,
        )
        await retrying(self._upload_once, path, picture)

    async def remove(self, path: str) -> None:
        """Remove a file that no row names."""
        await self._store.remove(path)

    async def _upload_once(self, path: str, picture: bytes) -> None:
        """A picture that waits for its next attempt delays no other."""
        async with self._uploads:
            await self._store.put(path, picture)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("[IMAGE] %s; next try in %.1f s", error or "Storage does not answer", state.upcoming_sleep)
