"""What the project's tables do not take of what devices say: logged once a device and reason, and counted."""

import logging
from collections.abc import Iterable

from mqtt_service.log import SaidBefore, context
from mqtt_service.metrics import REFUSED_WRITES

log = logging.getLogger(__name__)


class Refusals:
    """Logs what is refused of one `kind` of write; of the reasons it remembers the most recent."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._said = SaidBefore()

    def report(self, device: str, reasons: Iterable[str]) -> None:
        """Count these, and log those that were not logged of this device before."""
        for reason in reasons:
            REFUSED_WRITES.labels(self._kind).inc()
            if not self._said.note(device, reason):
                log.warning(
                    "[DATABASE] Not recorded (%s): %s", self._kind, reason, extra=context(device=device)
                )
