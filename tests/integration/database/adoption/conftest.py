"""A project's database without our migrations, in the shape that a test needs, and a check of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
import pytest

from mqtt_service.adoption.check import check
from mqtt_service.adoption.database import connect
from mqtt_service.adoption.findings import Finding
from mqtt_service.adoption.intended import Intended, read_intended
from mqtt_service.adoption.report import Report
from mqtt_service.migrations import read_migrations
from tests.integration.database.queue_calls import copied

FIXTURES = Path(__file__).parents[3] / "fixtures"
FILES = read_migrations()


@pytest.fixture(scope="session", autouse=True)
def _files_are_read_once() -> Iterator[None]:
    """Each check reads the same files; what comes of it is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mqtt_service.adoption.check.read_intended", lambda _: intended())
        yield


@cache
def intended() -> Intended:
    """What the files want to be there."""
    return read_intended(FILES)


@dataclass(frozen=True)
class Owner:
    """The project's owner: a superuser's connection that commits at once, and what the check says to her."""

    connection: psycopg.Connection

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.connection.execute(statement.encode())

    def apply(self) -> None:
        for each in FILES:
            self.run(each.text)

    def check(self, *, trial: bool | None = True, seconds: float = 60.0, user: str = "postgres") -> Report:
        with connect(self.connection.info.dsn + f" user={user}") as connection:
            return check(connection, FILES, trial=trial, trial_seconds=seconds)

    def find(self, kind: str, subject: str = "") -> Finding:
        """The one finding of this kind about this, from looking alone."""
        [finding] = self.find_all(kind, subject)
        return finding

    def find_all(self, kind: str, subject: str = "") -> list[Finding]:
        found = self.check(trial=False).findings
        return [each for each in found if each.kind == kind and subject in each.subject]


@pytest.fixture
def owner(platform_url: str) -> Iterator[Owner]:
    """A new project: what the platform brings, and nothing else."""
    with psycopg.connect(platform_url, autocommit=True) as connection:
        yield Owner(connection)


@pytest.fixture
def node_owner(owner: Owner) -> Owner:
    """A project that had a few of the tables before, in the simplest shape."""
    owner.run(
        "create table devices (device_id uuid primary key default gen_random_uuid(), device_mac text,"
        " is_active boolean default true)",
        "create table device_commands (command_id uuid primary key default gen_random_uuid(),"
        " device_id uuid not null references devices, command_type text not null,"
        " status text default 'pending', issued_at timestamptz default now())",
        "create table device_images (image_id uuid primary key default gen_random_uuid(),"
        " device_id uuid not null references devices, image_name text not null)",
        "create table device_history (history_id bigint generated always as identity, device_id uuid)",
    )
    return owner


@pytest.fixture
def existing_owner(owner: Owner) -> Owner:
    """The project that ran the Node service for years."""
    owner.run((FIXTURES / "existing_project.sql").read_text())
    return owner


@pytest.fixture
def adopted_owner(server_url: str, adopted_template: str) -> Iterator[Owner]:
    """The same after the migrations."""
    with copied(server_url, adopted_template) as connection:
        yield Owner(connection)


@pytest.fixture
def applied_owner(database: psycopg.Connection) -> Owner:
    """A project of our own making, to which the migrations were applied."""
    return Owner(database)
