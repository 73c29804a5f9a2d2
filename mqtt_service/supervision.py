"""Keeps the parts of a process running, and ends the process where that cannot be done.

    a part raises                              it is started again with backoff; in the end the process leaves
    a callback, task or thread of ours raises  the process leaves
    the event loop stands still                a thread of its own sees it, and ends the process
    the loop turns, but the work does not      the process leaves

To leave is to stop in order, with status 1, so that the platform starts a fresh process. There is no state in
which a process looks alive and does nothing. Whatever is judged by time is counted in looks, one after the
other, since a process that was stopped for a while (a suspended machine, say) has done nothing wrong.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from traceback import walk_tb
from types import TracebackType
from typing import Any

from mqtt_service.errors import ServiceError

log = logging.getLogger(__name__)

Part = Callable[[], Coroutine[object, object, None]]

_RESTARTS = 5
# A part that ran this long, in seconds, has recovered from what it failed of before.
_STABLE = 60.0
_LOOK = 1.0
_MOST_LOOKS_WITHOUT_A_TURN = 20
_PROGRESS_LOOKS = 6
# For the last line of a process whose log may be what it hangs in.
_LAST_WORDS = 1.0
_LEAVING = "Leaving with status 1, so that a fresh process starts"
_OURS = __name__.partition(".")[0]


class Failures:
    """Which parts failed lately, and of what."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[str, float]] = {}

    def note(self, part: str, error: Exception) -> None:
        """A part failed just now. Only the kind of error is kept: what it says may hold a secret."""
        self._failed[part] = (f"{type(error).__name__}; see the log", asyncio.get_running_loop().time())

    def recent(self) -> dict[str, str]:
        """The errors, by part; a part that has run for a minute since then has recovered."""
        oldest = asyncio.get_running_loop().time() - _STABLE
        return {part: error for part, (error, when) in self._failed.items() if when > oldest}


async def kept_running(name: str, part: Part, failed: Failures) -> None:
    """Run a part for ever; when it has failed `_RESTARTS` times in a row, give up by raising.

    A part that ends by itself is done with.
    """
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        started = loop.time()
        try:
            await part()
        except Exception as error:
            failed.note(name, error)
            failures = 1 if loop.time() - started > _STABLE else failures + 1
            if failures >= _RESTARTS:
                log.exception("[SERVICE] The %s keeps failing", name)
                raise
            delay = 2.0 ** (failures - 1)
            log.exception("[SERVICE] The %s failed, next start in %.0f s", name, delay)
            await asyncio.sleep(delay)
        else:
            log.info("[SERVICE] The %s ended", name)
            return


def tell_leaving(why: str) -> None:
    """The line about a process that leaves over a fault of its own."""
    log.error("[SERVICE] %s: %s", _LEAVING, why)


async def first_fault() -> None:
    """Return, with the reason in the log, once code of ours has raised where nobody else sees it."""
    loop = asyncio.get_running_loop()
    faulty = asyncio.Event()

    def on_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, ServiceError) or not _is_ours(error.__traceback__):
            # A library's own, or one that we raised on purpose for somebody who was gone: a line in the log.
            loop.default_exception_handler(context)
            return
        log.error("[SERVICE] %s", context["message"], exc_info=error)
        faulty.set()

    def on_thread(ended: threading.ExceptHookArgs) -> None:
        name = ended.thread.name if ended.thread else "?"
        error = (ended.exc_type, ended.exc_value or ended.exc_type(), ended.exc_traceback)
        log.error("[SERVICE] The thread %s failed", name, exc_info=error)
        loop.call_soon_threadsafe(faulty.set)

    before = threading.excepthook
    loop.set_exception_handler(on_loop)
    threading.excepthook = on_thread
    try:
        await faulty.wait()
    finally:
        loop.set_exception_handler(None)
        threading.excepthook = before


def _is_ours(trace: TracebackType | None) -> bool:
    names = (str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(trace))
    return any(name.partition(".")[0] == _OURS for name in names)


async def no_progress(what: str, progress: Callable[[], object], longest: float) -> None:
    """Return, with a line in the log, once `progress` of `what` has said the same for `longest` seconds."""
    said, looks = progress(), 0
    while looks < _PROGRESS_LOOKS:
        await asyncio.sleep(longest / _PROGRESS_LOOKS)
        said, before = progress(), said
        looks = looks + 1 if said == before else 0
    log.error("[SERVICE] %s has not moved for %.0f s", what, longest)


class LoopWatch:
    """A thread that ends the process when the event loop has stood still for about 20 s."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._turned = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        looks = 0
        self._ask()
        while not self._ended.wait(_LOOK):
            if self._turned.is_set():
                looks = 0
                self._ask()
            else:
                looks += 1
            if looks >= _MOST_LOOKS_WITHOUT_A_TURN:
                leave_now(1, f"{_LEAVING}: the event loop stands still in {_place_of_main_thread()}")

    def _ask(self) -> None:
        self._turned.clear()
        with suppress(RuntimeError):  # the loop is closed: the process is leaving
            self._loop.call_soon_threadsafe(self._turned.set)


def _place_of_main_thread() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented all the same
    if frame is None:
        return "a place that is not known"
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}, {frame.f_code.co_name}"


def leave_at_last(status: int, seconds: float) -> None:
    """End the process in any case after so long; what is unsettled then comes back by its lease."""
    timer = threading.Timer(seconds, leave_now, (status, "Something does not end; leaving without it"))
    timer.daemon = True
    timer.start()


def leave_now(status: int, why: str) -> None:
    """End the process this moment. The log gets a second to take the reason: it may be what hangs."""

    def say() -> None:
        log.error("[SERVICE] %s", why)
        logging.shutdown()

    words = threading.Thread(target=say, daemon=True)
    words.start()
    words.join(_LAST_WORDS)
    os._exit(status)
