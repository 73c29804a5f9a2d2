"""A Postgres cluster with all migrations and the seed, made once and copied for each stack of a test run.

Copying takes a tenth of the time. What it leaves out is tested where real processes start: `mqtt-service dev`
in tests/acceptance begins with nothing.
"""

import asyncio
from pathlib import Path

from mqtt_service.devstack.migrations import apply_migrations, apply_seed
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.migrations import supabase_folder


def copied_from(prepared: Path) -> type[EmbeddedPostgres]:
    """The server of a stack; the first one that needs a cluster makes that at `prepared`."""

    class Copied(EmbeddedPostgres):
        async def _create_cluster(self, binaries: Path) -> None:
            if not _is_made(prepared):
                await _make(prepared)
            # cp keeps the owner of each file, as whom the server runs.
            copying = await asyncio.create_subprocess_exec("cp", "-a", f"{prepared}/.", self.data_dir)
            assert await copying.wait() == 0

    return Copied


def _is_made(directory: Path) -> bool:
    return directory.exists()


async def _make(directory: Path) -> None:
    supabase = supabase_folder()
    async with EmbeddedPostgres(directory) as server:
        await apply_migrations(server.url, supabase / "migrations")
        await apply_seed(server.url, supabase / "seed.sql")
