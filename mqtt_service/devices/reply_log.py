"""Records what devices are about to be told without a row of `device_commands`, many replies in a call.

A device may acknowledge such a reply without an id, and whichever worker hears that asks the database what
the device was sent last. So a reply is recorded before it is published.
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
# Seconds. A device without an answer stays awake: it gets one then, recorded or not.
_RECORD_TIMEOUT = 2.0


class ReplyLog:
    """Takes replies to the database; `run` it as one task."""

    def __init__(self, gateway: VisitGateway) -> None:
        self._gateway = gateway
        self._batcher: Batcher[ReplyRow, None] = Batcher(
            "REPLY", self._write, _BATCH, key=lambda reply: reply.device_id
        )
        self._submissions: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Write replies until cancelled."""
        await self._batcher.run()

    async def record(self, reply: ReplyRow) -> None:
        """Return once the reply is in the database, or after 2 s; then it is written as soon as it can be."""
        await asyncio.wait({self._submit_in_background(reply)}, timeout=_RECORD_TIMEOUT)

    def withdraw(self, reply: ReplyRow) -> None:
        """The reply was not published after all, or nobody listened: have that written in the background."""
        self._submit_in_background(replace(reply, withdrawn=True))

    def _submit_in_background(self, reply: ReplyRow) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._submit(reply))
        self._submissions.add(task)
        task.add_done_callback(self._submissions.discard)
        return task

    async def _submit(self, reply: ReplyRow) -> None:
        try:
            await self._batcher.submit(reply)
        except PermanentError as error:
            log.warning("[REPLY] Not recorded: %s", error, extra=context(device=reply.device_id))

    async def _write(self, replies: Sequence[ReplyRow]) -> Sequence[None]:
        await self._gateway.record_replies(replies)
        return [None] * len(replies)
