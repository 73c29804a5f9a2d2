"""The REST interface for the files that test it: one server a file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.devstack.rest.harness import Rest, running_rest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """Give a running REST interface; a file that changes tables or faults puts them back itself."""
    async with running_rest(Path(tmp_path_factory.mktemp("rest"))) as running:
        yield running
