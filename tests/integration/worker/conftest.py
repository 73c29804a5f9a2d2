"""What the tests of the worker's adapters share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.worker.mosquitto import Mosquitto


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A Mosquitto of the test's own."""
    async with Mosquitto(tmp_path) as mosquitto:
        yield mosquitto
