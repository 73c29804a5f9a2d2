"""From insert to publish on an idle queue: while Realtime rings, and while it says nothing."""

import asyncio
import json
import time
from collections.abc import Iterable
from random import Random
from uuid import UUID

import httpx

from mqtt_service.bench.bare_paho import COMMANDS, Listener
from mqtt_service.bench.processes import eventually
from mqtt_service.bench.report import Measure, percentile
from mqtt_service.bench.rig import Rig

# What the ratio is taken of, in seconds: this, and without Realtime the poll interval on top of it.
ALLOWED_SECONDS = 0.25


async def measure_latency(rig: Rig, samples: int, poll_interval: float) -> list[Measure]:
    """The slowest hundredth of the samples, as a share of what is allowed."""
    with_realtime = await _latencies(rig, samples, poll_interval, pause=0.1)
    async with _SilencedRealtime(rig):
        # Anywhere between two polls, hardly ever two within one.
        without = await _latencies(rig, samples, poll_interval, pause=poll_interval)
    return [
        _measure(f"insert to publish, p99 / {ALLOWED_SECONDS * 1000:.0f} ms", with_realtime, ALLOWED_SECONDS),
        _measure(
            f"without Realtime, p99 / (poll + {ALLOWED_SECONDS * 1000:.0f} ms)",
            without,
            poll_interval + ALLOWED_SECONDS,
        ),
    ]


def _measure(name: str, latencies: list[float], allowed: float) -> Measure:
    p50, p99 = (percentile(latencies, share) for share in (0.5, 0.99))
    return Measure(
        name,
        [p99 / allowed],
        "lower",
        1.0,
        {"p50_ms": p50 * 1000, "p99_ms": p99 * 1000, "samples": len(latencies)},
    )


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


async def _latencies(rig: Rig, samples: int, poll_interval: float, pause: float) -> list[float]:
    """Seconds from before each insert to its message; a random pause, `pause` on average, lies between."""
    await rig.clear()
    rng = Random(1)  # noqa: S311 - a choice of moments, nothing secret
    with rig.listener(*COMMANDS) as listener:
        async with rig.worker(POLL_INTERVAL=str(poll_interval)) as worker:
            await worker.ready()
            inserted: dict[UUID, float] = {}
            for device in range(1, samples + 1):
                await asyncio.sleep(rng.uniform(0, 2 * pause))
                began = time.monotonic()
                inserted[await rig.queue_one(device)] = began
            heard = await eventually(lambda: _heard(listener, inserted), f"{samples} commands")
    await rig.clear()
    return [heard[command_id] - began for command_id, began in inserted.items()]


async def _heard(listener: Listener, wanted: Iterable[UUID]) -> dict[UUID, float] | None:
    """When each of these commands was heard first; None until all of them were."""
    heard = {
        UUID(json.loads(message.payload)["command_id"]): when
        for when, message in reversed(list(listener.heard))
    }
    return heard if heard.keys() >= set(wanted) else None
