"""Inbound messages: handled first, acknowledged to the broker after that.

Each is handled in a task of its own, started in the order of arrival.
A handler that raises gets the message again after a pause, without end for RetryableError. Anything else is a
fault of the code: after some attempts the message is given up with an error in the log, since a message that
can never be handled would otherwise take a place in the broker's window for ever.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mqtt_service.adapters.mqtt_options import Handler, InboundMessage
from mqtt_service.errors import RetryableError

log = logging.getLogger("mqtt_service.mqtt")

_ATTEMPTS = 3
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclass(slots=True)
class _Place:
    """A message's place in the order of acknowledgements."""

    mid: int
    handled: bool = False


class AckOrder:
    """Sends one connection's PUBACKs in the order in which the messages came (MQTT 5, section 4.6)."""

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._places: deque[_Place] = deque()

    def enter(self, mid: int) -> _Place:
        """Note that a message came which is to be acknowledged."""
        place = _Place(mid)
        self._places.append(place)
        return place

    def handled(self, place: _Place) -> None:
        """Acknowledge this message, as soon as all before it are."""
        place.handled = True
        while self._places and self._places[0].handled:
            self._send(self._places.popleft().mid)


class Inbound:
    """Hands messages to `handler`, at most `limit` of them at a time."""

    def __init__(self, handler: Handler, limit: int, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._handler = handler
        self._limit = limit
        self._sleep = sleep
        self._tasks: dict[asyncio.Task[None], AckOrder | None] = {}

    def take(self, message: InboundMessage, mid: int, order: AckOrder) -> bool:
        """Start handling a message; False if there is no room for it."""
        if len(self._tasks) >= self._limit:
            return False
        place = order.enter(mid) if message.qos else None
        task = asyncio.create_task(self._deliver(message, place, order))
        self._tasks[task] = order if message.qos else None
        task.add_done_callback(self._tasks.pop)
        return True

    def forget(self, order: AckOrder) -> None:
        """Stop handling what came over a connection that is gone: the broker delivers it again."""
        for task in [task for task, of in self._tasks.items() if of is order]:
            task.cancel()

    async def drained(self, patience: float) -> None:
        """Wait until the handlers have returned, at most `patience` seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=patience)

    async def _deliver(self, message: InboundMessage, place: _Place | None, order: AckOrder) -> None:
        attempt = 1
        while not await self._handled(message, attempt):
            await self._sleep(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
            attempt += 1
        if place is not None:
            order.handled(place)

    async def _handled(self, message: InboundMessage, attempt: int) -> bool:
        """Try once; True when the message is done with."""
        try:
            await self._handler(message)
        except RetryableError as error:
            log.warning("[MQTT] The message on %r is kept and tried again: %s", message.topic, error)
            return False
        except Exception:
            what = "tried again" if attempt < _ATTEMPTS else "GIVEN UP and lost; report this as a fault"
            log.exception("[MQTT] Handling a message on %r failed; it is %s", message.topic, what)
            return attempt >= _ATTEMPTS
        return True
