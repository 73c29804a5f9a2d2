"""What a device sent, as the link hands it to its handler."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message from the broker; `duplicate`: the broker may have delivered it before (MQTT's DUP flag).

    A repeat has the same `packet_id`. It is None at QoS 0, and where it says little: brokers that use the
    lowest free number give one message after the other the same one, while a number above `max_inbound` shows
    that the broker counts on. In a herd such a broker gives higher ones as well; to be taken for a repeat, an
    answer would need the same number and the same words within an hour. `received_at` is monotonic.
    """

    topic: str
    payload: bytes
    qos: int
    duplicate: bool
    packet_id: int | None = None
    received_at: float = field(default_factory=time.monotonic, compare=False)


Handler = Callable[[InboundMessage], Awaitable[None]]


class AtOnce(Enum):
    """What came of a message of the bulk lane."""

    HANDLED = auto()
    TO_HANDLER = auto()  # it needs something to wait for
    NO_ROOM = auto()  # now; offer it again


# Handles a message of the bulk lane where that needs no waiting.
HandlerAtOnce = Callable[[InboundMessage], AtOnce]


def is_bulk(topic: str) -> bool:
    """Whether messages of this topic come by the thousand, so that all others go before them."""
    return topic.endswith("/data")
