"""A Postgres server for the run, a template database with all migrations, and a fresh copy of it per test."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from mqtt_service.devstack.migrations import apply_migrations, apply_seed
from mqtt_service.devstack.postgres import EmbeddedPostgres
from tests.integration.database.queue_calls import Queue, copied, emptied

SUPABASE = Path(__file__).parents[3] / "supabase"

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


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The superuser's URL of an empty server: its database `postgres` has not even the platform's roles."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data")
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            yield server.url
        finally:
            runner.run(server.stop())


@pytest.fixture(scope="session")
def migrated_template(server_url: str) -> str:
    """The name of a database with all migrations and no rows, for `create database … template …`."""
    url = _create(server_url, "migrated")
    with asyncio.Runner() as runner:
        runner.run(apply_migrations(url, SUPABASE / "migrations"))
    return "migrated"


@pytest.fixture(scope="session")
def seeded_template(server_url: str, migrated_template: str) -> str:
    """As migrated_template, with the rows of seed.sql."""
    url = _create(server_url, "seeded", migrated_template)
    with asyncio.Runner() as runner:
        runner.run(apply_seed(url, SUPABASE / "seed.sql"))
    return "seeded"


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """The URL of a database of this test's own without anything in it."""
    with _temporary(server_url) as url:
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
