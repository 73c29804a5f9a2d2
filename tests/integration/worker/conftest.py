"""What the tests of the worker's adapters share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mqtt_service.devstack.stack import Stack, running_stack
from tests.integration.worker.harness import Rows, rows
from tests.integration.worker.mosquitto import Mosquitto


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A Mosquitto of the test's own."""
    async with Mosquitto(tmp_path) as mosquitto:
        yield mosquitto


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    """An embedded stack that the tests of one file share."""
    async with running_stack(data_dir=None) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def database(stack: Stack) -> AsyncIterator[Rows]:
    """The rows of `stack`."""
    async with rows(stack) as view:
        yield view
