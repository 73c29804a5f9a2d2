"""Whether Realtime still announces what is inserted, told from what the poll finds.

A channel can be joined, answer heartbeats, and deliver nothing. Nobody can see that from the channel. But a
command that the queue claims for the first time was inserted a moment ago, and an insert rings: where the
queue finds commands and nothing has rung since, the doorbell is dead, whatever it says of itself. One event
shows that it lives. While no command is inserted, nothing is known and nothing is said.
"""

# An event this late, in seconds, still counts: the hosted service lags under load.
_LATE = 10.0
# Changes in the first moments of a subscription can be missing.
_GRACE = 5.0
# One lost event can be an accident.
_ENOUGH = 2


class MissedEvents:
    """Times are seconds on one monotonic clock; `broken` stays until something rings."""

    def __init__(self) -> None:
        self.broken = False
        self._joined: float | None = None
        self._rang = float("-inf")
        self._unheard: list[float] = []

    def joined(self, now: float) -> None:
        """The subscription works from now on."""
        self._joined = now
        self._unheard.clear()

    def left(self) -> None:
        """The subscription is gone, so nothing is expected of it."""
        self._joined = None
        self._unheard.clear()

    def rang(self, now: float) -> bool:
        """Note an event; True if this ends a silence."""
        ended = self.broken
        self._rang = now
        self._unheard.clear()
        self.broken = False
        return ended

    def found(self, inserted: float) -> None:
        """Note that the queue found a command that was inserted then, or a little later."""
        expected = self._joined is not None and inserted > max(self._joined + _GRACE, self._rang)
        if expected and len(self._unheard) < _ENOUGH:
            self._unheard.append(inserted)

    def begins(self, now: float) -> bool:
        """Whether enough was found that should have rung by now; from then on it is `broken`."""
        begins = sum(inserted + _LATE <= now for inserted in self._unheard) >= _ENOUGH
        if begins:
            self._unheard.clear()
            self.broken = True
        return begins
