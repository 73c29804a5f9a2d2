"""What the benchmark measures on: the embedded stack, a broker and the worker, each a process of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
from dotenv import dotenv_values
from psycopg.rows import dict_row

from mqtt_service.bench.bare_paho import READY, Listener, Message, Spent, forget_session, write_messages
from mqtt_service.bench.herd_devices import HerdOutcome
from mqtt_service.bench.processes import (
    TIMEOUT_SECONDS,
    BenchError,
    WorkerProcess,
    end_of_log,
    eventually,
    has_said,
    running_mosquitto,
    start_python,
)
from mqtt_service.devstack.broker import HOST
from mqtt_service.devstack.child import Child

Connection = psycopg.AsyncConnection[dict[str, Any]]
Verb = Literal["publish", "publish-each", "exchange"]

_HERD_SECONDS = 300.0

# Locked first: a worker that still writes takes rows in another order.
_EMPTY = """
do $$ begin
  lock table public.device_commands in exclusive mode;
  delete from public.device_commands;
end $$
"""
_ADD_DEVICES = """
insert into public.devices
    (device_mac, device_code, provisioning_status, is_active, company_id, program_id, site_id)
select '0A' || lpad(to_hex(n), 10, '0'), 'BENCH-' || n, 'active', true, s.company_id, s.program_id, s.site_id
from generate_series(1, %s) n, (select * from public.sites order by site_id limit 1) s
on conflict do nothing
"""


@dataclass(frozen=True)
class Rig:
    """A running stack with `devices` active devices, on an MQTT broker that drops nothing."""

    directory: Path
    env: dict[str, str]
    mqtt_port: int
    database: Connection
    _numbers: Any

    @asynccontextmanager
    async def worker(self, **settings: str) -> AsyncIterator[WorkerProcess]:
        """`mqtt-service run` under an MQTT client id of its own, which the broker forgets afterwards."""
        number = next(self._numbers)
        client_id = f"bench-{number}"
        env = {**self.env, "MQTT_CLIENT_ID": client_id, "PORT": "0", **settings}
        child = await self._start(["-m", "mqtt_service", "run"], f"worker-{number}", env)
        try:
            yield WorkerProcess(child)
        except BenchError as error:
            raise BenchError(f"{error}; the worker said last:\n{end_of_log(child)}") from error
        finally:
            await child.stop()
            await asyncio.to_thread(forget_session, HOST, self.mqtt_port, client_id)

    def listener(self, *topics: str) -> Listener:
        """A paho client of this process on `topics`."""
        return Listener(HOST, self.mqtt_port, topics)

    async def publish(self, messages: Sequence[Message], verb: Verb = "publish") -> Spent:
        """Have bare paho publish these (see `bare_paho` for the verbs); returns what that took."""
        name = f"{verb}-{next(self._numbers)}"
        file = self.directory / f"{name}.jsonl"
        await asyncio.to_thread(write_messages, file, messages)
        child = await self._paho(name, verb, str(file))
        status = await asyncio.wait_for(child.wait(), TIMEOUT_SECONDS)
        if status != 0:
            raise BenchError(f"bare paho could not publish:\n{end_of_log(child)}")
        return Spent(*json.loads(child.log))

    async def receive(self, messages: Sequence[Message], topic: str) -> Spent:
        """Have bare paho take in these messages of this topic; returns what that took."""
        arguments = ("receive", topic, str(len(messages)))
        async with self._ready(self._paho(f"receive-{next(self._numbers)}", *arguments)) as child:
            await self.publish(messages)
            if await asyncio.wait_for(child.wait(), TIMEOUT_SECONDS) != 0:
                raise BenchError(f"bare paho did not take all in:\n{end_of_log(child)}")
            return Spent(*json.loads(child.log.splitlines()[-1]))

    @asynccontextmanager
    async def devices_that_answer(self) -> AsyncIterator[None]:
        """All devices, as one paho client that acknowledges each command."""
        async with self._ready(self._paho(f"answer-{next(self._numbers)}", "answer")):
            yield

    @asynccontextmanager
    async def peer(self, module: str, **env: str) -> AsyncIterator[None]:
        """A module of `bench` as a process that does the worker's job, with the rig's settings and `env`.

        It has begun once it says `bare_paho.READY`.
        """
        name = f"{module}-{next(self._numbers)}"
        command = ["-m", f"mqtt_service.bench.{module}"]
        async with self._ready(self._start(command, name, {**self.env, **env})):
            yield

    async def wake_herd(self, devices: int) -> HerdOutcome:
        """Wake the first so many devices at once, and return what became of them when all sleep again."""
        command = ["-m", "mqtt_service.bench.herd_devices", HOST, str(self.mqtt_port), str(devices)]
        child = await self._start(command, f"herd-{next(self._numbers)}", {})
        try:
            status = await asyncio.wait_for(child.wait(), _HERD_SECONDS)
        except TimeoutError:
            raise BenchError(f"the herd is awake after {_HERD_SECONDS:.0f} s") from None
        finally:
            await child.stop()
        if status != 0:
            raise BenchError(f"the herd's simulation failed:\n{end_of_log(child)}")
        return HerdOutcome(**json.loads(child.log))

    async def all(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Run a query as the superuser."""
        cursor = await self.database.execute(query, parameters)
        return await cursor.fetchall() if cursor.description else []

    async def value(self, query: str, *parameters: object) -> Any:  # noqa: ANN401 - whatever was asked for
        """The one value that a query gives."""
        (row,) = await self.all(query, *parameters)
        (value,) = row.values()
        return value

    async def add_devices(self, devices: int) -> None:
        """Have at least so many active devices."""
        await self.all(_ADD_DEVICES, devices)
        await self.all("vacuum (analyze) public.devices")  # as autovacuum will, some time in the measurement

    async def queue_backlog(self, commands: int, devices: int | None = None) -> None:
        """Insert commands, spread evenly over so many devices (default: all), in one statement."""
        # Each command finds its device's number by a hash: a comparison with each device would take hours.
        await self.all(
            """
            with d as materialized (
                select device_id, row_number() over (order by device_id) - 1 as place
                from public.devices where device_code like 'BENCH-%%'
                order by device_id limit %s
            )
            insert into public.device_commands (device_id, command_type, command_payload)
            select device_id, 'update_config', jsonb_build_object('interval', n, 'quality', 'high')
            from generate_series(1, %s) n join d on d.place = n %% (select count(*) from d)
            order by n
            """,
            devices,
            commands,
        )

    async def queue_one(self, device: int) -> UUID:
        """Insert one command for the device of this number, counted from 1."""
        command_id: UUID = await self.value(
            "insert into public.device_commands (device_id, command_type) select device_id, 'capture_image'"
            " from public.devices where device_code = %s returning command_id",
            f"BENCH-{device}",
        )
        return command_id

    async def clear(self) -> None:
        """Leave no row that a next measurement would notice."""
        await self.all(_EMPTY)
        await self.all("vacuum (analyze) public.device_commands")

    @asynccontextmanager
    async def _ready(self, starting: Awaitable[Child]) -> AsyncIterator[Child]:
        """A process once it has said READY; it is ended after the block."""
        child = await starting
        try:
            await eventually(lambda: has_said(child, READY), "a process of the benchmark that is ready")
            yield child
        finally:
            await child.stop()

    async def _paho(self, name: str, *arguments: str) -> Child:
        verb, *rest = arguments
        command = ["-m", "mqtt_service.bench.bare_paho", verb, HOST, str(self.mqtt_port), *rest]
        return await self._start(command, name, {})

    async def _start(self, command: list[str], name: str, env: dict[str, str]) -> Child:
        return await start_python(command, self.directory, name, env)


@asynccontextmanager
async def running_rig(directory: Path, devices: int) -> AsyncIterator[Rig]:
    """Everything but the worker, for the time of the block; `directory` takes logs and messages."""
    env_file = directory / "stack.env"
    dev = await start_python(
        ["-m", "mqtt_service", "dev", "--env-file", str(env_file)], directory, "stack", {}
    )
    try:
        await eventually(lambda: _is_there(env_file, dev), "the stack")
        env = {name: value or "" for name, value in dotenv_values(env_file).items()}
        async with running_mosquitto(directory) as port, _connected(env) as database:
            rig = Rig(directory, {**env, "MQTT_PORT": str(port)}, port, database, count(1))
            await rig.add_devices(devices)
            yield rig
    finally:
        await dev.stop()


@asynccontextmanager
async def _connected(env: dict[str, str]) -> AsyncIterator[Connection]:
    url = env["SUPABASE_DB_URL"]
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row)
    async with connection:
        yield connection


async def _is_there(env_file: Path, dev: Child) -> bool:
    if dev.exit_status is not None:
        raise BenchError(f"the stack did not start:\n{end_of_log(dev)}")
    return await asyncio.to_thread(env_file.exists)
