"""What doctor stores is removed again, however its look ends."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from mqtt_service.doctor.findings import Finding
from mqtt_service.doctor.storage import inspect_storage

FORBIDDEN = StorageApiError("new row violates row-level security policy", "Unauthorized", "403")


class FakeStorage:
    """A bucket in memory; `fails` says at which step, and `reading` is set when a file is read."""

    def __init__(self, fails: str = "", **bucket: object) -> None:
        self.fails = fails
        self.bucket = SimpleNamespace(**{"public": False, "file_size_limit": None, **bucket})
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.reading = asyncio.Event()

    async def get_bucket(self, _name: str) -> Any:
        if self.fails == "bucket":
            raise StorageApiError("Bucket not found", "Bucket not found", "404")
        return self.bucket

    def from_(self, _name: str) -> "FakeStorage":
        return self

    async def upload(self, path: str, data: bytes, _options: object) -> None:
        if self.fails == "upload":
            raise FORBIDDEN
        self.files[path] = data
        self.seen.append(path)

    async def download(self, path: str) -> bytes:
        self.reading.set()
        if self.fails == "hang":
            await asyncio.Event().wait()
        if self.fails == "download":
            raise FORBIDDEN
        return self.files[path] if self.fails != "changed" else b"changed"

    async def remove(self, paths: list[str]) -> list[str]:
        await asyncio.sleep(0)
        if self.fails == "remove":
            raise FORBIDDEN
        return [path for path in paths if self.files.pop(path, None) is not None]


async def look(storage: FakeStorage) -> dict[str, Finding]:
    client = cast("AsyncClient", SimpleNamespace(storage=storage))
    return {finding.name: finding for finding in await inspect_storage(client, 1000)}


@pytest.mark.parametrize(
    ("fails", "state", "seen"),
    [
        ("", "ok", "one was stored, read and removed"),
        ("upload", "broken", "a picture cannot be stored: new row violates"),
        ("download", "broken", "a picture cannot be read: new row violates"),
        ("changed", "broken", "a picture came back changed"),
        ("remove", "warning", "but not removed"),
    ],
)
async def test_a_picture_there_and_back(fails: str, state: str, seen: str) -> None:
    storage = FakeStorage(fails)
    finding = (await look(storage))["pictures"]
    assert finding.state == state
    assert seen in finding.seen
    assert len(storage.files) == (fails == "remove")
    assert bool(finding.cure) == (state != "ok")


@pytest.mark.parametrize(
    ("storage", "state", "seen"),
    [
        ({"fails": "bucket"}, "broken", "there is no bucket device-images"),
        ({"public": True}, "warning", "is public"),
        ({"file_size_limit": 999}, "warning", "takes 999 bytes, IMAGE_MAX_BYTES is 1000"),
        ({"file_size_limit": 1000}, "ok", "is private"),
    ],
)
async def test_the_bucket(storage: dict[str, Any], state: str, seen: str) -> None:
    found = await look(FakeStorage(**storage))
    assert found["bucket"].state == state
    assert seen in found["bucket"].seen
    assert ("pictures" in found) == (state != "broken")


async def test_an_interrupted_look_leaves_nothing_behind() -> None:
    storage = FakeStorage("hang")
    task = asyncio.create_task(look(storage))
    await storage.reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert storage.seen
    assert storage.files == {}
