"""Uploads: one goes on to its end, whatever becomes of who wanted it."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.errors import SupabaseUnavailableError


class SlowBucket:
    """A bucket whose uploads take until `gate` is open; a call that is cut short is noted."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun, self.done = asyncio.Event(), asyncio.Event()
        self.stored: list[str] = []
        self.cut_short = 0

    def from_(self, _: str) -> "SlowBucket":
        return self

    async def upload(self, path: str, *_: object) -> None:
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cut_short += 1
            raise
        if path == "bad":
            raise ValueError("no answer of Storage's")
        self.stored.append(path)
        self.done.set()


def store_on(bucket: SlowBucket) -> PictureStore:
    return PictureStore(cast("Any", SimpleNamespace(storage=bucket)))


async def test_an_upload_whose_caller_is_cancelled_goes_on_to_its_end() -> None:
    """Fails without the shield: each request that is cut short can cost the client a connection."""
    bucket = SlowBucket()
    caller = asyncio.create_task(store_on(bucket).put("a", b""))
    await bucket.begun.wait()
    caller.cancel()
    await asyncio.wait({caller})
    bucket.gate.set()
    await asyncio.wait_for(bucket.done.wait(), 5)
    assert (caller.cancelled(), bucket.cut_short) == (True, 0)


async def test_a_fault_reaches_its_caller() -> None:
    bucket = SlowBucket()
    bucket.gate.set()
    with pytest.raises(SupabaseUnavailableError, match="not Storage's"):
        await store_on(bucket).put("bad", b"")
