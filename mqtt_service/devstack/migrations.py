"""Apply the migrations to a database, and record them as the official command-line client does.

What a hosted project brings with it (roles, the schema auth, the publication) comes from `platform.sql`
first; a migration that is on record is not applied again.
"""

from pathlib import Path

import psycopg

from mqtt_service.errors import PermanentError

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


async def apply_migrations(url: str, migrations_dir: Path) -> list[str]:
    """Apply what is not on record, in the order of the versions; return the names of the files applied.

    Each file is one transaction. Raises MigrationFailedError with the file, the line and Postgres's words.
    """
    files = _migration_files(migrations_dir)
    applied = []
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await _run_script(connection, PLATFORM.name, _read(PLATFORM))
        await connection.execute(_HISTORY)
        done = await _versions_on_record(connection)
        for file in files:
            version, _, name = file.stem.partition("_")
            if version in done:
                continue
            text = _read(file)
            async with connection.transaction():
                await _run_script(connection, file.name, text)
                await connection.execute(
                    "insert into supabase_migrations.schema_migrations values (%s, %s, %s)",
                    (version, [text], name),
                )
            await connection.execute("reset all")  # a file's own settings must not reach into the next
            applied.append(file.name)
        await connection.execute("notify pgrst, 'reload schema'")
    return applied


async def apply_seed(url: str, seed: Path) -> None:
    """Run `seed` in one transaction; it must bear being run again. Raises MigrationFailedError."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    async with connection, connection.transaction():
        await _run_script(connection, seed.name, _read(seed))


async def _versions_on_record(connection: psycopg.AsyncConnection[tuple[str]]) -> set[str]:
    cursor = await connection.execute("select version from supabase_migrations.schema_migrations")
    return {row[0] for row in await cursor.fetchall()}


async def _run_script(connection: psycopg.AsyncConnection[tuple[str]], name: str, text: str) -> None:
    try:
        await connection.execute(text)
    except psycopg.Error as error:
        raise MigrationFailedError(f"{name}{_line(text, error)}: {error}") from error


def _migration_files(directory: Path) -> list[Path]:
    files = sorted(directory.glob("*.sql"))
    if not files:
        raise MigrationFailedError(f"There are no migrations in {directory}: check the path.")
    return files


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _line(text: str, error: psycopg.Error) -> str:
    position = error.diag.statement_position
    if position is None:
        return ""
    return f", line {text.count(chr(10), 0, int(position)) + 1}"
