"""Measures how late the event loop is: everything of the worker waits that long."""

import asyncio

from mqtt_service.metrics import LOOP_LAG

_EVERY = 1.0


async def measure_loop_lag(every: float = _EVERY) -> None:
    """Observe, each `every` seconds and until cancelled, by how many seconds a timer is late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every
        await asyncio.sleep(every)
        LOOP_LAG.observe(max(loop.time() - due, 0.0))
