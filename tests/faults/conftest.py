"""The fault bench's stack, one for all its tests, and a bench for each.

All tests of this folder run on one event loop, that of the stack: mark each file with
`pytestmark = pytest.mark.asyncio(loop_scope="session")`.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mqtt_service.devstack.stack import Stack, running_stack
from tests.faults.bench.drills import TEST_TIMEOUT
from tests.faults.bench.rig import Bench, running_bench
from tests.requirements import require

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long drills their time."""
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """The embedded stack; a test that needs another broker than `bench` has takes `running_bench`."""
    require("mosquitto")
    async with running_stack(data_dir=None) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def bench(stack: Stack, tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench without faults, and without commands of an earlier test."""
    async with running_bench(stack, tmp_path) as made:
        yield made
