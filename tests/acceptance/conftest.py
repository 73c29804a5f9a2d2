"""One embedded stack for all acceptance tests: the real processes, as a newcomer starts them."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.processes import dev_stack

Database = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `mqtt-service dev` wrote into its env file."""
    with dev_stack(tmp_path_factory.mktemp("stack")) as env:
        yield env


@pytest.fixture
def database(stack: dict[str, str]) -> Iterator[Database]:
    """What psql would be: a superuser's connection, each statement its own transaction."""
    with psycopg.connect(stack["SUPABASE_DB_URL"], autocommit=True) as connection:
        yield connection


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A working directory without a .env."""
    return tmp_path
