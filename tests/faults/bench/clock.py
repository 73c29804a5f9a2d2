"""The database's clock, which a test sets ahead: days pass in a stack of its own within minutes."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from unittest import mock

import psycopg

from mqtt_service.devstack.stack import Stack, running_stack
from tests.requirements import find_program, require


@dataclass
class Clock:
    """How far the database is ahead of everybody else. Time goes on at its usual pace between two jumps."""

    file: Path
    ahead: timedelta = field(default_factory=timedelta)

    def go_on(self, by: timedelta) -> None:
        """Let so much time pass at once."""
        assert by >= timedelta(), "a clock of this kind does not go back"
        self.ahead += by
        written = self.file.with_suffix(".new")
        written.write_text(f"+{self.ahead.total_seconds():.0f}s")
        written.chmod(0o644)
        written.replace(self.file)  # the server never reads half of it


@asynccontextmanager
async def stack_with_clock() -> AsyncIterator[tuple[Stack, Clock]]:
    """A stack whose Postgres, and nothing else, goes by the clock."""
    require("libfaketime")
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)  # noqa: ASYNC240 - at once; Postgres may run under another account
    try:
        clock = Clock(directory / "clock")
        clock.go_on(timedelta())
        starting = {
            "LD_PRELOAD": str(find_program("libfaketime")),
            "FAKETIME_TIMESTAMP_FILE": str(clock.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        stack = running_stack(data_dir=None)
        with mock.patch.dict(os.environ, starting):
            started = await stack.__aenter__()
        try:
            await _keep_replication(started)
            yield started, clock
        finally:
            await stack.__aexit__(None, None, None)
    finally:
        shutil.rmtree(directory)


async def _keep_replication(stack: Stack) -> None:
    """Realtime's connections are not to be taken for silent ones when hours pass at once."""
    async with await psycopg.AsyncConnection.connect(stack.db_url, autocommit=True) as connection:
        await connection.execute("alter system set wal_sender_timeout = 0")
        await connection.execute("select pg_reload_conf()")
