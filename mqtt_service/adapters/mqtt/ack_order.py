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
    """Sends one connection's PUBACKs in the order in which the messages came (MQTT 5, section 4.6)."""

    def __init__(self, send: Callable[[int], object]) -> None:
        self._send = send
        self._places: deque[AckPlace] = deque()

    def enter(self, mid: int) -> AckPlace:
        """Take the next place, for a message that just came."""
        place = AckPlace(mid)
        self._places.append(place)
        return place

    def handled(self, place: AckPlace) -> None:
        """Acknowledge this message as soon as all before it are."""
        place.handled = True
        while self._places and self._places[0].handled:
            self._send(self._places.popleft().mid)
