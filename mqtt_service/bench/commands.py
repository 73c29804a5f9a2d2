"""Commands beside bare paho: dispatch of a backlog, the whole cycle, and how many calls a command costs.

Each round lets the worker start on a backlog, and bare paho publish the same messages, expiry included, as
many at once as the broker takes. One listener hears both.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mqtt_service.bench.bare_paho import COMMANDS, Listener, Message
from mqtt_service.bench.counting_proxy import CountingProxy
from mqtt_service.bench.processes import eventually
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig

_MIN_DISPATCH = 0.5
_MIN_CYCLE = 0.25
_MAX_CALLS = 0.05


async def measure_dispatch(rig: Rig, commands: int, rounds: int) -> list[Measure]:
    """Commands that reach the broker in a second, from the first to the last, over paho's publishes."""
    beside_many, beside_each, figures = [], [], {}
    for _ in range(rounds):
        async with _backlog(rig, commands) as listener, rig.worker():
            await _all_heard(listener, commands)
        service_rate = (commands - 1) / (listener.heard[-1][0] - listener.heard[0][0])
        many = await _bare_rate(rig, listener.messages())
        each = await _bare_rate(rig, listener.messages(), each=True)
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
            await _all_heard(
                listener, commands
            )  # before that, counting rows would only take time from the rest
            await eventually(lambda: _all_acknowledged(rig, commands), "all commands acknowledged")
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


async def _bare_rate(rig: Rig, messages: list[Message], *, each: bool = False) -> float:
    with rig.listener(*COMMANDS) as listener:
        began, ended = await rig.publish(messages, each=each)
        await _all_heard(listener, len(messages))
    return len(messages) / (ended - began)


async def _all_heard(listener: Listener, messages: int) -> None:
    async def check() -> bool:
        return len(listener.heard) >= messages

    await eventually(check, f"{messages} published commands")


async def _all_acknowledged(rig: Rig, commands: int) -> bool:
    query = "select count(*) from public.device_commands where status = 'acknowledged'"
    return bool(await rig.value(query) == commands)
