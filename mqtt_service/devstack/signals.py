"""Run a coroutine until it ends or a person or the platform asks for an end (SIGINT, SIGTERM)."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def run_until_signal(work: Coroutine[Any, Any, int], *, interrupted: int) -> int:
    """Return what `work` returns, or `interrupted` if a signal ended it.

    The first signal cancels `work`, which cleans up; later ones change nothing.
    """
    return asyncio.run(_run(work, interrupted))


async def _run(work: Coroutine[Any, Any, int], interrupted: int) -> int:
    task = asyncio.create_task(work)
    asked = asyncio.Event()

    def ask() -> None:
        if not asked.is_set():
            asked.set()
            task.cancel()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, ask)
    try:
        return await task
    except asyncio.CancelledError:
        if asked.is_set():
            return interrupted
        raise
