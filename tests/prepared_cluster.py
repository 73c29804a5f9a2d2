"""Postgres clusters that are made once for a test run, by whichever process needs them first, and copied.

Copying takes a tenth of the time. What it leaves out is tested where real processes start: `mqtt-service dev`
in tests/acceptance begins with nothing.
"""

import asyncio
import fcntl
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mqtt_service.devstack.migrations import apply_migrations, apply_seed
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.migrations import supabase_folder

# Fills the database that is at this URL, and may make others beside it.
Fill = Callable[[str], Awaitable[None]]


async def migrate_and_seed(url: str) -> None:
    """What a stack begins with: all migrations and the seed."""
    supabase = supabase_folder()
    await apply_migrations(url, supabase / "migrations")
    await apply_seed(url, supabase / "seed.sql")


async def fill_nothing(_: str) -> None:
    """A cluster as initdb makes it."""


def folder_of_the_run(temporary: pytest.TempPathFactory) -> Path:
    """The temporary folder that all processes of this run share."""
    own = temporary.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def copied_from(prepared: Path, fill: Fill = migrate_and_seed) -> type[EmbeddedPostgres]:
    """A server that begins with a copy of the cluster at `prepared`; the first to need that makes it."""

    class Copied(EmbeddedPostgres):
        async def _create_cluster(self, binaries: Path) -> None:
            # On a thread: another task of this process may be the one that makes it.
            await asyncio.to_thread(_make_once, prepared, fill)
            # cp keeps the owner of each file, as whom the server runs.
            copying = await asyncio.create_subprocess_exec("cp", "-a", f"{prepared}/.", self.data_dir)
            assert await copying.wait() == 0

    return Copied


def _make_once(prepared: Path, fill: Fill) -> None:
    if prepared.exists():
        return
    with _locked(prepared.with_suffix(".lock")):
        if not prepared.exists():
            asyncio.run(_make(prepared, fill))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def _make(prepared: Path, fill: Fill) -> None:
    """Make it beside its place, so that one that is not done is never copied."""
    unfinished = prepared.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    async with EmbeddedPostgres(unfinished) as server:
        await fill(server.url)
    unfinished.rename(prepared)
