"""The migrations' files, and a project to which all of them are applied."""

from pathlib import Path

import psycopg

SUPABASE = Path(__file__).parents[3] / "supabase"
MIGRATIONS = sorted((SUPABASE / "migrations").glob("*.sql"))


def apply(connection: psycopg.Connection) -> None:
    """Apply all of them, each in a transaction of its own."""
    for file in MIGRATIONS:
        with connection.transaction():
            connection.execute(file.read_bytes())
