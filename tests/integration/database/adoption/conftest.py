"""A project's database without our migrations, in the shape that a test needs, and a check of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from mqtt_service.adoption.check import check
from mqtt_service.adoption.database import connect
from mqtt_service.adoption.findings import Finding
from mqtt_service.adoption.report import Report
from mqtt_service.devstack.migrations import PLATFORM
from mqtt_service.migrations import read_migrations

FIXTURES = Path(__file__).parents[3] / "fixtures"
FILES = read_migrations()


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
def owner(empty_database_url: str) -> Iterator[Owner]:
    """A new project: what the platform brings, and nothing else."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
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
def applied_owner(database: psycopg.Connection) -> Owner:
    """A project of our own making, to which the migrations were applied."""
    return Owner(database)
