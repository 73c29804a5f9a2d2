"""Ends the process from a thread, where the event loop cannot: it is blocked, or the shutdown does not end.

What is unsettled then comes back by its lease.
"""

import asyncio
import logging
import os
import sys
import threading
from contextlib import suppress

log = logging.getLogger(__name__)

_CHECK_INTERVAL = 1.0
_MAX_MISSED_CHECKS = 20
_LOG_TIMEOUT = 1.0
_EXITING = "Exiting with status 1, so that the platform starts a new process"


class LoopWatchdog:
    """A thread that ends the process when the event loop has been blocked for about 20 s."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._loop_ran = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop watchdog", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        missed = 0
        self._ask()
        while not self._stopped.wait(_CHECK_INTERVAL):
            if self._loop_ran.is_set():
                missed = 0
                self._ask()
            else:
                missed += 1
            if missed >= _MAX_MISSED_CHECKS:
                exit_now(1, f"{_EXITING}: the event loop is blocked in {_place_of_main_thread()}")

    def _ask(self) -> None:
        self._loop_ran.clear()
        with suppress(RuntimeError):  # the loop is closed: the process is exiting
            self._loop.call_soon_threadsafe(self._loop_ran.set)


def _place_of_main_thread() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented despite its name
    if frame is None:
        return "a place that is not known"
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}, {frame.f_code.co_name}"


def log_exit(why: str) -> None:
    """The line about a process that exits because of a fault of its own."""
    log.error("[SERVICE] %s: %s", _EXITING, why)


def exit_after(seconds: float, status: int) -> None:
    """End the process after so many seconds, unless it has ended by then."""
    why = "The shutdown takes too long; exiting without waiting for the rest"
    timer = threading.Timer(seconds, exit_now, (status, why))
    timer.daemon = True
    timer.start()


def exit_now(status: int, why: str) -> None:
    """End the process this moment, after one second for the log at most: it may be what blocks."""

    def write() -> None:
        log.error("[SERVICE] %s", why)
        logging.shutdown()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(_LOG_TIMEOUT)
    os._exit(status)
