"""A dashboard in JavaScript, with the official client library, for tests to run and to read."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mqtt_service.devstack.stack import Stack
from tests.integration.devstack.realtime.harness import DEADLINE_SECONDS, DEVICE_A
from tests.requirements import find_program, require

SCRIPTS = Path(__file__).with_name("supabase_js")
OPERATOR_A = "a0000000-0000-4000-8000-0000000000e2"

Line = dict[str, Any]


def node_modules(pytestconfig: pytest.Config) -> Path:
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
async def dashboard(
    stack: Stack, folder: Path, modules: Path, script: str = "queue_and_watch.mjs"
) -> AsyncIterator[asyncio.Queue[Line]]:
    """Run the script in `folder` as company A's operator; what it prints comes in the queue."""
    shutil.copytree(SCRIPTS, folder)
    (folder / "node_modules").symlink_to(modules)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "SUPABASE_URL": stack.url,
        "SUPABASE_ANON_KEY": stack.keys.anon_key,
        "SUPABASE_SERVICE_ROLE_KEY": stack.keys.service_role_key,
        "USER_TOKEN": stack.keys.user_token(OPERATOR_A, "operator.a@example.test"),
        "USER_ID": OPERATOR_A,
        "DEVICE_ID": DEVICE_A,
    }
    process = await asyncio.create_subprocess_exec(
        "node", script, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
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
