"""Pictures into Supabase's Storage: bytes in, our errors instead of the API's.

The bucket is private and made by the migrations. Storing the same picture again is harmless: it takes the
place of itself.
"""

import logging

import httpx
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from mqtt_service.adapters import api_errors
from mqtt_service.errors import (
    PermanentError,
    ProjectMisconfiguredError,
    ServiceError,
    SupabaseUnavailableError,
)

log = logging.getLogger(__name__)

BUCKET = "device-images"


class PictureStore:
    """The worker's view of the bucket `device-images`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def put(self, path: str, picture: bytes) -> None:
        """Store a JPEG; returns once it is safe.

        Raises SupabaseUnavailableError where waiting can help, ProjectMisconfiguredError where a person must
        mend the project, and PermanentError where this picture is refused.
        """
        bucket = self._client.storage.from_(BUCKET)
        try:
            await bucket.upload(path, picture, {"content-type": "image/jpeg", "upsert": "true"})
        except httpx.HTTPError as error:
            raise api_errors.from_network_error(error, "the upload of a picture") from error
        except StorageApiError as error:
            raise _translated(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise SupabaseUnavailableError(f"the answer to an upload is not Storage's: {error!r}") from error

    async def remove(self, path: str) -> None:
        """Remove a file that no row names; one that stays does no harm, so a failure is only logged."""
        try:
            await self._client.storage.from_(BUCKET).remove([path])
        except (httpx.HTTPError, StorageApiError, ServiceError) as error:
            log.warning("[IMAGE] %s is not needed and could not be removed: %s", path, error)


def _translated(error: StorageApiError) -> ServiceError:
    """Storage puts the status that it means into its body, as text."""
    try:
        status = int(error.status)
    except ValueError:
        status = int(httpx.codes.INTERNAL_SERVER_ERROR)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return SupabaseUnavailableError(f"Storage could not take a picture now: {error.message} ({status})")
    if status in {httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNSUPPORTED_MEDIA_TYPE}:
        return PermanentError(f"Storage refuses the picture: {error.message} ({status})")
    return ProjectMisconfiguredError(
        f"Storage refuses pictures: {error.message} ({status}); apply the files in supabase/migrations, which"
        f" make the bucket {BUCKET}, and set SUPABASE_SECRET_KEY to the project's secret key"
    )
