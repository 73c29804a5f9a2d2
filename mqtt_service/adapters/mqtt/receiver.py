"""Received messages: each is handled first, and acknowledged to the broker after that.

Each is handled in a task of its own; the tasks start in the order of arrival. What devices send on `…/data`
has its own lane (bulk_lane.py), behind all else: most of it is chunks, which need no waiting and get no task.
A message that was handled, but whose acknowledgement did not reach the broker, is delivered again with the
same packet id and bytes: it is acknowledged and not handled twice. At QoS 0 there is no acknowledgement.
If the handler raises RetryableError, it gets the message again after a pause, for as long as it takes. Any
other exception is a fault of the code: after some attempts the message is given up with an error in the log,
since a message that can never be handled would block a place in the broker's window for ever.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from mqtt_service.adapters.mqtt.ack_order import AckOrder, AckPlace
from mqtt_service.adapters.mqtt.bulk_lane import BulkLane
from mqtt_service.adapters.mqtt.messages import AtOnce, Handler, HandlerAtOnce, InboundMessage, is_bulk
from mqtt_service.errors import RetryableError

log = logging.getLogger("mqtt_service.mqtt")

_MAX_ATTEMPTS = 3
_FIRST_PAUSE = 0.5
_MAX_PAUSE = 30.0
_WAITING_PER_HANDLED = 20


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A message that is being handled or waits; `order` and `place` are None at QoS 0."""

    message: InboundMessage
    order: AckOrder | None
    place: AckPlace | None

    def acknowledge(self) -> None:
        if self.order is not None and self.place is not None:
            self.order.handled(self.place)


class Receiver:
    """Hands messages to `handler`, at most `limit` of them at a time, and those in bulk to `at_once` first.

    The broker is asked to send no more than `window` unacknowledged messages, which Mosquitto 2.0.11
    disregards. Up to `_WAITING_PER_HANDLED` times as many as are handled wait here, in their order.

    `session_started_at` is the monotonic time at which the broker's session began, None where it is older
    than this process. A handled message is remembered for `remember_for` seconds: an acknowledgement older
    than that has reached the broker, or the connection would have ended; the same packet id then names
    another message.
    """

    def __init__(
        self,
        handler: Handler,
        limit: int,
        sleep: Callable[[float], Awaitable[None]],
        *,
        remember_for: float,
        at_once: HandlerAtOnce = lambda _: AtOnce.TO_HANDLER,
        window: int = 5_000,
    ) -> None:
        self._handler = handler
        self._at_once = at_once
        self._limit = limit
        self._sleep = sleep
        self._remember_for = remember_for
        self.session_started_at: float | None = None
        self._tasks: dict[asyncio.Task[None], _Delivery] = {}
        self._waiting: deque[_Delivery] = deque()
        self._bulk = BulkLane(self._take_at_once, self._start_or_wait, window // 2)
        # By packet id: the message last handled under it, and when; at most 65,535 pairs of numbers.
        self._handled: dict[int, tuple[int, float]] = {}

    def receive(self, message: InboundMessage, mid: int, order: AckOrder) -> bool:
        """Have a message handled; False if there is no room for it."""
        if message.qos and message.duplicate and self._was_handled(message, mid):
            order.handled(order.enter(mid))
            return True
        if is_bulk(message.topic):
            self._bulk.add(self._enter(message, mid, order))
            return True
        if not self._has_room():
            return False
        self._start_or_wait(self._enter(message, mid, order))
        return True

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest message that is not handled has waited; 0 where there is none."""
        now = time.monotonic()
        deliveries = [*self._tasks.values(), *islice(self._waiting, 1)]
        if self._bulk.oldest is not None:
            deliveries.append(self._bulk.oldest)
        return max((now - delivery.message.received_at for delivery in deliveries), default=0.0)

    def _enter(self, message: InboundMessage, mid: int, order: AckOrder) -> _Delivery:
        """Take a place in the order of acknowledgements."""
        if not message.qos:
            return _Delivery(message, None, None)
        self._handled.pop(mid, None)
        return _Delivery(message, order, order.enter(mid))

    def _take_at_once(self, delivery: _Delivery) -> bool:
        """Handle a message of the bulk lane, or have it handled; False where neither can be done now."""
        outcome = self._try_at_once(delivery.message)
        if outcome is AtOnce.HANDLED:
            delivery.acknowledge()
        elif outcome is AtOnce.TO_HANDLER and self._has_room():
            self._start_or_wait(delivery)
        else:
            return False
        return True

    def _try_at_once(self, message: InboundMessage) -> AtOnce:
        try:
            return self._at_once(message)
        except Exception:
            log.exception("[MQTT] Handling a message on %r at once failed; it is tried again", message.topic)
            return AtOnce.TO_HANDLER

    def _was_handled(self, message: InboundMessage, mid: int) -> bool:
        """Whether this message was handled under the same packet id a moment ago."""
        fingerprint, when = self._handled.get(mid, (None, 0.0))
        return fingerprint == _fingerprint(message) and time.monotonic() - when < self._remember_for

    def start_session(self) -> None:
        """The broker started a new session, in which packet ids start over."""
        self.session_started_at = time.monotonic()
        self._handled.clear()

    def forget(self, order: AckOrder) -> None:
        """Stop handling the messages of a connection that has ended: the broker delivers them again."""
        self._bulk.keep(lambda delivery: delivery.order is not order)
        self._waiting = deque(delivery for delivery in self._waiting if delivery.order is not order)
        for task in [task for task, delivery in self._tasks.items() if delivery.order is order]:
            task.cancel()

    async def drained(self, timeout: float) -> None:  # noqa: ASYNC109 - it does not cancel, it gives up waiting
        """Wait until the handlers have returned, at most `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))

    def _has_room(self) -> bool:
        return len(self._waiting) < _WAITING_PER_HANDLED * self._limit

    def _start_or_wait(self, delivery: _Delivery) -> None:
        self._waiting.append(delivery)
        self._start_waiting()

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
            await self._sleep(min(_FIRST_PAUSE * 2 ** (attempt - 1), _MAX_PAUSE))
            attempt += 1

    async def _try(self, message: InboundMessage, attempt: int) -> bool:
        """Try once; True when the message was handled or given up."""
        try:
            await self._handler(message)
        except RetryableError as error:
            log.warning("[MQTT] The message on %r is kept and tried again: %s", message.topic, error)
            return False
        except Exception:
            what = "tried again" if attempt < _MAX_ATTEMPTS else "GIVEN UP and lost; report this as a fault"
            log.exception("[MQTT] Handling a message on %r failed; it is %s", message.topic, what)
            return attempt >= _MAX_ATTEMPTS
        return True


def _fingerprint(message: InboundMessage) -> int:
    return hash((message.topic, message.payload))
