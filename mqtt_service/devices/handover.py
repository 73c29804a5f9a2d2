"""Hands inbound messages to an edge function of the project (docs/operations.md, "The edge function").

Messages of one device go one after another, those of several devices side by side; a device whose message is
tried again delays no other. How many messages wait is bounded.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.supabase.edge_function import EdgeFunction
from mqtt_service.backoff import Backoff
from mqtt_service.errors import PermanentError, RemoteProtocolError, RetryableError
from mqtt_service.log import RateLimitedWarning, context
from mqtt_service.metrics import HANDOVER
from mqtt_service.protocol.topics import device_key, parse_topic

log = logging.getLogger(__name__)

Mode = Literal["also", "only"]
Outcome = Literal["taken", "refused", "given_up"]

_CALLS_AT_ONCE = 8
# About a minute with the pauses between them, unless the function asks for longer ones.
_ATTEMPTS = 8


@dataclass(slots=True, eq=False)
class _Entry:
    """A message that waits; `done` is cancelled when its submitter no longer wants it handed over."""

    message: InboundMessage
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Handover:
    """Hands every message submitted to it to `function`, at least once.

    Mode `only`: `submit` returns when the function has taken the message, so that the broker delivers it
    again should this process die; beyond `limit` messages it waits until there is room. Mode `also`: `submit`
    returns at once, and beyond `limit` the newest messages are dropped. A message that the function refuses,
    or does not take in several attempts, is given up.
    """

    def __init__(
        self,
        function: EdgeFunction,
        *,
        mode: Mode,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last_error: str | None = None
        self._function = function
        self._mode = mode
        self._free_places = asyncio.Semaphore(limit)
        self._calls = asyncio.Semaphore(_CALLS_AT_ONCE)
        # The messages of each device that has some; the first is the one being handed over.
        self._waiting: dict[str, deque[_Entry]] = {}
        self._devices: asyncio.Queue[str] = asyncio.Queue()
        self._empty = asyncio.Event()
        self._empty.set()
        self._drop_notice = RateLimitedWarning(log, clock)
        self._retry_notice = RateLimitedWarning(log, clock)
        self._loss_notice = RateLimitedWarning(log, clock)

    @property
    def exclusive(self) -> bool:
        """Whether the function handles these messages instead of the worker, not beside it."""
        return self._mode == "only"

    @property
    def waiting(self) -> int:
        """How many messages the function has not taken yet."""
        return sum(len(entries) for entries in self._waiting.values())

    async def submit(self, message: InboundMessage) -> None:
        """Have a message handed over after the device's earlier ones; the class says when this returns.

        In mode `only`, a message whose caller is cancelled is withdrawn: the broker delivers it again. One
        that is being handed over at that moment goes on.
        """
        if self._mode == "also" and self._free_places.locked():
            HANDOVER.labels("dropped").inc()
            self._drop_notice.write(
                "[EDGE] The buffer (EDGE_BUFFER) is full; new messages do not reach the edge function"
            )
            return
        await self._free_places.acquire()
        device = _device_of(message)
        entry = _Entry(message)
        self._enqueue(device, entry)
        if self._mode == "also":
            return
        try:
            await entry.done
        except asyncio.CancelledError:
            self._withdraw(device, entry)
            raise

    async def drained(self) -> None:
        """Wait until every message submitted so far is taken or given up."""
        await self._empty.wait()

    async def run(self) -> None:
        """Hand over until cancelled, as one task; what is unfinished then comes first in a next run."""
        self._devices = asyncio.Queue()
        for device in self._waiting:
            self._devices.put_nowait(device)
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._hand_over_all(await self._devices.get()))

    def _enqueue(self, device: str, entry: _Entry) -> None:
        self._empty.clear()
        if device not in self._waiting:
            self._waiting[device] = deque()
            self._devices.put_nowait(device)
        self._waiting[device].append(entry)

    def _withdraw(self, device: str, entry: _Entry) -> None:
        entries = self._waiting.get(device, deque())
        if entry in entries and entry is not entries[0]:
            entries.remove(entry)
            self._free_places.release()

    async def _hand_over_all(self, device: str) -> None:
        """Hand over the messages of this device until none waits."""
        entries = self._waiting[device]
        while entries:
            entry = entries[0]
            if not entry.done.cancelled():
                await self._hand_over(device, entry)
            entries.popleft()
            self._free_places.release()
            if not entry.done.done():
                entry.done.set_result(None)
        del self._waiting[device]
        if not self._waiting:
            self._empty.set()

    async def _hand_over(self, device: str, entry: _Entry) -> None:
        outcome: Outcome = "given_up"
        try:
            await self._hand_over_with_retries(entry)
            outcome, self.last_error = "taken", None
        except RetryableError as error:
            if entry.done.cancelled():
                return
            self._log_loss(device, entry, error, f"given up after {_ATTEMPTS} attempts")
        except PermanentError as error:
            outcome = "refused"
            self._log_loss(device, entry, error, "refused")
        except Exception:
            log.exception(
                "[EDGE] Handing over a message on %r failed; it is GIVEN UP, report this as a fault",
                entry.message.topic,
            )
        HANDOVER.labels(outcome).inc()

    async def _hand_over_with_retries(self, entry: _Entry) -> None:
        def may_succeed_later(error: BaseException) -> bool:
            return isinstance(error, RetryableError) and not entry.done.cancelled()

        retrying = AsyncRetrying(
            retry=retry_if_exception(may_succeed_later),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=Backoff(),
            before_sleep=self._log_retry,
            reraise=True,
        )
        await retrying(self._call, entry.message)

    async def _call(self, message: InboundMessage) -> None:
        async with self._calls:
            await self._function.hand_over(message.topic, message.payload)

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.last_error = str(error)
        self._retry_notice.write(
            f"[EDGE] {error}; {self.waiting} waiting, next try in {state.upcoming_sleep:.1f} s"
        )

    def _log_loss(self, device: str, entry: _Entry, error: Exception, how: str) -> None:
        self.last_error = str(error)
        log.debug("[EDGE] %r was %s", entry.message.topic, how, extra=context(device=device))
        self._loss_notice.write(f"[EDGE] A message on {entry.message.topic!r} was {how}: {error}")


def _device_of(message: InboundMessage) -> str:
    """The device whose messages keep their order, whatever spelling and root the topic has."""
    try:
        return device_key(parse_topic(message.topic).device)
    except RemoteProtocolError:
        return message.topic
