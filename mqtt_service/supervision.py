"""Keeps the parts of a process running, and detects what calls for a new process.

    a part raises                                       it is started again with backoff, a few times in a row
    a callback, task or thread of this package raises   detected here; the process exits
    the work makes no progress, though the loop runs    detected here; the process exits
    the event loop is blocked                           detected by a thread in watchdog.py; the process exits

The process exits in order, with status 1, so that the platform starts a new one. There is no state in which a
process looks alive and does nothing. Whatever is judged by time is counted in checks, one after the other:
a process that was stopped for a while (a suspended machine, say) has done nothing wrong.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from traceback import walk_tb
from types import TracebackType
from typing import Any

from mqtt_service.errors import ServiceError

log = logging.getLogger(__name__)

Part = Callable[[], Coroutine[object, object, None]]

_MAX_FAILURES = 5
# A part that ran this long, in seconds, has recovered from its earlier failures.
_STABLE = 60.0
_PROGRESS_CHECKS = 6
_OURS = __name__.partition(".")[0]


class Failures:
    """Which parts failed lately, and of what."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[str, float]] = {}

    def note(self, part: str, error: Exception) -> None:
        """A part failed just now. Only the kind of error is kept: its message may hold a secret."""
        self._failed[part] = (f"{type(error).__name__}; see the log", asyncio.get_running_loop().time())

    def recent(self) -> dict[str, str]:
        """The errors of the last minute, by part; one that has run for longer since then has recovered."""
        oldest = asyncio.get_running_loop().time() - _STABLE
        return {part: error for part, (error, when) in self._failed.items() if when > oldest}


async def keep_running(
    name: str, part: Part, failures: Failures, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Run a part for ever, starting it again when it fails; raise once it failed five times in a row.

    A part that returns is finished. `sleep` waits the seconds of the backoff.
    """
    loop = asyncio.get_running_loop()
    in_a_row = 0
    while True:
        started = loop.time()
        try:
            await part()
        except Exception as error:
            failures.note(name, error)
            in_a_row = 1 if loop.time() - started > _STABLE else in_a_row + 1
            if in_a_row >= _MAX_FAILURES:
                log.exception("[SERVICE] The %s keeps failing", name)
                raise
            delay = 2.0 ** (in_a_row - 1)
            log.exception("[SERVICE] The %s failed, next start in %.0f s", name, delay)
            await sleep(delay)
        else:
            log.info("[SERVICE] The %s ended", name)
            return


async def wait_for_unhandled_error() -> None:
    """Return, with the error in the log, once code of this package has raised where nothing handles it."""
    loop = asyncio.get_running_loop()
    raised = asyncio.Event()

    def on_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, ServiceError) or not _is_ours(error.__traceback__):
            # A library's own, or one that we raised on purpose for a caller that is gone: a line in the log.
            loop.default_exception_handler(context)
            return
        log.error("[SERVICE] %s", context["message"], exc_info=error)
        raised.set()

    def on_thread(ended: threading.ExceptHookArgs) -> None:
        name = ended.thread.name if ended.thread else "?"
        error = (ended.exc_type, ended.exc_value or ended.exc_type(), ended.exc_traceback)
        log.error("[SERVICE] The thread %s failed", name, exc_info=error)
        loop.call_soon_threadsafe(raised.set)

    before = threading.excepthook
    loop.set_exception_handler(on_loop)
    threading.excepthook = on_thread
    try:
        await raised.wait()
    finally:
        loop.set_exception_handler(None)
        threading.excepthook = before


def _is_ours(trace: TracebackType | None) -> bool:
    names = (str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(trace))
    return any(name.partition(".")[0] == _OURS for name in names)


async def wait_until_stalled(what: str, progress: Callable[[], object], seconds: float) -> None:
    """Return, with a line in the log, once `progress` of `what` has returned the same for so many seconds."""
    last, unchanged = progress(), 0
    while unchanged < _PROGRESS_CHECKS:
        await asyncio.sleep(seconds / _PROGRESS_CHECKS)
        last, before = progress(), last
        unchanged = unchanged + 1 if last == before else 0
    log.error("[SERVICE] %s has made no progress for %.0f s", what, seconds)
