"""Realtime on a real Postgres and a real port, and a supabase-py client that collects what it is sent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import uvicorn
from psycopg.rows import TupleRow
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.types import RealtimePostgresChangesListenEvent as Listen
from realtime.types import RealtimeSubscribeStates
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.devstack.realtime.server import RealtimeServer

SUPABASE = Path(__file__).parents[4] / "supabase"
DEADLINE_SECONDS = 15.0
DEVICE_A = "a0000000-0000-4000-8000-000000000031"
DEVICE_B = "b0000000-0000-4000-8000-000000000031"

Payload = dict[str, Any]

NOTES = """
create table public.notes (
    id int primary key, body text, secret text, counter int, price numeric, done bool, tags text[],
    doc jsonb, owner uuid, at timestamptz, local timestamp
);
alter table public.notes enable row level security;
create policy own on public.notes for select to authenticated using (owner = auth.uid());
grant select (id, body, counter, price, done, tags, doc, owner, at, local) on public.notes to authenticated;
grant select on public.notes to service_role;

create table public.open_notes (id int primary key, body text);
alter table public.open_notes replica identity full;
grant select on public.open_notes to anon, authenticated, service_role;

create table public.unpublished (id int primary key, body text);
grant select on public.unpublished to authenticated, service_role;

alter publication supabase_realtime add table public.notes, public.open_notes;
"""


@dataclass
class Stack:
    """What the tests talk to."""

    url: str
    postgres: EmbeddedPostgres
    database: psycopg.AsyncConnection[TupleRow]
    keys: JwtKeys
    faults: Faults

    async def sql(self, query: str, *values: Any) -> None:
        """Run a statement and commit it."""
        await self.database.execute(query.encode(), values)

    async def restart_postgres(self) -> None:
        """Restart the database, and connect to it again."""
        await self.database.close()
        await self.postgres.restart()
        self.database = await _connect(self.postgres.url)

    def user(self, id_: str) -> str:
        """Return the token of a signed-in user."""
        return self.keys.user_token(id_, "someone@example.test")


@asynccontextmanager
async def serving(routes: list[BaseRoute]) -> AsyncIterator[str]:
    """Serve routes on a free port of loopback, and give the base URL."""
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done())
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def running_stack(directory: Path, server_of_stacks: type[EmbeddedPostgres]) -> AsyncIterator[Stack]:
    """Run Postgres with the migrations, the seed and the tables of NOTES, and Realtime."""
    keys, faults = JwtKeys.generate(), Faults()
    async with server_of_stacks(directory / "postgres") as postgres:
        database = await _connect(postgres.url)
        await database.execute(NOTES)
        server = RealtimeServer(postgres.url, keys, faults)
        async with server, serving(server.routes()) as url:
            stack = Stack(url, postgres, database, keys, faults)
            yield stack
            await stack.database.close()


async def _connect(url: str) -> psycopg.AsyncConnection[TupleRow]:
    """What is committed here is in the log on disk, where Realtime reads it, before the call returns."""
    return await psycopg.AsyncConnection.connect(url, autocommit=True, options="-c synchronous_commit=on")


async def until(holds: Callable[[], bool]) -> None:
    """Return when `holds` does; fail after the deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110 - nothing tells us of the change
            await asyncio.sleep(0.01)


@dataclass
class Listener:
    """A channel of a supabase-py client and what it received."""

    channel: AsyncRealtimeChannel
    events: asyncio.Queue[Payload] = field(default_factory=asyncio.Queue)
    notes: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    states: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def next_event(self) -> Payload:
        """Return the `data` of the next change."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            data: Payload = (await self.events.get())["data"]
        return data

    async def next_note(self) -> str:
        """Return the text of the next `system` message that reports no error."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.notes.get()

    async def next_state(self) -> str:
        """Return the next state, and the error that came with it, if any."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.states.get()

    async def confirmed(self) -> None:
        """Wait until changes flow; the join's answer must have come first."""
        assert await self.next_state() == "SUBSCRIBED"
        assert await self.next_note() == "Subscribed to PostgreSQL"


async def listen(
    client: AsyncRealtimeClient,
    table: str,
    *,
    event: Listen = Listen.All,
    filter: str | None = None,  # noqa: A002 - the client's own name for it
    select: list[str] | None = None,
) -> Listener:
    """Join a channel of its own for a table."""
    listener = Listener(client.channel(f"{table}-{filter}-{event.value}"))
    channel = listener.channel

    def take_event(payload: Any) -> None:
        listener.events.put_nowait(payload)

    channel.on_postgres_changes(event, take_event, table, "public", filter, select)
    channel.on_system(lambda note: listener.notes.put_nowait(note.message))

    def take_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
        listener.states.put_nowait(f"{state.value}: {error}" if error else state.value)

    await channel.subscribe(take_state)
    return listener


async def listen_confirmed(client: AsyncRealtimeClient, table: str, **options: Any) -> Listener:
    """Join as `listen` does, and wait until changes flow."""
    listener = await listen(client, table, **options)
    await listener.confirmed()
    return listener
