"""Messages that were used though they are no strict JSON: counted, and logged once a device and kind."""

import logging
from collections import OrderedDict
from collections.abc import Iterable

from mqtt_service.log import context
from mqtt_service.metrics import REPAIRED_MESSAGES
from mqtt_service.protocol.topics import Channel

log = logging.getLogger(__name__)

_MOST_REMEMBERED = 1_000


class Repairs:
    """Tells of the repairs of one channel; of the devices and kinds it remembers the most recent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()

    def report(self, device: str, kinds: Iterable[str]) -> None:
        """Count these, and log those that were not logged of this device before."""
        new = []
        for kind in sorted(kinds):
            REPAIRED_MESSAGES.labels(self._channel, kind).inc()
            if (device, kind) in self._said:
                self._said.move_to_end((device, kind))
                continue
            new.append(kind)
            self._said[device, kind] = None
            if len(self._said) > _MOST_REMEMBERED:
                self._said.popitem(last=False)
        if new:
            log.warning(
                "[MQTT] A message on …/%s is not strict JSON and was used all the same: %s",
                self._channel,
                ", ".join(new),
                extra=context(device=device),
            )
