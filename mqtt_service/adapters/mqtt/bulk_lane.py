"""A lane for messages that come by the thousand, as pictures' chunks do: everything else goes before them.

They are taken in slices of a millisecond, with a turn for the whole event loop between two. A message is not
acknowledged before it is taken, so what waits here is bounded by the broker's window. Where the taker has no
room, nothing is taken and nothing acknowledged until it has: the broker keeps the rest. That lasts only while
at most half of the window that we ask for waits, since behind a full window the broker holds back HELLOs as
well, and only for some seconds, since devices wait: then what has no room is handed on, and refused, until
something has. A broker whose own window is narrower (MQTT 3.1.1 has no way to ask) holds HELLOs back earlier.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from mqtt_service.adapters.mqtt.messages import InboundMessage

# Seconds.
_SLICE = 0.001
_LOOK_FOR_ROOM_EVERY = 0.05
# A visit waits for chunks for 5 s before it asks for them again.
_LONGEST_WITHOUT_ROOM = 3.0
# A broker that disregards the window, or sends at QoS 0, could fill the memory.
_MOST_BYTES = 16 * 1024 * 1024


class Delivery(Protocol):
    """A message that waits, with whatever its owner needs to acknowledge it."""

    @property
    def message(self) -> InboundMessage:
        """What the device sent."""


D = TypeVar("D", bound=Delivery)


class BulkLane(Generic[D]):
    """Offers deliveries to `take`, in their order; `force` gets one for which there was no room for too long.

    `take` returns False where there is no room; so many as `limit` may wait then.
    """

    def __init__(self, take: Callable[[D], bool], force: Callable[[D], None], limit: int) -> None:
        self._take = take
        self._force = force
        self._limit = limit
        self._waiting: deque[D] = deque()
        self._bytes = 0
        self._without_room_since: float | None = None
        self._next_turn: asyncio.Handle | None = None

    @property
    def oldest(self) -> D | None:
        """The delivery that has waited for longest."""
        return self._waiting[0] if self._waiting else None

    def add(self, delivery: D) -> None:
        """Have this taken in its turn."""
        self._waiting.append(delivery)
        self._bytes += len(delivery.message.payload)
        if self._bytes > _MOST_BYTES:
            self._take_oldest()
        if self._next_turn is None and self._waiting:
            self._next_turn = asyncio.get_running_loop().call_soon(self._work_off)

    def keep(self, wanted: Callable[[D], bool]) -> None:
        """Forget the others: the broker delivers them again."""
        self._waiting = deque(delivery for delivery in self._waiting if wanted(delivery))
        self._bytes = sum(len(delivery.message.payload) for delivery in self._waiting)
        # What is delivered again waits anew; else its oldest would be refused at once.
        self._without_room_since = None

    def _work_off(self) -> None:
        self._next_turn = None
        ends_at = time.monotonic() + _SLICE
        while self._waiting:
            if not self._take_oldest():
                self._next_turn = asyncio.get_running_loop().call_later(_LOOK_FOR_ROOM_EVERY, self._work_off)
                return
            if time.monotonic() >= ends_at:
                break
        if self._waiting:
            self._next_turn = asyncio.get_running_loop().call_soon(self._work_off)

    def _take_oldest(self) -> bool:
        """Take one; False where there is no room, and it can still wait."""
        oldest = self._waiting[0]
        if self._take(oldest):
            self._without_room_since = None
        elif self._can_wait():
            return False
        else:
            self._force(oldest)
        self._waiting.popleft()
        self._bytes -= len(oldest.message.payload)
        return True

    def _can_wait(self) -> bool:
        now = time.monotonic()
        since = self._without_room_since = self._without_room_since or now
        few = len(self._waiting) <= self._limit and self._bytes <= _MOST_BYTES
        return few and now - since < _LONGEST_WITHOUT_ROOM
