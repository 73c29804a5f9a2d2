"""What one connection is publishing: up to a limit is on its way to the broker, the rest waits its turn here.

Runs on the event loop alone, without a task, a lock or a future a message.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mqtt_service.errors import BrokerUnavailableError, OutcomeUnknownError, ServiceError
from mqtt_service.publisher import Done


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message; `done` is called once, with what became of it. `since`: when it was asked for, then sent."""

    topic: str
    payload: bytes
    expiry_seconds: int | None
    done: Done
    since: float = field(default_factory=time.monotonic)


class InFlight:
    """At most `limit` messages wait for their PUBACK at a time; `send` sends one, for its packet id."""

    def __init__(self, limit: int, send: Callable[[Outgoing], int]) -> None:
        self._limit = limit
        self._send = send
        self._by_mid: dict[int, Outgoing] = {}  # the oldest first
        self._waiting: deque[Outgoing] = deque()

    def set_limit(self, limit: int) -> None:
        """The broker named its limit; call it before the first message."""
        self._limit = limit

    @property
    def oldest_sent_at(self) -> float | None:
        """The monotonic time at which the message was sent that has waited longest for its PUBACK."""
        oldest = next(iter(self._by_mid.values()), None)
        return None if oldest is None else oldest.since

    def add(self, message: Outgoing) -> None:
        """Send this message, now or in its turn; raises what `send` does where that is now."""
        if self._waiting or len(self._by_mid) >= self._limit:
            self._waiting.append(message)
        else:
            self._send_now(message)

    def withdraw(self, message: Outgoing) -> bool:
        """Take back a message that waits its turn; False where it does not: it was sent, or has ended."""
        try:
            self._waiting.remove(message)
        except ValueError:
            return False
        return True

    def acknowledged(self, mid: int) -> Outgoing | None:
        """The message whose PUBACK came, if it is one of ours; the next one takes its place."""
        message = self._by_mid.pop(mid, None)
        if message is not None:
            self._send_waiting()
        return message

    def fail_all(self, reason: str) -> None:
        """No PUBACK will come any more: nobody knows what became of what was sent; the rest was not sent."""
        sent, waiting = list(self._by_mid.values()), list(self._waiting)
        self._by_mid.clear()
        self._waiting.clear()
        self._send = _refuse  # and no longer refers to the connection, which can go
        for message in sent:
            message.done(OutcomeUnknownError(reason))
        for message in waiting:
            message.done(BrokerUnavailableError(reason))

    def _send_now(self, message: Outgoing) -> None:
        mid = self._send(message)
        message.since = time.monotonic()
        self._by_mid[mid] = message

    def _send_waiting(self) -> None:
        while self._waiting and len(self._by_mid) < self._limit:
            message = self._waiting.popleft()
            try:
                self._send_now(message)
            except ServiceError as error:
                message.done(error)


def _refuse(_: Outgoing) -> int:
    raise BrokerUnavailableError("the connection has ended")
