"""The order in which one connection's messages are acknowledged: that in which they came."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class AckPlace:
    """A message's place in the order of acknowledgements; `mid` is its packet id."""

    mid: int
    handled: bool = False


class AckOrder:
    """Sends one connection's PUBACKs in the order in which the messages came (MQTT 5, section 4.6).

    `send` gets the packet ids of all that can be acknowledged by then, when `soon` calls back: the event
    loop's `call_soon`, so that one packet of the network carries many.
    """

    def __init__(
        self, send: Callable[[list[int]], object], soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._send = send
        self._soon = soon
        self._places: deque[AckPlace] = deque()
        self._flush_due = False

    def enter(self, mid: int) -> AckPlace:
        """Take the next place, for a message that just came."""
        place = AckPlace(mid)
        self._places.append(place)
        return place

    def handled(self, place: AckPlace) -> None:
        """Acknowledge this message as soon as all before it are."""
        place.handled = True
        if not self._flush_due and self._places[0].handled:
            self._flush_due = True
            self._soon(self.flush)

    def flush(self) -> None:
        """Acknowledge now what can be."""
        self._flush_due = False
        mids = []
        while self._places and self._places[0].handled:
            mids.append(self._places.popleft().mid)
        self._send(mids)
