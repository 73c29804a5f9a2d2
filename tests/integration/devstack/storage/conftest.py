"""Storage for the files that test it: one stack a file."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.integration.devstack.storage.harness import Storage, running_storage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def storage_of_file() -> AsyncIterator[Storage]:
    """Give a stack whose Storage has the buckets "things", which is private, and "shown", which is public."""
    async with running_storage() as storage:
        buckets = (await storage.client()).storage
        await buckets.create_bucket("things", options={"public": False})
        await buckets.create_bucket("shown", options={"public": True})
        yield storage


@pytest_asyncio.fixture(loop_scope="module")
async def storage(storage_of_file: Storage) -> AsyncIterator[Storage]:
    """Give the file's Storage without faults; after each test its buckets are empty, on disk too."""
    yield storage_of_file
    storage_of_file.stack.faults.clear()
    buckets = (await storage_of_file.client()).storage
    for bucket in await buckets.list_buckets():
        await buckets.empty_bucket(bucket.id)
    assert storage_of_file.files() == set()
