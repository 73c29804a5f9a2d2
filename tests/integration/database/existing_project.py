"""A project that has run the Node service for years, after the migrations, and its flows as API requests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.applying import apply
from tests.integration.database.queue_calls import Queue, Row, end_local_settings

EXISTING_PROJECT = Path(__file__).parents[2] / "fixtures/existing_project.sql"

MAC = "E0:00:00:00:00:31"
WAITING_MAC = "E0:00:00:00:00:33"
DEVICE = UUID("e0000000-0000-4000-8000-000000000031")
HALF_MAPPED = UUID("e0000000-0000-4000-8000-000000000032")
WAITING = UUID("e0000000-0000-4000-8000-000000000033")
NORTH = UUID("e0000000-0000-4000-8000-000000000021")
SOUTH = UUID("e0000000-0000-4000-8000-000000000022")
PROGRAM = UUID("e0000000-0000-4000-8000-000000000011")
ADMIN = UUID("e0000000-0000-4000-8000-0000000000a1")
PENDING_COMMAND = UUID("e0000000-0000-4000-8000-0000000000c4")
MORNING = "2026-11-02T08:00:00+00:00"


@dataclass(frozen=True)
class Project(Queue):
    """Its calls resolve names as an API request does: the worker's, or those of a person who is signed in."""

    def call(self, function: str, **parameters: object) -> Any:
        with self.connection.transaction():
            self.connection.execute("set local search_path = public, extensions")
            answer = super().call(function, **parameters)
        end_local_settings(self.connection)
        return answer

    @contextmanager
    def signed_in(self, user: UUID = ADMIN) -> Iterator[psycopg.Connection]:
        """One transaction of a person's client."""
        with self.connection.transaction():
            self.connection.execute("set local search_path = public, extensions")
            claims = json.dumps({"role": "authenticated", "sub": str(user)})
            self.connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
            self.connection.execute("set local role authenticated")
            yield self.connection
        end_local_settings(self.connection)

    def run(self, statements: str) -> None:
        """Statements of the project's owner."""
        self.connection.execute("set search_path = public, extensions")
        self.connection.execute(statements.encode())
        self.connection.execute("reset search_path")

    def one(self, query: str, *parameters: object) -> Row:
        [row] = self.rows(query, *parameters)
        return row

    def refuse(self, table: str, condition: str, body: str, when: str = "before update") -> None:
        """A trigger of the project that does this where the condition holds for a row."""
        self.run(
            "create or replace function their_rule() returns trigger language plpgsql as $$"
            f" begin if {condition} then {body}; end if; return new; end $$;"
            f" create trigger their_rule {when} on {table} for each row execute function their_rule()"
        )

    def old_rows(self, rows: int) -> None:
        """Rows from long ago, so many in each of the large tables."""
        self.connection.execute("select public.fill_with_old_rows(%s)", (rows,))


def create(connection: psycopg.Connection) -> None:
    """Fill an empty database with the project, as it is before the migrations."""
    connection.execute(PLATFORM.read_bytes())
    connection.execute(EXISTING_PROJECT.read_bytes())
    connection.execute("reset search_path")


# What a hosted project's owner may do with what is the platform's.
_HOSTED = """
grant anon, authenticated, service_role to {owner};
alter schema public owner to {owner};
alter publication supabase_realtime owner to {owner};
alter table storage.buckets owner to {owner};
alter table storage.objects owner to {owner};
grant usage on schema auth, storage, extensions to {owner};
grant all on auth.users to {owner};
"""


def create_as_owner(connection: psycopg.Connection, owner: str) -> None:
    """As `create`, but the project's tables and the database belong to this role, which is no superuser."""
    connection.execute(PLATFORM.read_bytes())
    connection.execute(_HOSTED.format(owner=owner).encode())
    connection.execute(
        sql.SQL("alter database {} owner to {}").format(
            sql.Identifier(connection.info.dbname), sql.Identifier(owner)
        )
    )
    connection.execute(sql.SQL("set session authorization {}").format(sql.Identifier(owner)))
    connection.execute(
        EXISTING_PROJECT.read_text(encoding="utf-8")
        .replace("for role postgres", f"for role {owner}")
        .encode()
    )
    connection.execute("reset session authorization; reset search_path")


def create_template(server_url: str, name: str) -> str:
    """Create a database that holds the project with all migrations applied; returns its name."""
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    with psycopg.connect(f"{server_url.rsplit('/', 1)[0]}/{name}", autocommit=True) as connection:
        create(connection)
        apply(connection)
    return name
