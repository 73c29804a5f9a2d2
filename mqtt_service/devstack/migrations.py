"""Apply the migrations to a database, and record them as the official command-line client does.

What a hosted project brings with it (roles, the schema auth, the publication) comes from `platform.sql`
first; a migration that is on record is not applied again.
"""

from importlib.resources.abc import Traversable
from pathlib import Path

import psycopg

from mqtt_service.errors import PermanentError
from mqtt_service.migrations import Migration, read_migrations

Connection = psycopg.AsyncConnection[tuple[str]]

PLATFORM = Path(__file__).with_name("platform.sql")

_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text primary key,
    statements text[],
    name text
);
"""


class MigrationFailedError(PermanentError):
    """A script was refused by the database; nothing of it was kept."""


async def apply_migrations(url: str, folder: Traversable) -> list[str]:
    """Apply what is not on record, in the order of the versions; return the names of the files applied.

    Each file is one transaction. Raises MigrationFailedError with the file, the line and Postgres's words.
    """
    migrations = read_migrations(folder)
    if not migrations:
        raise MigrationFailedError(f"There are no migrations in {folder}: check the path.")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await _run_script(connection, PLATFORM)
        await connection.execute(_HISTORY)
        recorded = await _recorded_versions(connection)
        missing = [migration for migration in migrations if migration.version not in recorded]
        for migration in missing:
            await _apply(connection, migration)
        await connection.execute("notify pgrst, 'reload schema'")
    return [migration.file for migration in missing]


async def had_tables(url: str) -> bool:
    """Return whether the migrations found tables there that a project of its own had before."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("select exists (select from mqtt_private.adoption where adopted)")
        return await cursor.fetchone() == (True,)


async def apply_seed(url: str, seed: Traversable) -> None:
    """Run `seed` in one transaction; it must bear being run again. Raises MigrationFailedError."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    async with connection, connection.transaction():
        await _run_script(connection, seed)


async def _recorded_versions(connection: Connection) -> set[str]:
    cursor = await connection.execute("select version from supabase_migrations.schema_migrations")
    return {row[0] for row in await cursor.fetchall()}


async def _apply(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await _run(connection, migration.file, migration.text)
        await connection.execute(
            "insert into supabase_migrations.schema_migrations values (%s, %s, %s)",
            (migration.version, [migration.text], migration.name),
        )
    await connection.execute("reset all")  # a file's own settings must not reach into the next


async def _run_script(connection: Connection, script: Traversable) -> None:
    await _run(connection, script.name, script.read_text(encoding="utf-8"))


async def _run(connection: Connection, name: str, text: str) -> None:
    try:
        await connection.execute(text)
    except psycopg.Error as error:
        raise MigrationFailedError(f"{name}{_line(text, error)}: {error}") from error


def _line(text: str, error: psycopg.Error) -> str:
    position = error.diag.statement_position
    if position is None:
        return ""
    return f", line {text.count(chr(10), 0, int(position)) + 1}"
