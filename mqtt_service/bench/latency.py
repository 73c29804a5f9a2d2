"""From insert to publish: on an idle queue while Realtime rings and while it says nothing, and under load."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from random import Random
from uuid import UUID

import httpx
import psycopg

from mqtt_service.bench.bare_paho import COMMANDS, Listener
from mqtt_service.bench.processes import BenchError, eventually, patience
from mqtt_service.bench.report import Measure, percentile
from mqtt_service.bench.rig import Rig

# What the ratio is taken of, in seconds: this, and without Realtime the poll interval on top of it.
ALLOWED_SECONDS = 0.25
_GOOD_SECONDS = 0.1
# Inserts a second, and whether the goal holds there.
_LOADS = ((50, 1.0), (500, None))
_CONNECTIONS = 8
_INSERT = "insert into public.device_commands (device_id, command_type) values (%s, 'capture_image')"

Insert = Callable[[int], Awaitable[UUID]]


async def measure_latency(rig: Rig, samples: int, poll_interval: float, seconds: float) -> list[Measure]:
    """The slowest hundredth as a share of what is allowed; `seconds`: for so long each load lasts."""
    await rig.clear()
    settings = {"POLL_INTERVAL": str(poll_interval)}
    loaded = []
    async with rig.worker(**settings) as worker:
        await worker.ready()
        with rig.listener(*COMMANDS) as listener:
            idle = await latencies(listener, rig.queue_one, samples, pause=0.1)
        for rate, goal in _LOADS:
            loaded.append(await _under_load(rig, rate, seconds, goal))
    async with _SilencedRealtime(rig), rig.worker(**settings) as worker:
        await worker.ready()
        with rig.listener(*COMMANDS) as listener:
            # Anywhere between two polls, hardly ever two within one.
            without = await latencies(listener, rig.queue_one, samples, pause=poll_interval)
    await rig.clear()
    return [
        as_measure(
            f"insert to publish, p99 / {ALLOWED_SECONDS * 1000:.0f} ms", idle, ALLOWED_SECONDS, goal=1.0
        ),
        as_measure(
            f"without Realtime, p99 / (poll + {ALLOWED_SECONDS * 1000:.0f} ms)",
            without,
            poll_interval + ALLOWED_SECONDS,
            goal=1.0,
        ),
        as_measure("insert to publish one at a time, p99 / 100 ms", idle, _GOOD_SECONDS, goal=1.0),
        *loaded,
    ]


async def latencies(
    listener: Listener, insert: Insert, samples: int, pause: float, first: int = 1
) -> list[float]:
    """Seconds from before each insert to its message; a random pause, `pause` on average, lies between.

    `insert` gets numbers from `first` on, and returns the command's id.
    """
    rng = Random(1)  # noqa: S311 - a choice of moments, nothing secret
    inserted: dict[UUID, float] = {}
    for number in range(first, first + samples):
        await asyncio.sleep(rng.uniform(0, 2 * pause))
        began = time.monotonic()
        inserted[await insert(number)] = began
    return await _until_heard(listener, inserted)


def as_measure(
    name: str, seconds: Sequence[float], allowed: float, *, goal: float | None, **figures: float
) -> Measure:
    """The p99 of `seconds` as a share of `allowed`."""
    percentiles = {f"p{share}_ms": percentile(seconds, share / 100) * 1000 for share in (50, 95, 99)}
    ratio = percentile(seconds, 0.99) / allowed
    return Measure(name, [ratio], "lower", goal, {**percentiles, "samples": len(seconds), **figures})


async def _under_load(rig: Rig, rate: int, seconds: float, goal: float | None) -> Measure:
    """So many inserts a second, each a statement of its own, whether or not those before were published."""
    rows = await rig.all("select device_id from public.devices where device_code like 'BENCH-%%'")
    devices = [row["device_id"] for row in rows]
    number = max(round(rate * seconds), 1)
    inserted: dict[UUID, float] = {}
    with rig.listener(*COMMANDS) as listener:
        async with AsyncExitStack() as open_ones:
            connections = [
                await open_ones.enter_async_context(
                    await psycopg.AsyncConnection.connect(rig.env["SUPABASE_DB_URL"], autocommit=True)
                )
                for _ in range(_CONNECTIONS)
            ]
            began = time.monotonic()

            async def insert_share(which: int) -> None:
                for place in range(which, number, _CONNECTIONS):
                    await asyncio.sleep(max(began + place / rate - time.monotonic(), 0))
                    before = time.monotonic()
                    inserted[await _insert(connections[which], devices[place % len(devices)])] = before

            await asyncio.gather(*(insert_share(which) for which in range(_CONNECTIONS)))
            reached = number / (time.monotonic() - began)
        seconds_each = await _until_heard(listener, inserted)
    await rig.clear()
    name = f"insert to publish at {rate} a second, p99 / 100 ms"
    return as_measure(name, seconds_each, _GOOD_SECONDS, goal=goal, inserts_per_s=reached)


async def _insert(connection: psycopg.AsyncConnection[tuple[object, ...]], device: UUID) -> UUID:
    cursor = await connection.execute(f"{_INSERT} returning command_id", (device,))
    row = await cursor.fetchone()
    if row is None or not isinstance(row[0], UUID):
        raise BenchError("an insert into device_commands gave no command_id")
    return row[0]


async def _until_heard(listener: Listener, inserted: dict[UUID, float]) -> list[float]:
    number = len(inserted)
    heard = await eventually(lambda: _heard(listener, inserted), f"{number} commands", patience(number))
    return [heard[command_id] - began for command_id, began in inserted.items()]


async def _heard(listener: Listener, wanted: Iterable[UUID]) -> dict[UUID, float] | None:
    """When each of these commands was heard first; None until all of them were."""
    heard = {
        UUID(json.loads(message.payload)["command_id"]): when
        for when, message in reversed(list(listener.heard))
    }
    return heard if heard.keys() >= set(wanted) else None


class _SilencedRealtime:
    """A block in which Realtime loses every event, and does not show that."""

    def __init__(self, rig: Rig) -> None:
        self._faults = f"{rig.env['SUPABASE_URL']}/devstack/v1/faults"

    async def __aenter__(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(self._faults, json={"realtime": {"drop": True}})
            answer.raise_for_status()

    async def __aexit__(self, *_: object) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.delete(self._faults)
