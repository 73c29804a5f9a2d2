"""A Postgres server for each process of the run, templates on it, and a copy of one of them for each test."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
import pytest
from psycopg import sql

from mqtt_service.devstack.migrations import PLATFORM, apply_migrations, apply_seed
from tests.integration.database.applying import SUPABASE
from tests.integration.database.existing_project import create_template
from tests.integration.database.queue_calls import Queue, copied, emptied
from tests.prepared_cluster import copied_from, folder_of_the_run

_numbers = count(1)


def _create(server_url: str, name: str, template: str = "template0") -> str:
    """Create a database and return its URL."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return server_url.rsplit("/", 1)[0] + "/" + name


@contextmanager
def _temporary(server_url: str, template: str = "template0") -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    yield _create(server_url, name, template)
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


async def _make_templates(server_url: str) -> None:
    migrated = _create(server_url, "migrated")
    await apply_migrations(migrated, SUPABASE / "migrations")
    seeded = _create(server_url, "seeded", "migrated")
    await apply_seed(seeded, SUPABASE / "seed.sql")
    with psycopg.connect(_create(server_url, "platform"), autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The superuser's URL of a server with the templates below; its database `postgres` is empty."""
    prepared = folder_of_the_run(tmp_path_factory) / "prepared_templates"
    server = copied_from(prepared, _make_templates)(tmp_path_factory.mktemp("postgres") / "data")
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            yield server.url
        finally:
            runner.run(server.stop())


@pytest.fixture(scope="session")
def migrated_template() -> str:
    """The name of a database with all migrations and no rows, for `create database … template …`."""
    return "migrated"


@pytest.fixture(scope="session")
def seeded_template() -> str:
    """As migrated_template, with the rows of seed.sql."""
    return "seeded"


@pytest.fixture(scope="session")
def adopted_template(server_url: str) -> str:
    """The name of a database with a project that ran the Node service for years, after the migrations."""
    return create_template(server_url, "existing_project_adopted")


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """The URL of a database of this test's own without anything in it."""
    with _temporary(server_url) as url:
        yield url


@pytest.fixture
def platform_url(server_url: str) -> Iterator[str]:
    """The URL of a database of this test's own with what the platform brings, and nothing else."""
    with _temporary(server_url, "platform") as url:
        yield url


@pytest.fixture
def database_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """The URL of a database of this test's own, migrated, without rows."""
    with _temporary(server_url, migrated_template) as url:
        yield url


@pytest.fixture
def seeded_url(server_url: str, seeded_template: str) -> Iterator[str]:
    """The URL of a database of this test's own, migrated and seeded."""
    with _temporary(server_url, seeded_template) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to database_url that commits at once."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def seeded(seeded_url: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to seeded_url that commits at once."""
    with psycopg.connect(seeded_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def shared(server_url: str, migrated_template: str) -> Iterator[psycopg.Connection]:
    """A connection to a migrated database that the tests of one file share, and empty."""
    with copied(server_url, migrated_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    """The worker's calls on `shared`, without rows."""
    return Queue(emptied(shared))
