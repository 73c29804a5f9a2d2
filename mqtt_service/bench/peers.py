"""Others who do the same job, on the same server and broker in the same run.

procrastinate is a general queue that talks to Postgres itself; the polling service is what the documents of
the service before ours describe. Each gets a backlog, then single commands on an idle queue.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from procrastinate import App
from procrastinate.types import JSONValue
from psycopg.conninfo import make_conninfo

from mqtt_service.bench.bare_paho import COMMANDS, Listener
from mqtt_service.bench.commands import all_are, all_heard, rate_heard
from mqtt_service.bench.counting_proxy import CountingProxy
from mqtt_service.bench.latency import latencies
from mqtt_service.bench.processes import eventually
from mqtt_service.bench.procrastinate_peer import TASK, app_for
from mqtt_service.bench.report import Measure, percentile
from mqtt_service.bench.rig import Rig

_ROWS_A_POLL = 50
_POLLS = 3
_DATABASE = "bench_procrastinate"


@dataclass(frozen=True, slots=True)
class _Found:
    """Commands a second, seconds from insert to publish, and requests or queries a command."""

    rate: float
    seconds: list[float]
    calls: float


async def measure_peers(rig: Rig, commands: int, samples: int, poll_interval: float) -> list[Measure]:
    """Our rate, latency and calls over those of each peer; `poll_interval` is the polling service's."""
    ours = await _ours(rig, commands, samples)
    others = {
        "procrastinate": await _procrastinate(rig, commands, samples),
        "polling service": await _polling_service(rig, samples, poll_interval),
    }
    return [measure for name, theirs in others.items() for measure in _compared(name, ours, theirs)]


async def _ours(rig: Rig, commands: int, samples: int) -> _Found:
    """The proxy that counts calls would add to what a single command takes: so those have another run."""
    await rig.clear()
    await rig.queue_backlog(commands)
    async with CountingProxy(rig.env["SUPABASE_URL"]) as proxy:
        with rig.listener(*COMMANDS) as listener:
            async with rig.worker(SUPABASE_URL=proxy.url):
                await all_heard(listener, commands)
                rate = rate_heard(listener)
                await all_are(rig, "sent", commands)
                calls = proxy.traffic.requests / commands
    await rig.clear()
    with rig.listener(*COMMANDS) as listener:
        async with rig.worker() as worker:
            await worker.ready()
            seconds = await latencies(listener, rig.queue_one, samples, pause=0.1)
    await rig.clear()
    return _Found(rate, seconds, calls)


async def _procrastinate(rig: Rig, commands: int, samples: int) -> _Found:
    """Its queries are the transactions of its database: each query is one, and nobody else is there."""
    async with _procrastinate_app(rig) as (app, url):
        task = app.configure_task(name=TASK, allow_unknown=True)
        await task.batch_defer_async(*(_job(number, uuid4()) for number in range(commands)))
        before = await _transactions(rig)
        with rig.listener(*COMMANDS) as listener:
            async with rig.peer("procrastinate_peer", PEER_DB_URL=url):
                await all_heard(listener, commands)
                rate = rate_heard(listener)
        await eventually(lambda: _is_gone(rig), "procrastinate's connections closed")
        calls = (await _transactions(rig) - before) / commands
        with rig.listener(*COMMANDS) as listener:
            async with rig.peer("procrastinate_peer", PEER_DB_URL=url):

                async def defer(number: int) -> UUID:
                    command_id = uuid4()
                    await task.defer_async(**_job(number, command_id))
                    return command_id

                await latencies(listener, defer, 1, pause=0.0)  # now it listens to Postgres
                seconds = await latencies(listener, defer, samples, pause=0.1)
    return _Found(rate, seconds, calls)


@asynccontextmanager
async def _procrastinate_app(rig: Rig) -> AsyncIterator[tuple[App, str]]:
    """Run procrastinate in a database of its own on the rig's server; it is dropped after the block."""
    url = make_conninfo(rig.env["SUPABASE_DB_URL"], dbname=_DATABASE)
    await rig.all(f"create database {_DATABASE}")
    try:
        app = app_for(url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            yield app, make_conninfo(url, application_name=_DATABASE)
    finally:
        await rig.all(f"drop database {_DATABASE} with (force)")


async def _is_gone(rig: Rig) -> bool:
    """A connection's transactions are counted for certain once it is closed."""
    query = "select not exists (select from pg_stat_activity where application_name = %s)"
    return bool(await rig.value(query, _DATABASE))


async def _transactions(rig: Rig) -> int:
    query = "select xact_commit + xact_rollback from pg_stat_database where datname = %s"
    return int(await rig.value(query, _DATABASE))


def _job(number: int, command_id: UUID) -> dict[str, JSONValue]:
    """A command like ours: as long, and to as many devices."""
    device = f"0A{number % 200:010X}"
    body = {"device_id": device, "command_id": str(command_id), "interval": number, "quality": "high"}
    return {"topic": f"device/{device}/cmd", "payload": json.dumps(body)}


async def _polling_service(rig: Rig, samples: int, interval: float) -> _Found:
    """Few commands, since it takes few: its rate is that between the first rows of two polls."""
    await rig.clear()
    commands = _ROWS_A_POLL * _POLLS
    await rig.queue_backlog(commands)
    settings = {"PEER_INTERVAL": str(interval), "PEER_ROWS": str(_ROWS_A_POLL)}
    async with CountingProxy(rig.env["SUPABASE_URL"]) as proxy:
        with rig.listener(*COMMANDS) as backlog, rig.listener(*COMMANDS) as single:
            async with rig.peer("polling_peer", SUPABASE_URL=proxy.url, **settings):
                await all_heard(backlog, commands)
                await all_are(rig, "sent", commands)
                calls = proxy.traffic.requests / commands
                seconds = await latencies(single, rig.queue_one, samples, pause=interval / 10)
    await rig.clear()
    return _Found(_rate_between_polls(backlog), seconds, calls)


def _rate_between_polls(listener: Listener) -> float:
    first, last = listener.heard[0][0], listener.heard[_ROWS_A_POLL * (_POLLS - 1)][0]
    return _ROWS_A_POLL * (_POLLS - 1) / (last - first)


def _compared(name: str, ours: _Found, theirs: _Found) -> list[Measure]:
    p50, their_p50, p99, their_p99 = (
        percentile(found.seconds, share) * 1000 for share in (0.5, 0.99) for found in (ours, theirs)
    )
    return [
        Measure(
            f"backlog rate / {name}",
            [ours.rate / theirs.rate],
            "higher",
            1.0,
            {"commands_per_s": ours.rate, "peer_per_s": theirs.rate},
        ),
        Measure(
            f"insert to publish, p50 / {name}",
            [p50 / their_p50],
            "lower",
            1.0,
            {"p50_ms": p50, "peer_p50_ms": their_p50, "p99_ms": p99, "peer_p99_ms": their_p99},
        ),
        Measure(
            f"requests a command / {name}",
            [ours.calls / theirs.calls],
            "lower",
            1.0,
            {"requests": ours.calls, "peer_requests": theirs.calls},
        ),
    ]
