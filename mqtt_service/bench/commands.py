"""Commands beside bare paho: dispatch of a backlog, the whole cycle, and how many calls a command costs.

Each round lets the worker start on a backlog, and bare paho publish the same messages, expiry included, as
many at once as the broker takes. One listener hears both.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mqtt_service.bench.bare_paho import COMMANDS, Listener, Message
from mqtt_service.bench.counting_proxy import CountingProxy
from mqtt_service.bench.processes import eventually, patience
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig, Verb

_MIN_DISPATCH = 0.5
_MIN_CYCLE = 0.25
_MAX_CALLS = 0.05


async def measure_dispatch(rig: Rig, commands: int, rounds: int) -> list[Measure]:
    """Commands that reach the broker in a second, from the first to the last, over paho's publishes."""
    beside_many, beside_each, figures = [], [], {}
    for _ in range(rounds):
        async with _backlog(rig, commands) as listener, rig.worker():
            await all_heard(listener, commands)
        service_rate = rate_heard(listener)
        many = await _bare_rate(rig, listener.messages())
        each = await _bare_rate(rig, listener.messages(), "publish-each")
        beside_many.append(service_rate / many)
        beside_each.append(service_rate / each)
        figures = {"commands_per_s": service_rate, "paho_per_s": many, "one_by_one_per_s": each}
    return [
        Measure("dispatch of a backlog / bare paho", beside_many, "higher", _MIN_DISPATCH, figures),
        Measure("dispatch of a backlog / bare paho, one by one", beside_each, "higher"),
    ]


async def measure_cycle(rig: Rig, commands: int, rounds: int) -> list[Measure]:
    """Commands acknowledged in a second, from the first publish to the last row, over paho's publishes."""
    ratios, calls, figures = [], [], {}
    for _ in range(rounds):
        async with (
            CountingProxy(rig.env["SUPABASE_URL"]) as proxy,
            _backlog(rig, commands) as listener,
            rig.devices_that_answer(),
            rig.worker(SUPABASE_URL=proxy.url),
        ):
            await all_heard(listener, commands)  # before that, counting rows only takes time from the rest
            await all_are(rig, "acknowledged", commands)
            ended = time.monotonic()
        service_rate = commands / (ended - listener.heard[0][0])
        paho_rate = await _bare_rate(rig, listener.messages()[:commands])
        ratios.append(service_rate / paho_rate)
        calls.append(proxy.calls / commands)
        figures = {"commands_per_s": service_rate, "paho_per_s": paho_rate}
    return [
        Measure("row to acknowledged / bare paho", ratios, "higher", _MIN_CYCLE, figures),
        Measure("calls per command under load", calls, "lower", _MAX_CALLS),
    ]


@asynccontextmanager
async def _backlog(rig: Rig, commands: int) -> AsyncIterator[Listener]:
    """So many due commands, and a listener who hears them published; nothing is left afterwards."""
    await rig.clear()
    await rig.queue_backlog(commands)
    with rig.listener(*COMMANDS) as listener:
        yield listener
    await rig.clear()


async def _bare_rate(rig: Rig, messages: list[Message], verb: Verb = "publish") -> float:
    with rig.listener(*COMMANDS) as listener:
        spent = await rig.publish(messages, verb)
        await all_heard(listener, len(messages))
    return len(messages) / (spent.ended - spent.began)


def rate_heard(listener: Listener) -> float:
    """Messages a second, from the first to the last that was heard."""
    return (len(listener.heard) - 1) / (listener.heard[-1][0] - listener.heard[0][0])


async def all_heard(listener: Listener, messages: int) -> None:
    """Return once so many messages were heard."""

    async def check() -> bool:
        return len(listener.heard) >= messages

    await eventually(check, f"{messages} published messages", patience(messages))


async def all_are(rig: Rig, status: str, commands: int) -> None:
    """Return once so many rows have this status."""

    async def check() -> bool:
        query = "select count(*) from public.device_commands where status = %s"
        return bool(await rig.value(query, status) == commands)

    await eventually(check, f"{commands} commands {status}", patience(commands))
