"""Whether a newer process uses our MQTT client id: it is our successor then, and we are to stop.

On a rolling deploy the new process takes over the broker's session. A broker may disconnect the old process
without saying why, so the database is asked too. That takes 2 s at most: a worker connects to its broker
whether or not Supabase answers.
"""

import asyncio
import logging
import time

from mqtt_service.adapters.supabase.workers import WorkerGateway
from mqtt_service.errors import ServiceError

log = logging.getLogger(__name__)

_MAX_WAIT = 2.0
_ANNOUNCE_EVERY = 60.0


class SessionTakeover:
    """Announces this process, `worker`, under `client_id`, and asks for the newest process that uses it."""

    def __init__(self, gateway: WorkerGateway, client_id: str, worker: str) -> None:
        self._gateway = gateway
        self._client_id = client_id
        self._worker = worker
        self._started = time.monotonic()
        self._call: asyncio.Task[bool] | None = None

    async def has_newer_process(self) -> bool:
        """Whether a process that started later uses the client id; False where that is unknown after 2 s."""
        # A call that hangs is not made twice, since requests are not cut short: its answer serves later.
        if self._call is None or self._call.done():
            self._call = asyncio.create_task(self._announce())
        done, _ = await asyncio.wait({self._call}, timeout=_MAX_WAIT)
        return done.pop().result() if done else False

    async def run(self) -> None:
        """Announce this process once a minute until cancelled, so that the database knows who runs."""
        while True:
            await asyncio.sleep(_ANNOUNCE_EVERY)
            await self.has_newer_process()

    async def _announce(self) -> bool:
        try:
            newest = await self._gateway.announce(
                self._client_id, started_ago=time.monotonic() - self._started
            )
        except ServiceError as error:
            log.info("[MQTT] Whether another process has our client id is not known: %s", error)
            return False
        return newest != self._worker
