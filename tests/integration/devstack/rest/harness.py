"""The REST interface on a real Postgres and a real port, with tables made for its tests."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
from postgrest import APIResponse
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.migrations import PLATFORM
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.devstack.rest.routes import rest_routes
from tests.integration.devstack.realtime.harness import serving

Row = dict[str, Any]

ALICE = "a0000000-0000-4000-8000-0000000000e1"
BOB = "b0000000-0000-4000-8000-0000000000e1"

TABLES = Path(__file__).with_name("tables.sql")


@dataclass
class Rest:
    """What the tests talk to."""

    url: str
    postgres: EmbeddedPostgres
    database: psycopg.AsyncConnection[TupleRow]
    keys: JwtKeys
    faults: Faults
    parts: AsyncExitStack

    async def client(self, key: str | None = None, user: str | None = None) -> AsyncClient:
        """Return a supabase-py client with this key (the service's, if none), signed in as `user`."""
        http = await self.parts.enter_async_context(httpx.AsyncClient(trust_env=False))
        options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
        client = await acreate_client(self.url, key or self.keys.service_role_key, options)
        if user is not None:
            client.postgrest.auth(self.keys.user_token(user, "someone@example.test"))
        return client

    async def request(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        """Send a plain request under /rest/v1 with this key (the service's, if none)."""
        key = key or self.keys.service_role_key
        headers = {"apikey": key, "Authorization": f"Bearer {key}"} | options.pop("headers", {})
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            return await client.request(method, f"/rest/v1{path}", headers=headers, **options)

    async def reset(self) -> None:
        """Put the tables back to what they hold at the start."""
        await self.database.execute(TABLES.read_bytes())


def rows(answer: APIResponse) -> list[Row]:
    """Return the rows of an answer of supabase-py, whose type could be any JSON."""
    return cast("list[Row]", answer.data)


@asynccontextmanager
async def running_rest(directory: Path) -> AsyncIterator[Rest]:
    """Run Postgres with the platform and the tables of rest_tables.sql, and the REST interface."""
    keys, faults = JwtKeys.generate(), Faults()
    async with EmbeddedPostgres(directory / "postgres") as postgres, AsyncExitStack() as parts:
        database = await psycopg.AsyncConnection.connect(postgres.url, autocommit=True)
        await database.execute(PLATFORM.read_bytes())
        await database.execute(TABLES.read_bytes())
        conninfo = make_conninfo(postgres.url, user="authenticator")
        pool = AsyncConnectionPool(conninfo, min_size=1, max_size=4, open=False)
        async with pool, serving([*rest_routes(pool, keys, faults), *faults.routes()]) as url:
            yield Rest(url, postgres, database, keys, faults, parts)
            await database.close()
