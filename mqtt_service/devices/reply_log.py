"""Notes what devices are about to be told without a row of `device_commands`, many in a call.

A device may acknowledge that without an id, and whichever worker hears it asks the database what the device
was sent last. So a reply is noted before it is said.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from mqtt_service.adapters.supabase.visits import ReplyRow, VisitGateway
from mqtt_service.batching import Batcher
from mqtt_service.errors import PermanentError
from mqtt_service.log import context

log = logging.getLogger(__name__)

_BATCH = 200
# An unanswered device lies awake: it is answered then, noted or not.
_PATIENCE = 2.0


class ReplyLog:
    """Takes replies to the database; `run` it as one task."""

    def __init__(self, gateway: VisitGateway) -> None:
        self._gateway = gateway
        self._batcher: Batcher[ReplyRow, None] = Batcher(
            "REPLY", self._write, _BATCH, key=lambda reply: reply.device_id
        )
        self._noting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Write replies until cancelled."""
        await self._batcher.run()

    async def note(self, reply: ReplyRow) -> None:
        """Return once it is noted; after 2 s in any case, and then it is noted once that can be done."""
        await asyncio.wait({self._begin(reply)}, timeout=_PATIENCE)

    def withdraw(self, reply: ReplyRow) -> None:
        """It was not said after all, or nobody listened: have that noted in the background."""
        self._begin(replace(reply, withdrawn=True))

    def _begin(self, reply: ReplyRow) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._note(reply))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)
        return task

    async def _note(self, reply: ReplyRow) -> None:
        try:
            await self._batcher.submit(reply)
        except PermanentError as error:
            log.warning("[REPLY] Not noted: %s", error, extra=context(device=reply.device_id))

    async def _write(self, replies: Sequence[ReplyRow]) -> Sequence[None]:
        await self._gateway.record_replies(replies)
        return [None] * len(replies)
