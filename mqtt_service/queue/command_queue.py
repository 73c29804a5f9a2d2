"""The command queue's loop: poll, claim, publish, settle; back off after failures; stop in order.

    claim     due commands are leased to this worker, in the order of issue for each device
    publish   each becomes a message, QoS 1; the device's next follows its PUBACK     publishing.py
    settle    sent, failed, or released (given back, not counted as a failure)        settling.py

The three overlap: the next claim is under way while the last one is published and the one before is settled.

The database is the truth: Realtime only starts a poll early, and a command that is not settled comes back
when its lease ends, under the same command_id.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mqtt_service.adapters.supabase.commands import Claim, CommandGateway, Settlement
from mqtt_service.backoff import delay_after
from mqtt_service.errors import RetryableError, ServiceError
from mqtt_service.protocol.commands import WakeFormat
from mqtt_service.publisher import Sender
from mqtt_service.queue.claim_report import ClaimReport
from mqtt_service.queue.publishing import CommandPublisher, Sign, cannot_sign
from mqtt_service.queue.settling import Settler

log = logging.getLogger(__name__)

_SMALLEST_CLAIM = 100
_LARGEST_CLAIM = 500
_MAX_UNSETTLED = 3 * _LARGEST_CLAIM
# From one claim to the next that a ring starts, in seconds: an idle queue looks at once, and rings that come
# thick and fast share a claim.
_RINGS_SHARE = 0.02
# What a claim of many may take longer than one of few, in seconds.
_QUICK, _SLOW = 0.05, 0.15


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Seconds; `wake_format` is how times are written on the wire."""

    poll_interval: float = 5.0
    lease: float = 30.0
    wake_format: WakeFormat = "12h"


@dataclass(frozen=True, slots=True)
class QueueListeners:
    """Whom to call about what a claim found.

    `on_welcome_due`: the welcome of some device is due. `on_visits_due`: some device is awake and the lease
    of its visit has run out. `on_new_command` gets the time, on the event loop's clock, at which the newest
    of the commands that were never claimed before was inserted, or a little earlier.
    """

    on_welcome_due: Callable[[], None] = lambda: None
    on_visits_due: Callable[[], None] = lambda: None
    on_new_command: Callable[[float], None] = lambda _inserted_at: None


class _ClaimSize:
    """How many commands a claim takes: few at first, more while they are there and come quickly."""

    def __init__(self) -> None:
        self.limit = _SMALLEST_CLAIM
        self._fastest = math.inf

    def claimed(self, commands: int, seconds: float) -> None:
        """A claim brought so many and took so long."""
        self._fastest = min(self._fastest, seconds)
        longer = seconds - self._fastest
        if commands < self.limit or longer > _SLOW:
            self.limit = max(self.limit // 2, _SMALLEST_CLAIM)
        elif longer < _QUICK:
            self.limit = min(self.limit * 2, _LARGEST_CLAIM)


class CommandQueueProcessor:
    """Polls every `poll_interval`, and at once after `poll_now`. Run `run` and `run_settler` side by side."""

    def __init__(
        self,
        gateway: CommandGateway,
        sender: Sender,
        options: QueueOptions,
        listeners: QueueListeners = QueueListeners(),
        sign: Sign = cannot_sign,
    ) -> None:
        """`sign` has Storage sign the address of a release's file."""
        self._gateway = gateway
        self._sender = sender
        self._options = options
        self._listeners = listeners
        self._settler = Settler(gateway)
        self._commands = CommandPublisher(sender, self._settler, options.lease, options.wake_format, sign)
        self._size = _ClaimSize()
        self._report = ClaimReport()
        self._poll_due = asyncio.Event()
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._polls = 0
        self._failed_polls = 0
        self.last_poll: float | None = None
        self.last_error: str | None = None

    @property
    def running(self) -> bool:
        """Whether new commands are claimed."""
        return not self._stopping.is_set()

    @property
    def refused(self) -> tuple[int, str | None]:
        """How many commands the database refused to change in the last claim, and the first of them."""
        return self._report.refused_count, self._report.refused_example

    @property
    def settling_overdue(self) -> bool:
        """Whether settlements wait so long that their leases are at risk: then nothing new is claimed."""
        return (
            self._settler.unsettled >= _MAX_UNSETTLED or self._settler.longest_wait > self._options.lease / 3
        )

    @property
    def progress(self) -> tuple[int, int]:
        """Changes within three minutes plus a poll interval and a lease, also while every call fails."""
        return (self._polls, self._settler.attempts)

    def poll_now(self) -> None:
        """Poll now instead of at the next interval."""
        self._poll_due.set()

    async def run(self) -> None:
        """Poll until `stop`; a failed poll is logged and the next one follows after a pause."""
        log.info("[COMMAND_QUEUE] ✅ Command queue processor started")
        clock = asyncio.get_running_loop().time
        while self.running:
            started = clock()
            self._polls += 1
            self._poll_due.clear()
            self._idle.clear()
            try:
                pause = await self._poll()
            except ServiceError as error:
                pause = self._pause_after_failure(error)
                interrupt = self._stopping
            else:
                interrupt = self._poll_due
            finally:
                self._idle.set()
            await _wait(interrupt, pause)
            if pause:  # else there is more of what this claim found
                await _wait(self._stopping, started + _RINGS_SHARE - clock())

    async def run_settler(self) -> None:
        """Write what became of commands until cancelled; runs beside `run`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settler.run())
            tasks.create_task(self._commands.run())

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 - it does not cancel, it gives up waiting
        """Claim no more; finish or give back what was claimed, and settle it, within `timeout` seconds.

        What cannot be settled by then comes back when its lease ends, under the same command_id.
        """
        self._stopping.set()
        self._poll_due.set()
        self._commands.stop(timeout / 2)
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
                await self._commands.wait_until_at_most(0)
                await self._settler.wait_until_written()
        except TimeoutError:
            log.warning(
                "[CommandQueue] %d command(s) could not be settled in time; they come back after their lease",
                len(self._settler.held),
            )

    async def wait_until_sent_is_recorded(self, device: str) -> None:
        """See `CommandPublisher.wait_until_sent_is_recorded`."""
        await self._commands.wait_until_sent_is_recorded(device)

    async def _poll(self) -> float:
        """Claim once and begin to publish what that brought; returns the seconds until the next poll.

        Where there is more, that is as soon as few enough are left to publish: the next claim is under way
        while these are.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        # Without a broker nothing is taken, but the claim still expires and fails what is due.
        able = self._sender.connected and self._has_room() and not self.settling_overdue
        limit = self._size.limit if able else 0
        held = [*self._commands.in_hand, *self._settler.held, *self._commands.postponed]
        claim = await self._gateway.claim(limit=limit, lease=self._options.lease, held=held)
        self._size.claimed(len(claim.commands), loop.time() - started)
        self.last_poll, self.last_error, self._failed_polls = loop.time(), None, 0
        self._report.write(claim)
        self._notify(claim, started)
        for row in claim.unreadable:
            error = f"unreadable row: {row.reason}"
            self._settler.settle(Settlement(row.command_id, row.attempt, "failed", error, retry=False))
        kept = self._commands.take(claim.commands, started) if claim.commands else 0
        self._commands.forget_reopened(started)
        # What was given back at once would be taken, and given back, again and again.
        if (claim.more and (kept or claim.failed)) or not self._has_room():
            await self._wait_for_room()
            return 0.0
        # 0 s to the next due row means that it is not ours to take yet: asking again at once cannot help.
        return min(self._options.poll_interval, claim.seconds_to_next_due or self._options.poll_interval)

    async def _wait_for_room(self) -> None:
        """Wait until the next claim can be published as it comes; a poll interval at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.poll_interval):
                await self._commands.wait_until_at_most(self._size.limit)
                await self._settler.wait_until(self._has_room)

    def _has_room(self) -> bool:
        in_hand, unsettled = len(self._commands.in_hand), self._settler.unsettled
        return in_hand <= self._size.limit and unsettled <= _LARGEST_CLAIM

    def _notify(self, claim: Claim, claimed_at: float) -> None:
        if claim.welcome_due:
            self._listeners.on_welcome_due()
        if claim.visits_due:
            self._listeners.on_visits_due()
        if claim.newest_age is not None:
            self._listeners.on_new_command(claimed_at - claim.newest_age)

    def _pause_after_failure(self, error: ServiceError) -> float:
        """Seconds until the next poll: soon at first, since a lost answer may have leased commands to us."""
        changed, self.last_error = str(error) != self.last_error, str(error)
        self._failed_polls += 1
        asked = error.retry_after if isinstance(error, RetryableError) else None
        pause = max(delay_after(self._failed_polls, self._options.poll_interval), asked or 0.0)
        # The 1st, 2nd, 4th, 8th… failure in a row is logged, so that an outage of a day is a few lines.
        if changed or self._failed_polls.bit_count() == 1:
            log.warning(
                "[CommandQueue] %s; next poll in %.1f s (failure %d in a row)",
                error,
                pause,
                self._failed_polls,
            )
        return pause


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
