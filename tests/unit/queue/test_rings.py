"""Rings start claims: many that come thick and fast share one."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from mqtt_service.adapters.supabase.commands import Claim, CommandGateway
from mqtt_service.publisher import Sender
from mqtt_service.queue.command_queue import CommandQueueProcessor, QueueOptions


class Broker:
    connected = True


class NoisyDatabase:
    """Rings during each claim; `claimed_at` are the loop's times, `enough` is set after the fifth."""

    def __init__(self) -> None:
        self.claimed_at: list[float] = []
        self.queue: CommandQueueProcessor | None = None
        self.enough = asyncio.Event()

    async def claim(self, *, limit: int, lease: float, held: Sequence[UUID]) -> Claim:
        _ = limit, lease, held
        self.claimed_at.append(asyncio.get_running_loop().time())
        if self.queue is not None:
            self.queue.poll_now()
        if len(self.claimed_at) >= 5:
            self.enough.set()
        return Claim(commands=[])


async def test_claims_that_rings_start_are_20_ms_apart() -> None:
    database = NoisyDatabase()
    options = QueueOptions(poll_interval=3600.0)
    queue = CommandQueueProcessor(cast("CommandGateway", database), cast("Sender", Broker()), options)
    database.queue = queue
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(10):
        await database.enough.wait()
    await queue.stop(1.0)
    await running
    times = database.claimed_at
    assert all(later - earlier > 0.019 for earlier, later in itertools.pairwise(times))
