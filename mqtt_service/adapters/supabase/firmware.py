"""Firmware in Supabase Storage: the worker has addresses signed; people upload and remove files.

The migrations create the bucket, which is private. A file's name begins with its company's id.
"""

import json
from typing import Any

import httpx
from pydantic import ValidationError
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from mqtt_service.adapters.supabase import api_errors
from mqtt_service.errors import (
    PermanentError,
    ProjectMisconfiguredError,
    ServiceError,
    SupabaseUnavailableError,
)

BUCKET = "firmware"

# An address opens the file for whoever has it, so one for ever is not asked for.
_LONGEST = 366 * 24 * 3600


class FirmwareStore:
    """One client's view of the bucket `firmware`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def sign(self, path: str, seconds: float) -> str:
        """An address that opens this file for so many seconds (at most a year), without a key.

        Raises SupabaseUnavailableError where waiting can help, ProjectMisconfiguredError where a person must
        correct the project, and PermanentError where there is no such file.
        """
        duration = max(1, min(int(seconds), _LONGEST))
        try:
            signed = await self._client.storage.from_(BUCKET).create_signed_url(path, duration)
        except Exception as error:
            raise _translated(error, f"the address of the firmware {path}") from error
        return str(signed["signedURL"])

    async def put(self, path: str, content: Any) -> None:  # noqa: ANN401 - bytes, or an open file
        """Store a file; the same again is harmless. Raises as `sign` does."""
        options = {"content-type": "application/octet-stream", "upsert": "true"}
        try:
            await self._client.storage.from_(BUCKET).upload(path, content, options)  # type: ignore[arg-type]  # it names fewer options than it takes
        except Exception as error:
            raise _translated(error, "the upload of the firmware") from error

    async def remove(self, path: str) -> None:
        """Remove a file; one that is gone is no fault. Raises as `sign` does."""
        try:
            await self._client.storage.from_(BUCKET).remove([path])
        except Exception as error:
            raise _translated(error, "the removal of the firmware") from error


def _translated(error: Exception, call: str) -> Exception:
    """One of our errors for what the client raises; a fault of this service stays what it is."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, httpx.HTTPError):
        return api_errors.from_network_error(error, call)
    if isinstance(error, StorageApiError):
        return _from_storage_error(error, call)
    if isinstance(error, (ValidationError, json.JSONDecodeError, KeyError)):
        return SupabaseUnavailableError(f"the answer to {call} is not Storage's: {error!r}")
    return error


def _from_storage_error(error: StorageApiError, call: str) -> ServiceError:
    """Storage puts the status that it means into its body, as text."""
    try:
        status = int(error.status)
    except ValueError:
        status = int(httpx.codes.INTERNAL_SERVER_ERROR)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return SupabaseUnavailableError(f"Storage could not answer {call} now: {error.message} ({status})")
    if status == httpx.codes.NOT_FOUND and "bucket" not in error.message.lower():
        return PermanentError(
            f"Storage has no file for {call}: publish the release again (mqtt-service firmware publish)"
        )
    if status in {httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNSUPPORTED_MEDIA_TYPE}:
        return PermanentError(f"Storage refuses {call}: {error.message} ({status})")
    return ProjectMisconfiguredError(
        f"Storage refuses {call}: {error.message} ({status}); apply the files in supabase/migrations, which "
        f"make the bucket {BUCKET}, and set SUPABASE_SECRET_KEY to the project's secret key"
    )
