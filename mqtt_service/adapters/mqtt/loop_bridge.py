"""The way from paho's thread to the event loop."""

import asyncio
import logging
import threading
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
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        """Have this run soon; nothing happens once the loop is closed."""
        with self._lock:
            self._calls.append(call)
            scheduled = len(self._calls) > 1
        if not scheduled:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except ServiceError as error:
                self._on_error(error)
            except Exception as error:
                log.exception("[MQTT] A packet of the broker could not be handled; connecting again")
                self._on_error(error)
