"""The doorbell: keeps one connection to Realtime up, which tells of new commands and of devices to welcome.

An event only says "look now": what it announces is found by a query that would have found it anyway. So a
lost event costs latency, and nothing here keeps state about commands or devices.

It connects again whenever a channel leaves the state in which events flow, the socket does not answer
heartbeats (`realtime_session`), or the queue finds commands that no event announced (`missed_events`).
Commands are announced once for a statement, or where that does not work once for a row (`command_bell`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from mqtt_service.adapters.supabase.missed_events import MissedEvents
from mqtt_service.adapters.supabase.realtime_session import Listeners, RealtimeLostError, RealtimeSession
from mqtt_service.backoff import retry_forever
from mqtt_service.metrics import REALTIME_CONNECTIONS

log = logging.getLogger(__name__)

# A subscription that held this long, in seconds, starts the backoff over.
_STABLE = 30.0
_MAX_DELAY = 15.0


@dataclass(frozen=True, slots=True)
class DoorbellStatus:
    """What /health says of Realtime; `since` is when the state last changed (UTC)."""

    connected: bool
    since: datetime
    last_error: str | None = None


class Doorbell:
    """Calls `listeners` for the events of the project's Realtime, on the event loop.

    `ring` asks the database for a ring, see `RingGateway`.
    """

    def __init__(
        self, supabase_url: str, key: str, listeners: Listeners, ring: Callable[[], Awaitable[bool]]
    ) -> None:
        self._url = f"{supabase_url}/realtime/v1"
        self._key = key
        self._listeners = listeners
        self._ring = ring
        self._status = DoorbellStatus(connected=False, since=datetime.now(UTC))
        self._missed = MissedEvents()

    @property
    def status(self) -> DoorbellStatus:
        """The present state."""
        return self._status

    def command_found(self, inserted_at: float) -> None:
        """The queue found a command that was inserted then (the event loop's clock), or a little later."""
        self._missed.command_found(inserted_at, asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Keep one working subscription until cancelled; each loss is one log line and a new one."""
        while True:
            async for attempt in retry_forever(self._log_retry, _MAX_DELAY):
                with attempt:
                    await self._subscribe_and_stay()

    def _log_retry(self, error: BaseException, delay: float) -> None:
        self._set(connected=False, error=str(error))
        log.warning("[REALTIME] %s; commands go on at the pace of the poll, next try in %.1f s", error, delay)

    async def _subscribe_and_stay(self) -> None:
        """Stay until the subscription is lost.

        Raises RealtimeLostError if it did not come about, or did not last, so that backoff applies.
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        session = RealtimeSession(self._url, self._key, self._listeners, self._event_received, self._ring)
        try:
            await session.subscribe(trusted=not self._missed.broken)
            self._missed.joined(clock())
            # A channel that delivered nothing is trusted again at its first event, not because it was joined.
            if not self._missed.broken:
                self._set(connected=True)
            log.info("[REALTIME] ✅ Device provisioning listener active")
            self._listeners.on_joined()
            reason = await session.wait_until_lost(self._missed)
        finally:
            self._missed.left()
            await session.close()
        if clock() - started < _STABLE:
            raise RealtimeLostError(reason)
        self._set(connected=False, error=reason)
        log.warning(
            "[REALTIME] %s; subscribing again, meanwhile commands go on at the pace of the poll", reason
        )

    def _event_received(self) -> None:
        if self._missed.event_received(asyncio.get_running_loop().time()):
            self._set(connected=True)
            log.info("[REALTIME] ✅ Events arrive again")

    def _set(self, *, connected: bool, error: str | None = None) -> None:
        since = datetime.now(UTC) if connected != self._status.connected else self._status.since
        if connected and not self._status.connected:
            REALTIME_CONNECTIONS.inc()
        self._status = DoorbellStatus(connected, since, error)
