"""Firmware in Supabase Storage: the worker has addresses signed; people upload and remove files.

The migrations create the bucket, which is private. A file's name begins with its company's id.
"""

from typing import Any

from supabase import AsyncClient

from mqtt_service.adapters.supabase.storage_errors import translated
from mqtt_service.errors import PermanentError

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
            fault = translated(error, f"the address of the firmware {path}", BUCKET)
            if isinstance(fault, PermanentError):
                fault = PermanentError(f"{fault}; publish the release again (mqtt-service firmware publish)")
            raise fault from error
        return str(signed["signedURL"])

    async def put(self, path: str, content: Any) -> None:  # noqa: ANN401 - bytes, or an open file
        """Store a file; the same again is harmless. Raises as `sign` does."""
        options = {"content-type": "application/octet-stream", "upsert": "true"}
        try:
            await self._client.storage.from_(BUCKET).upload(path, content, options)  # type: ignore[arg-type]  # it names fewer options than it takes
        except Exception as error:
            raise translated(error, "the upload of the firmware", BUCKET) from error

    async def remove(self, path: str) -> None:
        """Remove a file; one that is gone is no fault. Raises as `sign` does."""
        try:
            await self._client.storage.from_(BUCKET).remove([path])
        except Exception as error:
            raise translated(error, "the removal of the firmware", BUCKET) from error
