"""Which process goes by our MQTT client id: a newer one is our successor, and we are to leave.

On a rolling deploy the new process takes the broker's session. Where the broker does not tell the old one why
it was put out, the database does. It is never waited for long: a worker connects to its broker, whatever
Supabase does.
"""

import asyncio
import logging
import time

from mqtt_service.adapters.supabase.workers import WorkerGateway
from mqtt_service.errors import ServiceError

log = logging.getLogger(__name__)

_PATIENCE = 2.0


class SessionTakeover:
    """Announces this process, `worker`, under `client_id`, and asks for the newest that goes by it."""

    def __init__(self, gateway: WorkerGateway, client_id: str, worker: str) -> None:
        self._gateway = gateway
        self._client_id = client_id
        self._worker = worker
        self._started = time.monotonic()
        self._asking: asyncio.Task[bool] | None = None

    async def has_newer_process(self) -> bool:
        """Whether a process that started later goes by the id; False where nobody can tell within 2 s."""
        # A call that hangs is asked again for its answer, not made twice: requests are not cut short.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({self._asking}, timeout=_PATIENCE)
        return done.pop().result() if done else False

    async def _ask(self) -> bool:
        try:
            newest = await self._gateway.announce(
                self._client_id, started_ago=time.monotonic() - self._started
            )
        except ServiceError as error:
            log.info("[MQTT] Whether another process has our client id is not known: %s", error)
            return False
        return newest != self._worker
