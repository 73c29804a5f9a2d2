"""Names for devices' messages, so that the database counts an answer once however often the broker brings it.

ref          names one message to one worker process: repeated calls about it carry the same ref
delivery id  names one message in the broker's session, over all processes that use its client id
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from mqtt_service.adapters.mqtt.messages import InboundMessage

_MAX_CANCELLED = 1000


@dataclass(frozen=True, slots=True)
class _Cancelled:
    """A message whose handling was cancelled; `received_at` is monotonic."""

    ref: str
    received_at: float


class MessageRefs:
    """Gives each message its ref: a new one, or that of a message that was cancelled and is now repeated.

    The broker repeats a message when the connection ended before it was acknowledged; its handling was
    cancelled then, but the write may have been committed. `session_started_at` is the monotonic time at which
    the broker's session began (None: before this process), since a new session repeats nothing of the last.
    """

    def __init__(self, worker: str, session_started_at: Callable[[], float | None], kind: str = "") -> None:
        self._prefix = f"{worker}:{kind}"
        self._session_started_at = session_started_at
        self._numbers = count(1)
        # By topic and payload, which are all that a repeat has in common with the first delivery.
        self._cancelled: OrderedDict[tuple[str, bytes], list[_Cancelled]] = OrderedDict()

    def ref_of(self, message: InboundMessage) -> str:
        """The ref of a message that is to be handled now."""
        repeated = self._take_cancelled(message) if message.duplicate else None
        return repeated or f"{self._prefix}{next(self._numbers)}"

    def cancelled(self, message: InboundMessage, ref: str) -> None:
        """The handling of this message was cancelled: its repeat gets the same ref."""
        key = (message.topic, message.payload)
        self._cancelled.setdefault(key, []).append(_Cancelled(ref, message.received_at))
        if len(self._cancelled) > _MAX_CANCELLED:
            self._cancelled.popitem(last=False)

    def _take_cancelled(self, message: InboundMessage) -> str | None:
        """The oldest ref of such a message in the present session."""
        key, started_at = (message.topic, message.payload), self._session_started_at() or 0.0
        of_session = [each for each in self._cancelled.pop(key, []) if each.received_at >= started_at]
        if len(of_session) > 1:
            self._cancelled[key] = of_session[1:]
        return of_session[0].ref if of_session else None


def delivery_id(worker: str, message: InboundMessage) -> str | None:
    """Client id, packet id and content; None where the packet id says too little (see `InboundMessage`).

    A worker's name is its MQTT client id, a colon, and what tells its processes apart.
    """
    if message.packet_id is None:
        return None
    client_id = worker.rpartition(":")[0]
    digest = hashlib.sha256(message.topic.encode(errors="replace") + b"\0" + message.payload).hexdigest()
    return f"{client_id}#{message.packet_id}#{digest[:16]}"
