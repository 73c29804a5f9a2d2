"""A fleet at work while something fails every few seconds: commands, answers and pictures all arrive.

Take out any of the mechanisms that the other tests of this folder prove, and this fails sooner or later.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from mqtt_service.devstack.faults import RealtimeFaults, RestFault
from mqtt_service.simulator.access import Access
from mqtt_service.simulator.device import ReceivedCommand, SimulatedDevice
from mqtt_service.simulator.fleet import Fleet
from mqtt_service.simulator.fleet_options import FleetOptions
from tests.faults.bench.drills import drill, report
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import COMPANY, PROGRAM, SITE, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(drill(280, 3600))]

DEVICES = drill(8, 200)
WORKERS = 3
SECONDS = drill(12.0, 1800.0)
BETWEEN_FAULTS = drill(4.0, 20.0)
SLEEP = drill(4.0, 60.0)
COMMANDS_PER_SECOND = drill(4, 10)
TTL = drill(20.0, 240.0)
PAGE = os.sysconf("SC_PAGE_SIZE")
TYPES = ("update_config", "capture_image", "reboot")

NOT_FINAL = "status in ('pending', 'sent') or (status = 'failed' and due_at is not null)"


@dataclass
class Answers:
    """The commands that devices have answered, once the broker had the answer."""

    with_id: set[str] = field(default_factory=set)
    without_id: set[str] = field(default_factory=set)
    said_without_id: int = 0

    def note(self, device: SimulatedDevice, command: ReceivedCommand) -> None:
        """A device has answered a command."""
        named = device.options.ack_form == "by_id"
        self.said_without_id += not named
        (self.with_id if named else self.without_id).add(command.command_id or "")


@dataclass
class Crew:
    """The workers, by name; one that was killed is started again, as a platform does."""

    bench: Bench
    exits: AsyncExitStack
    running: dict[str, WorkerProcess] = field(default_factory=dict)
    memory: dict[int, list[int]] = field(default_factory=dict)

    async def start(self, name: str) -> None:
        self.running[name] = await self.exits.enter_async_context(
            self.bench.worker(
                name, ready=False, MQTT_CLIENT_ID=name, IMAGE_SILENCE="1", REDELIVERY_LIMIT="100",
                COMMAND_TTL=str(TTL), REGISTRATIONS_PER_MINUTE="1000",
            )
        )  # fmt: skip

    async def replace(self, name: str) -> None:
        await self.running[name].kill()
        await self.start(name)

    def note_memory(self) -> None:
        for worker in self.running.values():
            with suppress(OSError):
                pages = Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]
                self.memory.setdefault(worker.process.pid, []).append(int(pages) * PAGE)


class Faults:
    """Everything that goes wrong here; each lasts some seconds and ends."""

    def __init__(self, bench: Bench, crew: Crew, rng: Random) -> None:
        self._bench, self._crew, self._rng = bench, crew, rng
        self.happened: dict[str, int] = {}

    async def one(self) -> None:
        """A random fault, to its end."""
        fault: Callable[[], Awaitable[None]] = self._rng.choice([
            self.kill, self.freeze, self.restart_broker, self.freeze_broker, self.cut_broker,
            self.black_hole_api, self.reset_api, self.refuse_calls, self.lose_responses,
            self.silence_realtime, self.end_backends,
        ])  # fmt: skip
        name = getattr(fault, "__name__", "fault")
        self.happened[name] = self.happened.get(name, 0) + 1
        await fault()

    async def kill(self) -> None:
        await self._crew.replace(self._rng.choice(list(self._crew.running)))

    async def freeze(self) -> None:
        worker = self._rng.choice(list(self._crew.running.values()))
        worker.freeze()
        await self._for_a_while()
        worker.thaw()

    async def restart_broker(self) -> None:
        await self._bench.broker.stop()
        await self._for_a_while()
        await self._bench.broker.start()

    async def freeze_broker(self) -> None:
        self._bench.broker.freeze()
        await self._for_a_while()
        self._bench.broker.thaw()

    async def cut_broker(self) -> None:
        await self._bench.mqtt.reset()

    async def black_hole_api(self) -> None:
        self._bench.api.black_hole()
        await self._for_a_while()
        self._bench.api.flow()

    async def reset_api(self) -> None:
        await self._bench.api.reset()

    async def refuse_calls(self) -> None:
        self._bench.stack.faults.add_rest(RestFault("rpc/", "status", status=503, times=10))

    async def lose_responses(self) -> None:
        self._bench.stack.faults.add_rest(RestFault("rpc/", "lose_response", times=5))

    async def silence_realtime(self) -> None:
        self._bench.stack.faults.realtime = RealtimeFaults(drop=True)
        await self._for_a_while()
        self._bench.stack.faults.realtime = RealtimeFaults()

    async def end_backends(self) -> None:
        await self._bench.database.all(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'"
        )

    async def _for_a_while(self) -> None:
        await asyncio.sleep(self._rng.uniform(1, BETWEEN_FAULTS / 2))  # how long the fault lasts


@asynccontextmanager
async def in_the_background(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def active_devices(bench: Bench) -> dict[str, UUID]:
    made = await bench.database.all(
        """
        insert into public.devices
            (device_mac, device_code, provisioning_status, is_active, company_id, program_id, site_id)
        select '06:00:00:00:00:' || lpad(upper(to_hex(n)), 2, '0'), 'SOAK-' || n, 'active', true, %s, %s, %s
        from generate_series(1, %s) n
        on conflict (device_mac) do update set is_active = true returning device_mac, device_id
        """,
        COMPANY, PROGRAM, SITE, DEVICES,
    )  # fmt: skip
    return {row["device_mac"]: row["device_id"] for row in made}


async def queue_commands(bench: Bench, ids: list[UUID], rng: Random, end: float) -> None:
    while asyncio.get_running_loop().time() < end:
        for _ in range(COMMANDS_PER_SECOND):
            await bench.database.queue(rng.choice(ids), rng.choice(TYPES), {"n": rng.randrange(1000)})
        await asyncio.sleep(1)  # the pace of the load


async def make_trouble(faults: Faults, crew: Crew, end: float) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < end:
        await asyncio.sleep(BETWEEN_FAULTS)  # the pace of the faults
        await faults.one()
        crew.note_memory()


async def test_nothing_is_lost_while_everything_fails_now_and_then(bench: Bench) -> None:
    rng = Random(20251124)
    devices = await active_devices(bench)
    options = FleetOptions(
        tuple(devices), wakes=0, pictures=1, picture_bytes=20_000, sleep=SLEEP, seconds=SECONDS,
        extra_wakes=drill(8, 20), loss=0.05, duplicates=0.02, shuffle=True, patience=drill(120.0, 300.0),
    )  # fmt: skip
    fleet = Fleet(options, "127.0.0.1", bench.broker.port, Access())
    answers = Answers()
    for device in fleet.devices:
        device._on_command = answers.note
    async with AsyncExitStack() as exits:
        crew = Crew(bench, exits)
        for number in range(WORKERS):
            await crew.start(f"soak-{number}")
        faults = Faults(bench, crew, rng)
        end = asyncio.get_running_loop().time() + SECONDS
        async with (
            in_the_background(queue_commands(bench, list(devices.values()), rng, end)),
            in_the_background(make_trouble(faults, crew, end)),
        ):
            await fleet.run()
        await eventually(lambda: all_final(bench), "an end of every command", TTL + 60)
        crew.note_memory()
        await tell_and_check(bench, fleet, faults, crew, answers)


async def all_final(bench: Bench) -> bool:
    return await bench.database.count(NOT_FINAL) == 0


async def tell_and_check(bench: Bench, fleet: Fleet, faults: Faults, crew: Crew, answers: Answers) -> None:
    """Every command final, every answer in its row, every picture whole, memory flat."""
    document = fleet.report().document()
    pictures = {
        (device["device_id"], picture["name"]): picture["sha256"]
        for device in document["devices"]
        for picture in device["pictures"]
    }
    stored = {
        (row["device_mac"], row["image_name"]): row["sha256"]
        for row in await bench.database.all(
            "select device_mac, image_name, sha256 from public.device_images"
            " join public.devices using (device_id) where status = 'complete'"
        )
    }
    acknowledged = {
        str(row["command_id"])
        for row in await bench.database.all(
            "select command_id from public.device_commands where status = 'acknowledged'"
        )
    }
    commands = {
        str(r["command_id"])
        for r in await bench.database.all("select command_id from public.device_commands")
    }
    unfinished = await bench.database.all(
        "select device_mac, image_name, received_chunks, total_chunks"
        " from public.device_images join public.devices using (device_id) where status = 'receiving'"
    )
    growth = [flatness(seen) for seen in crew.memory.values() if len(seen) > 10]
    report(
        faults=faults.happened,
        commands=await bench.database.statuses(),
        answers=len(answers.with_id & commands),
        answers_without_id=len(answers.without_id & commands),
        of_these_not_in_their_row=len((answers.without_id & commands) - acknowledged),
        said_without_id=answers.said_without_id,
        of_these_used=await used_without_id(bench, fleet),
        pictures=len(pictures),
        heartbeats=document["heartbeats"],
        answered=document["answered"],
        hung=document["hung"],
        unfinished=unfinished,
        memory_growth=[round(factor, 2) for factor in growth],
    )
    assert (answers.with_id & commands) - acknowledged == set()
    assert {key: stored.get(key) for key in pictures} == pictures
    assert (document["hung"], document["pending"]) == (0, 0)
    assert all(factor < 1.15 for factor in growth), growth


async def used_without_id(bench: Bench, fleet: Fleet) -> int:
    """How many answers without an id the database has used, each once, whoever heard it."""
    devices = [device.options.device_id for device in fleet.devices if device.options.ack_form != "by_id"]
    row = await bench.database.one(
        "select count(*) from mqtt_private.acknowledgements join public.devices using (device_id)"
        " where duplicate_of is null and device_mac = any (%s)",
        devices,
    )
    used: int = row["count"]
    return used


def flatness(memory: list[int]) -> float:
    """The most that a process had in the last third of its life, as a multiple of that in the middle one."""
    third = len(memory) // 3
    return max(memory[2 * third :]) / max(memory[third : 2 * third])
