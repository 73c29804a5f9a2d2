"""More workers and more devices on one machine: the rate of the whole cycle, row to `acknowledged`.

A device is a row; one paho client answers for all of them. The workers share the answers as one group.
"""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from mqtt_service.bench.bare_paho import COMMANDS
from mqtt_service.bench.commands import all_are, all_heard
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig


async def measure_scale(
    rig: Rig, commands: int, workers: Sequence[int], devices: Sequence[int]
) -> list[Measure]:
    """Rates over that of the first of `workers`, and over that of the first of `devices`.

    Workers share the devices that the rig has; devices share one worker. There are as many
    commands for many devices as for few: for 100,000, not one each.
    """
    by_workers = {number: await _rate(rig, commands, number, None) for number in workers}
    by_devices = {}
    for number in devices:
        await rig.add_devices(number)
        by_devices[number] = await _rate(rig, commands, 1, number)
    return [*_ratios(by_workers, "worker(s)"), *_ratios(by_devices, "devices")]


async def _rate(rig: Rig, commands: int, workers: int, devices: int | None) -> float:
    """Commands a second, from the first publish to the last row that says `acknowledged`."""
    await rig.clear()
    async with AsyncExitStack() as running:
        await running.enter_async_context(rig.devices_that_answer())
        for _ in range(workers):
            worker = await running.enter_async_context(rig.worker(MQTT_SHARED_GROUP="bench"))
            await worker.ready()
        with rig.listener(*COMMANDS) as listener:
            await rig.queue_backlog(commands, devices)
            await all_heard(listener, commands)
            await all_are(rig, "acknowledged", commands)
            ended = time.monotonic()
    await rig.clear()
    return commands / (ended - listener.heard[0][0])


def _ratios(rates: dict[int, float], what: str) -> list[Measure]:
    (first, alone), *_ = rates.items()
    return [
        Measure(
            f"cycle with {number:,} {what} / with {first:,}",
            [rate / alone],
            "higher",
            None,
            {"commands_per_s": rate},
        )
        for number, rate in rates.items()
    ]
