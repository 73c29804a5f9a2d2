"""What a worker costs its operator: memory, and the calls and bytes that a hosted Supabase project counts.

One worker is watched while it is idle, while commands make the whole way and are answered, and while
pictures arrive. Its requests go through a proxy that counts them. Bytes are those of whole connections,
headers and Realtime's WebSocket included, but not those of TLS.
"""

import asyncio
from collections.abc import Iterator

from mqtt_service.bench.bare_paho import COMMANDS
from mqtt_service.bench.commands import all_are, all_heard
from mqtt_service.bench.counting_proxy import CountingProxy, Traffic
from mqtt_service.bench.pictures import EVERYTHING_SENT, SETTINGS, Upload, all_complete
from mqtt_service.bench.processes import BenchError
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig

_HOUR = 3600.0
_MEGABYTE = 1e6
_FIRST_UPLOAD = 2_000
# So many send one picture each side by side; then the next so many.
_SIDE_BY_SIDE = 50


async def measure_costs(
    rig: Rig, window: float, commands: int, pictures: int, chunks: int, *, poll_interval: float = 5.0
) -> list[Measure]:
    """Of an idle worker during `window` seconds, then of so many commands, then of so many pictures."""
    await rig.clear()
    settings = {**SETTINGS, "POLL_INTERVAL": str(poll_interval)}
    async with (
        CountingProxy(rig.env["SUPABASE_URL"]) as proxy,
        rig.worker(SUPABASE_URL=proxy.url, **settings) as worker,
    ):
        await worker.ready()
        idle = await _while_idle(proxy, window)
        memory = [worker.usage.memory()]
        by_commands = await _while_commands_flow(rig, proxy, commands)
        memory.append(worker.usage.memory())
        by_pictures = await _while_pictures_arrive(rig, proxy, pictures, chunks)
        memory.append(worker.usage.memory())
    await rig.clear()
    return [
        *idle,
        *_each("command", by_commands, commands),
        *_each("picture", by_pictures, pictures),
        Measure("memory of the idle worker, MB", [memory[0] / _MEGABYTE], "lower"),
        _growth(f"memory after {commands:,} commands / idle", memory[1], memory[0]),
        _growth(f"and after {pictures:,} pictures / idle", memory[2], memory[0]),
    ]


async def _while_idle(proxy: CountingProxy, window: float) -> list[Measure]:
    """An hour's calls, worked out from the time between the first and the last that fell into the window."""
    before = proxy.traffic
    await asyncio.sleep(window)
    traffic = proxy.traffic.since(before)
    times = proxy.requested[before.requests : before.requests + traffic.requests]
    if len(times) < 2:  # noqa: PLR2004 - an interval has two ends
        raise BenchError(f"the idle worker asked less than twice within {window:g} s: make the window longer")
    calls = (len(times) - 1) / (times[-1] - times[0]) * _HOUR
    an_hour = calls / len(times)
    figures = {"window_s": window, "calls_seen": len(times)}
    return [
        Measure("requests an idle hour, from the window", [calls], "lower", None, figures),
        Measure(
            "kB from Supabase an idle hour, from the window",
            [traffic.received * an_hour / 1000],
            "lower",
            None,
            {"kB_to_supabase": traffic.sent * an_hour / 1000},
        ),
    ]


async def _while_commands_flow(rig: Rig, proxy: CountingProxy, commands: int) -> Traffic:
    async with rig.devices_that_answer():
        with rig.listener(*COMMANDS) as listener:
            before = proxy.traffic
            await rig.queue_backlog(commands)
            await all_heard(listener, commands)
            await all_are(rig, "acknowledged", commands)
            return proxy.traffic.since(before)


async def _while_pictures_arrive(rig: Rig, proxy: CountingProxy, pictures: int, chunks: int) -> Traffic:
    before = proxy.traffic
    for upload in _uploads(pictures, chunks):
        with rig.listener(*EVERYTHING_SENT):
            await rig.publish(upload.messages())
            await all_complete(rig, upload)
    return proxy.traffic.since(before)


def _uploads(pictures: int, chunks: int) -> Iterator[Upload]:
    for first in range(0, pictures, _SIDE_BY_SIDE):
        yield Upload(min(_SIDE_BY_SIDE, pictures - first), chunks, _FIRST_UPLOAD + first)


def _each(what: str, traffic: Traffic, number: int) -> list[Measure]:
    return [
        Measure(
            f"requests a {what} under load",
            [traffic.requests / number],
            "lower",
            None,
            {f"{what}s": number},
        ),
        Measure(
            f"kB from Supabase a {what} under load",
            [traffic.received / number / 1000],
            "lower",
            None,
            {"kB_to_supabase": traffic.sent / number / 1000},
        ),
    ]


def _growth(name: str, memory: int, idle: int) -> Measure:
    return Measure(name, [memory / idle], "lower", None, {"MB": memory / _MEGABYTE})
