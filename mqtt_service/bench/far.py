"""One worker against an API that is 40 ms away, as a project in a region nearby is."""

from mqtt_service.bench.bare_paho import COMMANDS
from mqtt_service.bench.commands import all_are, all_heard, rate_heard
from mqtt_service.bench.counting_proxy import CountingProxy
from mqtt_service.bench.latency import as_measure, latencies
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig

ROUND_TRIP = 0.04
_ALLOWED_SECONDS = 0.25


async def measure_far(rig: Rig, commands: int, samples: int) -> list[Measure]:
    """The dispatch of a backlog over that of an API beside the worker, and the latency of single commands."""
    near_rate, _ = await _measured(rig, 0.0, commands, samples)
    far_rate, seconds = await _measured(rig, ROUND_TRIP, commands, samples)
    away = f"API {ROUND_TRIP * 1000:.0f} ms away"
    return [
        Measure(
            f"dispatch, {away} / beside it",
            [far_rate / near_rate],
            "higher",
            None,
            {"commands_per_s": far_rate, "beside_it_per_s": near_rate},
        ),
        as_measure(
            f"insert to publish, {away}, p99 / {_ALLOWED_SECONDS * 1000:.0f} ms",
            seconds,
            _ALLOWED_SECONDS,
            goal=None,
        ),
    ]


async def _measured(rig: Rig, round_trip: float, commands: int, samples: int) -> tuple[float, list[float]]:
    """Commands a second out of a backlog, and the latency of single ones; nobody answers."""
    await rig.clear()
    async with (
        CountingProxy(rig.env["SUPABASE_URL"], round_trip) as proxy,
        rig.worker(SUPABASE_URL=proxy.url) as worker,
    ):
        await worker.ready()
        with rig.listener(*COMMANDS) as listener:
            await rig.queue_backlog(commands)
            await all_heard(listener, commands)
            rate = rate_heard(listener)
            await all_are(rig, "sent", commands)
        with rig.listener(*COMMANDS) as listener:
            seconds = await latencies(listener, rig.queue_one, samples, pause=0.2)
    await rig.clear()
    return rate, seconds
