"""Looks each minute for what a person should be told, and tells it once.

The database decides what is new and what is over, and which worker tells it. While the database itself is
away nothing can decide that: the worker that looked last tells it, and the others only when that lasts, since
they cannot know whether it did.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from mqtt_service.adapters.supabase.alerts import Alert, Found, Watched
from mqtt_service.errors import ServiceError
from mqtt_service.metrics import ALERTS

log = logging.getLogger(__name__)

_EVERY = 60.0
# What is away for less than this comes back by itself.
_AWAY = 180.0
# Before that, the worker that looked last has told it, if it runs and has not lost its network alone.
_AWAY_FOR_OTHERS = 900.0


class Gateway(Protocol):
    """The database's part (`adapters.supabase.alerts`)."""

    async def watch(self, found: Sequence[Found]) -> Watched:
        """Look, and return what is to be told."""

    async def note_told(self, alerts: Sequence[Alert]) -> None:
        """Note that these were told."""


class Receiver(Protocol):
    """Who is told (`webhook`)."""

    async def send(self, alerts: Sequence[Alert], worker: str) -> None:
        """Tell; raises ServiceError where that fails."""


class AlertWatch:
    """Watches until cancelled. `broker_connected` is asked each time; `clock` counts seconds."""

    def __init__(
        self,
        gateway: Gateway,
        receiver: Receiver,
        worker: str,
        broker_connected: Callable[[], bool],
        *,
        clock: Callable[[], float],
        every: float = _EVERY,
    ) -> None:
        self._gateway = gateway
        self._receiver = receiver
        self._worker = worker
        self._broker_connected = broker_connected
        self._clock = clock
        self._every = every
        self._broker_away = _Outage(clock)
        self._database_away = _Outage(clock)
        self._told_of_database: Alert | None = None
        # Whether this worker is the one that looks; one that never reached the database knows of no other.
        self._looks = True

    async def run(self) -> None:
        """Look at once, so that what was found before a restart waits for nobody, and then each minute."""
        while True:
            await self.look()
            await asyncio.sleep(self._every)

    async def look(self) -> None:
        """Look once, and tell what is to be told; what cannot be told now is told at a later look."""
        self._broker_away.note(away=not self._broker_connected())
        found = []
        if (minutes := self._broker_away.minutes()) is not None:
            text = f"{self._worker} has not been connected to the broker for {minutes} minutes"
            found.append(Found("broker", text))
        try:
            watched = await self._gateway.watch(found)
        except ServiceError as error:
            self._database_away.note(away=True)
            await self._tell_of_database(error)
            return
        self._database_away.note(away=False)
        self._looks = watched.held
        await self._tell_that_database_is_back()
        if watched.alerts and await self._tell(watched.alerts):
            try:
                await self._gateway.note_told(watched.alerts)
            except ServiceError as error:
                log.warning("[ALERT] Told, and may be told again: %s", error)

    async def _tell_of_database(self, error: ServiceError) -> None:
        minutes = self._database_away.minutes(_AWAY if self._looks else _AWAY_FOR_OTHERS)
        if minutes is None or self._told_of_database is not None:
            return
        text = f"{self._worker}: Supabase has not answered for {minutes} minutes ({type(error).__name__})"
        alert = Alert("supabase", text, "open", datetime.now(UTC))
        if await self._tell([alert]):
            self._told_of_database = alert

    async def _tell_that_database_is_back(self) -> None:
        told = self._told_of_database
        if told is not None and await self._tell([Alert(told.alert, told.text, "recovered", told.since)]):
            self._told_of_database = None

    async def _tell(self, alerts: Sequence[Alert]) -> bool:
        try:
            await self._receiver.send(alerts, self._worker)
        except ServiceError as error:
            ALERTS.labels("failed").inc()
            log.warning("[ALERT] Not told, next try in %.0f s: %s", self._every, error)
            return False
        ALERTS.labels("told").inc(len(alerts))
        for alert in alerts:
            log.info("[ALERT] Told, %s: %s", alert.state, alert.text)
        return True


class _Outage:
    """Since when something is away."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None

    def note(self, *, away: bool) -> None:
        """It is away now, or it is there."""
        if not away:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    def minutes(self, at_least: float = _AWAY) -> int | None:
        """For how many minutes; None where it is there, or not away for so many seconds."""
        seconds = 0.0 if self._since is None else self._clock() - self._since
        return round(seconds / 60) if seconds >= at_least else None
