"""What the project's tables do not take of what devices say: logged once a device and reason, and counted."""

import logging
from collections import OrderedDict
from collections.abc import Iterable

from mqtt_service.log import context
from mqtt_service.metrics import REFUSED_WRITES

log = logging.getLogger(__name__)

_MOST_REMEMBERED = 1_000


class Refusals:
    """Logs what is refused of one `kind` of write; of the reasons it remembers the most recent."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()

    def report(self, device: str, reasons: Iterable[str]) -> None:
        """Count these, and log those that were not logged of this device before."""
        for reason in reasons:
            REFUSED_WRITES.labels(self._kind).inc()
            if (device, reason) in self._said:
                self._said.move_to_end((device, reason))
                continue
            self._said[device, reason] = None
            if len(self._said) > _MOST_REMEMBERED:
                self._said.popitem(last=False)
            log.warning("[DATABASE] Not recorded (%s): %s", self._kind, reason, extra=context(device=device))
