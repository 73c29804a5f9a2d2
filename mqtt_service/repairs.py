"""Messages that were used though they are no strict JSON: counted, and logged once a device and kind."""

import logging
from collections.abc import Iterable

from mqtt_service.log import SaidBefore, context
from mqtt_service.metrics import REPAIRED_MESSAGES
from mqtt_service.protocol.topics import Channel

log = logging.getLogger(__name__)


class Repairs:
    """Tells of the repairs of one channel; of the devices and kinds it remembers the most recent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._said = SaidBefore()

    def report(self, device: str, kinds: Iterable[str]) -> None:
        """Count these, and log those that were not logged of this device before."""
        kinds = sorted(kinds)
        for kind in kinds:
            REPAIRED_MESSAGES.labels(self._channel, kind).inc()
        new = [kind for kind in kinds if not self._said.note(device, kind)]
        if new:
            log.warning(
                "[MQTT] A message on …/%s is not strict JSON and was used all the same: %s",
                self._channel,
                ", ".join(new),
                extra=context(device=device),
            )
