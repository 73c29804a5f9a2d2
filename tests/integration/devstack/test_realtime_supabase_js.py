"""A dashboard in JavaScript, with the official client library, against the whole stack."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mqtt_service.devstack.stack import Stack, running_stack
from tests.integration.devstack.realtime_harness import DEADLINE_SECONDS, DEVICE_A
from tests.requirements import find_program, needs, require

SCRIPTS = Path(__file__).with_name("supabase_js")
OPERATOR_A = "a0000000-0000-4000-8000-0000000000e2"

Line = dict[str, Any]


@pytest.fixture
def modules(pytestconfig: pytest.Config) -> Path:
    """A node_modules with supabase-js: the one that SUPABASE_JS_DIR names, else one installed and kept."""
    given = find_program("supabase-js")
    if given is not None:
        return Path(given) / "node_modules"
    require("npm")
    directory = pytestconfig.cache.mkdir("supabase_js")
    shutil.copy(SCRIPTS / "package.json", directory)
    if not (directory / "node_modules" / "@supabase" / "supabase-js").exists():
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"not on this machine: supabase-js ({done.stderr.strip()[:200]})")
    return directory / "node_modules"


@asynccontextmanager
async def dashboard(stack: Stack, folder: Path, modules: Path) -> AsyncIterator[asyncio.Queue[Line]]:
    """Run the script as company A's operator; what it prints comes in the queue."""
    shutil.copy(SCRIPTS / "queue_and_watch.mjs", folder)
    (folder / "node_modules").symlink_to(modules)
    environment = {
        "PATH": os.environ["PATH"],
        "SUPABASE_URL": stack.url,
        "SUPABASE_ANON_KEY": stack.keys.anon_key,
        "USER_TOKEN": stack.keys.user_token(OPERATOR_A, "operator.a@example.test"),
        "USER_ID": OPERATOR_A,
        "DEVICE_ID": DEVICE_A,
    }
    process = await asyncio.create_subprocess_exec(
        "node", "queue_and_watch.mjs", cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )
    lines: asyncio.Queue[Line] = asyncio.Queue()
    assert process.stdout is not None
    reading = asyncio.create_task(read_lines(process.stdout, lines))
    try:
        yield lines
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


async def read_lines(output: asyncio.StreamReader, lines: asyncio.Queue[Line]) -> None:
    async for line in output:
        lines.put_nowait(json.loads(line))


async def next_line(lines: asyncio.Queue[Line]) -> Line:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await lines.get()


@needs("node")
async def test_a_dashboard_queues_a_command_and_watches_it_to_its_acknowledgement(
    tmp_path: Path, modules: Path
) -> None:
    async with (
        running_stack(data_dir=tmp_path / "stack") as stack,
        await psycopg.AsyncConnection.connect(stack.db_url, autocommit=True) as database,
    ):
        folder = tmp_path / "dashboard"
        folder.mkdir()
        async with dashboard(stack, folder, modules) as lines:
            queued = (await next_line(lines))["queued"]
            command_id = queued["command_id"]
            assert (queued["status"], queued["created_by_user_id"]) == ("pending", OPERATOR_A)
            assert await next_line(lines) == {"watching": command_id}
            for status in ("sent", "acknowledged"):
                await database.execute(
                    "update public.device_commands set status = %s where command_id = %s",
                    (status, command_id),
                )
                old = {"command_id": command_id}
                assert await next_line(lines) == {"status": status, "retry_count": 0, "old": old}
            assert await next_line(lines) == {"done": True}
