"""Inbound messages: handled first, acknowledged to the broker after that.

Each is handled in a task of its own, started in the order of arrival.
One that was handled, and whose acknowledgement did not reach the broker, comes again with the same packet id
and bytes: it is acknowledged and not handled twice. At QoS 0 a message waits like any other.
A handler that raises gets the message again after a pause, without end for RetryableError. Anything else is a
fault of the code: after some attempts the message is given up with an error in the log, since a message that
can never be handled would otherwise take a place in the broker's window for ever.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from mqtt_service.adapters.mqtt.options import Handler, InboundMessage
from mqtt_service.errors import RetryableError

log = logging.getLogger("mqtt_service.mqtt")

_ATTEMPTS = 3
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_MOST_WAITING = 20


@dataclass(slots=True)
class _Place:
    """A message's place in the order of acknowledgements."""

    mid: int
    handled: bool = False


class AckOrder:
    """Sends one connection's PUBACKs in the order in which the messages came (MQTT 5, section 4.6)."""

    def __init__(self, send: Callable[[int], object]) -> None:
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


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A message on its way; `order` and `place` are None at QoS 0, which nobody acknowledges."""

    message: InboundMessage
    order: AckOrder | None
    place: _Place | None

    def acknowledge(self) -> None:
        if self.order is not None and self.place is not None:
            self.order.handled(self.place)


class Inbound:
    """Hands messages to `handler`, at most `limit` of them at a time.

    The broker is asked to send no more than `limit` unacknowledged ones; Mosquitto 2.0 does all the same,
    so more wait here in their order, up to `_MOST_WAITING` times as many. `session_began` is the monotonic
    time at which the broker's session did, None where it was there before this process. What was handled is
    known for it for `remembered` seconds: an acknowledgement older than that has reached the broker, or the
    connection would have ended, and then the same packet id is another message.
    """

    def __init__(
        self, handler: Handler, limit: int, sleep: Callable[[float], Awaitable[None]], *, remembered: float
    ) -> None:
        self._handler = handler
        self._limit = limit
        self._sleep = sleep
        self._tasks: dict[asyncio.Task[None], _Delivery] = {}
        self._waiting: deque[_Delivery] = deque()
        self.session_began: float | None = None
        self._remembered = remembered
        # By packet id, the message that was last handled under it, and when: at most 65,535 pairs of numbers.
        self._handled: dict[int, tuple[int, float]] = {}

    def take(self, message: InboundMessage, mid: int, order: AckOrder) -> bool:
        """Have a message handled; False if there is no room for it."""
        if message.qos and message.duplicate and self._was_handled(message, mid):
            order.handled(order.enter(mid))
            return True
        if len(self._waiting) >= _MOST_WAITING * self._limit:
            return False
        if message.qos:
            self._handled.pop(mid, None)
            self._waiting.append(_Delivery(message, order, order.enter(mid)))
        else:
            self._waiting.append(_Delivery(message, None, None))
        self._start_waiting()
        return True

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest message that is not handled has waited; 0 where none does."""
        now = time.monotonic()
        deliveries = [*self._tasks.values(), *islice(self._waiting, 1)]
        return max((now - delivery.message.heard_at for delivery in deliveries), default=0.0)

    def _was_handled(self, message: InboundMessage, mid: int) -> bool:
        """Whether this is what was handled under the same packet id a moment ago."""
        fingerprint, when = self._handled.get(mid, (None, 0.0))
        return fingerprint == _fingerprint(message) and time.monotonic() - when < self._remembered

    def begin_session(self) -> None:
        """The broker begins a session, and with it the packet ids anew."""
        self.session_began = time.monotonic()
        self._handled.clear()

    def forget(self, order: AckOrder) -> None:
        """Stop handling what came over a connection that is gone: the broker delivers it again."""
        self._waiting = deque(delivery for delivery in self._waiting if delivery.order is not order)
        for task in [task for task, delivery in self._tasks.items() if delivery.order is order]:
            task.cancel()

    async def drained(self, patience: float) -> None:
        """Wait until the handlers have returned, at most `patience` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))

    def _start_waiting(self) -> None:
        while self._waiting and len(self._tasks) < self._limit:
            self._start(self._waiting.popleft())

    def _start(self, delivery: _Delivery) -> None:
        task = asyncio.create_task(self._deliver(delivery.message))
        self._tasks[task] = delivery
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        delivery = self._tasks.pop(task)
        self._start_waiting()
        if not task.cancelled():
            task.result()
            if delivery.place is not None:
                self._handled[delivery.place.mid] = (_fingerprint(delivery.message), time.monotonic())
            delivery.acknowledge()

    async def _deliver(self, message: InboundMessage) -> None:
        attempt = 1
        while not await self._try(message, attempt):
            await self._sleep(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
            attempt += 1

    async def _try(self, message: InboundMessage, attempt: int) -> bool:
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


def _fingerprint(message: InboundMessage) -> int:
    return hash((message.topic, message.payload))
