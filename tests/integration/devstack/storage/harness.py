"""A whole stack, and clients of its Storage: supabase-py, plain HTTP, and scripts with supabase-js."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import TupleRow
from storage3.types import FileOptions
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from mqtt_service.devstack.stack import Stack, running_stack
from tests.integration.devstack.realtime.harness import DEADLINE_SECONDS
from tests.integration.devstack.supabase_js_harness import SCRIPTS

COMPANY_A = "a0000000-0000-4000-8000-000000000001"
COMPANY_B = "b0000000-0000-4000-8000-000000000001"
VIEWER_A = "a0000000-0000-4000-8000-0000000000e1"
ADMIN_A = "a0000000-0000-4000-8000-0000000000e3"
VIEWER_B = "b0000000-0000-4000-8000-0000000000e1"

# Two bytes of a JPEG's start, some that look like the end of a form's part, and all the others.
PICTURE = b"\xff\xd8" + bytes(range(256)) * 40 + b"\r\n--boundary--\r\n\r\n" + b"\xff\xd9"

JPEG: FileOptions = {"content-type": "image/jpeg"}
UPSERT: FileOptions = {**JPEG, "upsert": "true"}


@dataclass
class Storage:
    """What the tests talk to."""

    stack: Stack
    database: psycopg.AsyncConnection[TupleRow]
    parts: AsyncExitStack

    async def client(self, key: str | None = None, user: str | None = None) -> AsyncClient:
        """Return a supabase-py client with this key (the service's, if none), or signed in as `user`."""
        headers = {}
        if user is not None:
            key = self.stack.keys.anon_key
            headers["Authorization"] = f"Bearer {self.stack.keys.user_token(user, 'someone@example.test')}"
        http = await self.parts.enter_async_context(httpx.AsyncClient(trust_env=False))
        options = AsyncClientOptions(
            httpx_client=http, headers=headers, auto_refresh_token=False, persist_session=False
        )
        return await acreate_client(self.stack.url, key or self.stack.keys.service_role_key, options)

    async def request(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        """Send a plain request under /storage/v1 with this token (the service's, if none; "": with none)."""
        key = self.stack.keys.service_role_key if key is None else key
        headers = ({"Authorization": f"Bearer {key}"} if key else {}) | options.pop("headers", {})
        async with httpx.AsyncClient(base_url=self.stack.url, trust_env=False) as http:
            return await http.request(method, f"/storage/v1{path}", headers=headers, **options)

    async def value(self, query: str, *values: object) -> Any:
        """Return the one value that a query gives the database's owner."""
        cursor = await self.database.execute(query.encode(), values)
        row = await cursor.fetchone()
        return None if row is None else row[0]

    async def names(self, bucket: str) -> list[str]:
        """Return the names of a bucket's objects, as the table has them."""
        query = "select array_agg(name order by name) from storage.objects where bucket_id = %s"
        return await self.value(query, bucket) or []

    def files(self) -> set[str]:
        """Return the names of the files on disk."""
        return {file.name for file in (self.stack.data_dir / "storage").iterdir()}

    async def versions(self) -> set[str]:
        """Return the files that the objects of all buckets name."""
        return set(await self.value("select coalesce(array_agg(version), '{}') from storage.objects"))


@asynccontextmanager
async def running_storage(data_dir: Path | None = None) -> AsyncIterator[Storage]:
    """Run a stack with its migrations and its seed."""
    async with (
        running_stack(data_dir=data_dir) as stack,
        await psycopg.AsyncConnection.connect(stack.db_url, autocommit=True) as database,
        AsyncExitStack() as parts,
    ):
        yield Storage(stack, database, parts)


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    """Return what an error says: the HTTP status, the status that is meant, and the word for it."""
    body = answer.json()
    assert set(body) == {"statusCode", "error", "message", "code"}
    return answer.status_code, body["statusCode"], body["error"]


async def run_script(name: str, folder: Path, modules: Path, environment: dict[str, str]) -> bytes:
    """Run one of the scripts in supabase_js/ with Node, and return what it prints."""
    shutil.copytree(SCRIPTS, folder)
    (folder / "node_modules").symlink_to(modules)
    process = await asyncio.create_subprocess_exec(
        "node",
        name,
        cwd=folder,
        env={"PATH": os.environ.get("PATH", os.defpath), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return output
