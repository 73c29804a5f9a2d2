"""Storage: the bucket, and a small file that is stored, read and removed again."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from uuid import uuid4

import httpx
from pydantic import ValidationError
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from mqtt_service.adapters.supabase import api_errors
from mqtt_service.adapters.supabase.storage import BUCKET
from mqtt_service.doctor.findings import Finding
from mqtt_service.errors import ServiceError, SupabaseUnavailableError

# The smallest text that begins and ends as a JPEG does. No member may read it: the folder is no company's id.
_PICTURE = b"\xff\xd8\xff\xd9"
_FOLDER = "mqtt-service-doctor"
_APPLY = "apply the migrations, which make the bucket: mqtt-service migrations"
_NOT_FOUND = {"404", "not_found", "NotFound"}


async def inspect_storage(client: AsyncClient, picture_bytes: int) -> Iterable[Finding]:
    """Look at the bucket, then try it; `picture_bytes` is IMAGE_MAX_BYTES."""
    bucket = await _inspect_bucket(client, picture_bytes)
    return [bucket] if bucket.state == "broken" else [bucket, await _try(client)]


async def _inspect_bucket(client: AsyncClient, picture_bytes: int) -> Finding:
    try:
        bucket = await client.storage.get_bucket(BUCKET)
    except httpx.HTTPError as error:
        raise api_errors.from_network_error(error, "Storage") from error
    except StorageApiError as error:
        missing = str(error.status) in _NOT_FOUND or "not found" in error.message.lower()
        seen = f"there is no bucket {BUCKET}" if missing else f"Storage refuses: {error.message}"
        return Finding("bucket", "broken", seen, _APPLY)
    except (ValidationError, ValueError, TypeError) as error:
        raise SupabaseUnavailableError(
            "the answer about the bucket is not Storage's; check SUPABASE_URL"
        ) from error
    if bucket.public:
        cure = "make it private: dashboard, Storage, the bucket's menu, Edit bucket"
        return Finding("bucket", "warning", f"{BUCKET} is public: whoever knows an address sees it", cure)
    if bucket.file_size_limit is not None and bucket.file_size_limit < picture_bytes:
        seen = f"{BUCKET} takes {bucket.file_size_limit} bytes, IMAGE_MAX_BYTES is {picture_bytes}"
        return Finding("bucket", "warning", seen, "raise the bucket's limit, or lower IMAGE_MAX_BYTES")
    return Finding("bucket", "ok", f"{BUCKET} is private")


async def _try(client: AsyncClient) -> Finding:
    path = f"{_FOLDER}/{uuid4()}.jpg"
    files = client.storage.from_(BUCKET)
    doing = "stored"
    try:
        try:
            await files.upload(path, _PICTURE, {"content-type": "image/jpeg"})
            doing = "read"
            read = await files.download(path)
        finally:
            removed = await _remove(client, path)
    except httpx.HTTPError as error:
        raise api_errors.from_network_error(error, "Storage") from error
    except StorageApiError as error:
        seen = f"a picture cannot be {doing}: {error.message}"
        return Finding("pictures", "broken", seen, f"{_APPLY}; no policy of yours may bind service_role")
    if read != _PICTURE:
        return Finding(
            "pictures",
            "broken",
            "a picture came back changed",
            "see what stands between here and Storage (a proxy?)",
        )
    if not removed:
        cure = f"remove {path} in the dashboard; allow service_role to delete in {BUCKET}"
        return Finding("pictures", "warning", "a picture can be stored and read, but not removed", cure)
    return Finding("pictures", "ok", "one was stored, read and removed")


async def _remove(client: AsyncClient, path: str) -> bool:
    """Remove the file, also when this is interrupted; whether it is gone."""

    async def remove() -> bool:
        with suppress(httpx.HTTPError, StorageApiError, ServiceError):
            return bool(await client.storage.from_(BUCKET).remove([path]))
        return False

    task = asyncio.create_task(remove())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
