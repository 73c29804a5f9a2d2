"""The way from paho's thread to the event loop."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from mqtt_service.errors import ServiceError

log = logging.getLogger("mqtt_service.mqtt")


class LoopBridge:
    """Runs calls from another thread on the event loop, in order, many in one wake-up.

    `on_error` gets what a call raises; the calls after it run nevertheless.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_error = on_error
        self._calls: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def __call__(self, call: Callable[[], None]) -> None:
        """Have this run soon; nothing happens once the loop is closed."""
        self._calls.append(call)
        # `_run` takes this back before it looks at the calls: so it sees this one, or is scheduled again.
        if not self._scheduled:
            self._scheduled = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._scheduled = False
        for _ in range(len(self._calls)):
            try:
                self._calls.popleft()()
            except ServiceError as error:
                self._on_error(error)
            except Exception as error:
                log.exception("[MQTT] A packet of the broker could not be handled; connecting again")
                self._on_error(error)
