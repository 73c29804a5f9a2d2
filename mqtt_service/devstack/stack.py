"""The embedded stack as a whole: Postgres with the migrations and the seed, the API on one port, a broker.

Everything listens on loopback. A data directory holds `postgres/`, `storage/`, `broker/` and `jwt_secret`, so
that rows, files, queued messages and keys outlive a restart; without one, a temporary directory is used and
removed. A database there that had some of the tables before the migrations, as a project of one's own has,
gets no seed.
"""

import asyncio
import fcntl
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from mqtt_service.console_site import ConsoleProject, console_routes
from mqtt_service.devstack.auth.errors import VERSION_HEADER
from mqtt_service.devstack.auth.routes import auth_routes
from mqtt_service.devstack.broker import HOST, Broker
from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.migrations import apply_migrations, apply_seed, had_tables
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.devstack.realtime.server import RealtimeServer
from mqtt_service.devstack.rest.routes import rest_routes
from mqtt_service.devstack.storage.routes import open_files, storage_routes
from mqtt_service.errors import PermanentError
from mqtt_service.migrations import supabase_folder

ENV_HEADER = "# Written by mqtt-service dev, and removed when it ends.\n"
POOL_SIZE = 10
_START_SECONDS = 15.0
_STOP_SECONDS = 2
_FOR_BROWSERS = Middleware(
    CORSMiddleware,
    allow_origins=["*"],
    allow_methods=["*"],
    allow_headers=["*"],
    expose_headers=["Content-Range", "Location", "Preference-Applied", "Retry-After", VERSION_HEADER],
)


class StackStartError(PermanentError):
    """The stack cannot run; the message says why and what to do."""


@dataclass(frozen=True)
class Stack:
    """A running stack: where each part is reached, its keys, and the faults it can be asked for."""

    url: str
    db_url: str
    mqtt_host: str
    mqtt_port: int
    broker: Broker
    postgres: EmbeddedPostgres
    keys: JwtKeys
    faults: Faults
    data_dir: Path

    def env(self) -> dict[str, str]:
        """Return the settings with which the worker and other clients reach this stack."""
        return {
            "SUPABASE_URL": self.url,
            "SUPABASE_ANON_KEY": self.keys.anon_key,
            "SUPABASE_PUBLISHABLE_KEY": self.keys.publishable_key,
            "SUPABASE_SERVICE_ROLE_KEY": self.keys.service_role_key,
            "SUPABASE_JWT_SECRET": self.keys.secret,
            "SUPABASE_DB_URL": self.db_url,
            "MQTT_HOST": self.mqtt_host,
            "MQTT_PORT": str(self.mqtt_port),
            "MQTT_TLS": "false",
        }

    def write_env_file(self, path: Path) -> None:
        """Write `env()` as a dotenv file, readable to its owner alone; it appears whole or not at all."""
        lines = [f"{name}={value}\n" for name, value in self.env().items()]
        handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines([ENV_HEADER, *lines])
        Path(temporary).replace(path)


@asynccontextmanager
async def running_stack(
    *, data_dir: Path | None, port: int = 0, mqtt_port: int = 0, broker: str = "auto"
) -> AsyncIterator[Stack]:
    """Run a stack for the time of the block; inside it, everything answers.

    `port` and `mqtt_port` 0 take any free port; `broker` is auto, mosquitto or amqtt. Raises PermanentError
    (a port that is taken, a data directory of another Postgres, a migration that fails, ...).
    """
    supabase = supabase_folder()
    async with AsyncExitStack() as parts:
        directory = parts.enter_context(_directory(data_dir))
        listener = parts.enter_context(_bound(port))
        postgres = EmbeddedPostgres(directory / "postgres")
        mqtt = Broker(broker, mqtt_port, directory / "broker")
        await _start_both(parts, postgres, mqtt)
        await apply_migrations(postgres.url, supabase / "migrations")
        if not await had_tables(postgres.url):
            await apply_seed(postgres.url, supabase / "seed.sql")
        keys, faults = JwtKeys.load_or_create(directory / "jwt_secret"), Faults()
        pool = await parts.enter_async_context(_pool(postgres.url))
        realtime = await parts.enter_async_context(RealtimeServer(postgres.url, keys, faults))
        files = await open_files(directory / "storage", postgres.url)
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        routes = [
            *console_routes(ConsoleProject(url, keys.publishable_key, served_by="stack")),
            *rest_routes(pool, keys, faults), *storage_routes(pool, keys, faults, files),
            *auth_routes(postgres.url, keys, faults), *realtime.routes(), *faults.routes(),
        ]  # fmt: skip
        await parts.enter_async_context(_serving(routes, listener))
        await _check_api(url, keys)
        parts.callback(faults.clear)  # a request that hangs would hold up the end
        yield Stack(url, postgres.url, mqtt.host, mqtt.port, mqtt, postgres, keys, faults, directory)


async def _start_both(parts: AsyncExitStack, postgres: EmbeddedPostgres, mqtt: Broker) -> None:
    """Start the two servers side by side; raises the first fault.

    Neither start is cut short, since a server that is half started is hard to stop: both end here first.
    """
    parts.push_async_callback(mqtt.stop)
    parts.push_async_callback(postgres.stop)
    starts = asyncio.gather(postgres.start(), mqtt.start(), return_exceptions=True)
    try:
        outcomes = await asyncio.shield(starts)
    except asyncio.CancelledError:
        await starts
        raise
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


@asynccontextmanager
async def _pool(url: str) -> AsyncIterator[AsyncConnectionPool[psycopg.AsyncConnection[Any]]]:
    """Connections as the role from which the API changes into that of each request, as PostgREST does."""
    conninfo = make_conninfo(url, user="authenticator")
    pool = AsyncConnectionPool(conninfo, min_size=1, max_size=POOL_SIZE, open=False)
    async with pool:
        yield pool


@contextmanager
def _directory(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StackStartError(
                f"{data_dir} cannot be the data directory ({error.strerror}): name another."
            ) from error
        with _held(data_dir):
            yield data_dir.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="mqtt-service-") as directory:
        yield Path(directory)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Keep other stacks out of the directory; the lock ends with this process, however that ends."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StackStartError(
                f"{directory} is in use by another stack: stop that, or name another directory."
            ) from error
        yield


@contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    """A socket that has the port; nobody can connect before a server listens on it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio turns Nagle's delay (40 ms an answer) off only where a socket names its protocol.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise StackStartError(
                f"The port {port} cannot be had ({error}): choose another with --port, or 0."
            ) from error
        yield listener


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are for whoever runs the stack."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


@asynccontextmanager
async def _serving(routes: list[BaseRoute], listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        Starlette(routes=routes, middleware=[_FOR_BROWSERS]),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def _check_api(url: str, keys: JwtKeys) -> None:
    """Return once the API answers a question about a table. Raises StackStartError if it does not."""
    headers = {"apikey": keys.service_role_key, "Authorization": f"Bearer {keys.service_role_key}"}
    answer = "no answer"
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        end = asyncio.get_running_loop().time() + _START_SECONDS
        while asyncio.get_running_loop().time() < end:
            try:
                response = await client.get("/rest/v1/devices", params={"select": "device_id", "limit": "1"})
            except httpx.TransportError as error:
                answer = str(error)
            else:
                if response.status_code == httpx.codes.OK:
                    return
                answer = f"{response.status_code} {response.text}"
            await asyncio.sleep(0.02)
    raise StackStartError(f"The API on {url} does not work: {answer}")
