"""Detects a Realtime connection that is up and delivers nothing, from what the poll finds.

The channels themselves do not show it: they can be joined, answer heartbeats, and deliver no event. But a
command that the queue claims for the first time was inserted a moment ago, and whatever inserts commands is
announced by an event. So where the queue finds new commands and no event has come since, none are delivered.
One event shows that they are again. While no command is inserted, nothing is concluded.
"""

# An event this late, in seconds, still counts: the hosted service lags under load.
_LATE = 10.0
# Changes in the first moments of a subscription can be missing.
_GRACE = 5.0
# Commands that were scheduled for later than this, in seconds, are not announced (`…_doorbell.sql`).
_ANNOUNCED_AHEAD = 3600.0
# One lost event can be an accident.
_ENOUGH = 2


class MissedEvents:
    """Times are seconds on one monotonic clock; `broken` stays true until an event is received."""

    def __init__(self) -> None:
        self.broken = False
        self._joined_at: float | None = None
        self._last_event = float("-inf")
        self._unannounced: list[float] = []

    def joined(self, now: float) -> None:
        """The subscription works from now on."""
        self._joined_at = now
        self._unannounced.clear()

    def left(self) -> None:
        """There is no subscription now, so no event is expected."""
        self._joined_at = None
        self._unannounced.clear()

    def event_received(self, now: float) -> bool:
        """Note an event; True if the channel was `broken` until now."""
        was_broken = self.broken
        self._last_event = now
        self._unannounced.clear()
        self.broken = False
        return was_broken

    def command_found(self, inserted_at: float, now: float) -> None:
        """The queue found a command that was inserted then, or a little later."""
        expects_event = self._joined_at is not None and inserted_at > max(
            self._joined_at + _GRACE, self._last_event, now - _ANNOUNCED_AHEAD
        )
        if expects_event and len(self._unannounced) < _ENOUGH:
            self._unannounced.append(inserted_at)

    def newly_broken(self, now: float) -> bool:
        """True once, when enough commands were found whose events should have come; then it is `broken`."""
        newly = sum(inserted_at + _LATE <= now for inserted_at in self._unannounced) >= _ENOUGH
        if newly:
            self._unannounced.clear()
            self.broken = True
        return newly
