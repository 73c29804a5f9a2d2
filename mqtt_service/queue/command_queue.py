"""The command queue's worker: claim → encode → publish → settle.

    claim     due commands are leased to this worker, in the order of issue for each device
    encode    a row becomes the bytes of PROTOCOL.md; what cannot be encoded fails for good
    publish   QoS 1; the next command of a device follows the PUBACK of the one before
    settle    sent, failed, or released (given back uncounted, when the fault is not the command's)

The database is the truth: Realtime only wakes the loop early, and whatever is not settled comes back when its
lease ends, under the same command_id.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal
from uuid import UUID

from mqtt_service.adapters.supabase.commands import Claim, CommandGateway, Settlement
from mqtt_service.backoff import FIRST_DELAY
from mqtt_service.errors import (
    BrokerUnavailableError,
    LocalProtocolError,
    OutcomeUnknownError,
    PermanentError,
    ServiceError,
)
from mqtt_service.log import context
from mqtt_service.metrics import COMMANDS
from mqtt_service.protocol.commands import Command, encode_command
from mqtt_service.protocol.topics import command_topic, device_key
from mqtt_service.publisher import Publisher
from mqtt_service.queue.settling import Settler

log = logging.getLogger(__name__)

CLAIM_LIMIT = 200
_PUBACK_PATIENCE = 2.0
# Settling takes longer only where Supabase is away, when no claim comes through, or where a row is locked.
_SETTLE_PATIENCE = 15.0
_MOST_UNSETTLED = 3 * CLAIM_LIMIT
_MOST_DOUBLINGS = 16
_MOST_REFUSED_KNOWN = 200
# MQTT counts a message's life in whole seconds.
_LEAST_LIFE = 1.0
_TIME_IS_OVER = "its time was over before it could be sent"
# After this part of its lease a command is not published any more: a successor may hold it soon.
_USABLE_LEASE = 0.8


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Seconds; `wake_format` is how times are written on the wire."""

    poll_interval: float = 5.0
    lease: float = 30.0
    wake_format: Literal["12h", "iso"] = "12h"


@dataclass(frozen=True, slots=True)
class _Turn:
    """The commands of one claim on their way; `claimed_at` is the loop's time.

    Those that are given back are counted by the reason why, in `waiting`; `uncertain` counts those of them
    that the broker may have all the same.
    """

    claimed_at: float
    waiting: Counter[str] = field(default_factory=Counter)
    uncertain: Counter[str] = field(default_factory=Counter)

    def report(self) -> None:
        """One line for each reason, however many commands it kept."""
        for reason, number in self.waiting.items():
            again = self.uncertain[reason]
            log.warning(
                "[CommandQueue] %d command(s) wait, uncounted: %s%s",
                number,
                reason,
                f"; {again} of them may have arrived, and come again under the same command_id"
                if again
                else "",
            )


class CommandQueueProcessor:
    """Polls every `poll_interval`, and at once when woken; see the module's head for what a turn does."""

    def __init__(
        self,
        gateway: CommandGateway,
        link: Publisher,
        options: QueueOptions,
        on_welcome_due: Callable[[], None],
        on_visits_due: Callable[[], None] = lambda: None,
        on_found: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._gateway = gateway
        self._link = link
        self._options = options
        self._on_welcome_due = on_welcome_due
        self._on_visits_due = on_visits_due
        self._on_found = on_found
        self._settler = Settler(gateway)
        self._under_way: dict[str, asyncio.Event] = {}
        self._publishing: set[asyncio.Timeout] = set()
        self._wanted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed_polls = 0
        self._refused: dict[UUID, None] = {}
        self._turns = 0
        self.last_poll: float | None = None
        self.last_error: str | None = None

    @property
    def running(self) -> bool:
        """Whether new commands are claimed."""
        return not self._stopping.is_set()

    @property
    def settling_stuck(self) -> bool:
        """Whether settlements wait so long that their leases are at risk: then nothing new is claimed."""
        return (
            len(self._settler.held) >= _MOST_UNSETTLED or self._settler.longest_wait > self._options.lease / 3
        )

    @property
    def progress(self) -> tuple[int, int]:
        """Changes within three minutes, a poll interval and a lease, whatever fails."""
        return (self._turns, self._settler.attempts)

    def wake(self) -> None:
        """Look for due commands now instead of at the next poll."""
        self._wanted.set()

    async def run(self) -> None:
        """Work until `stop`; a failed poll is logged and the next one comes as usual."""
        log.info("[COMMAND_QUEUE] ✅ Command queue processor started")
        while self.running:
            self._turns += 1
            self._wanted.clear()
            self._idle.clear()
            try:
                pause = await self._turn()
            except ServiceError as error:
                await self._after_failure(error)
            else:
                await _either(self._wanted, pause)
            finally:
                self._idle.set()

    async def _after_failure(self, error: ServiceError) -> None:
        """A poll failed, and what it leased may wait for us: soon again at first, then at the usual pace."""
        changed, self.last_error = str(error) != self.last_error, str(error)
        soon = FIRST_DELAY * 2.0 ** min(self._failed_polls, _MOST_DOUBLINGS)
        self._failed_polls += 1
        pause = max(min(soon, self._options.poll_interval), getattr(error, "retry_after", None) or 0.0)
        # At the 1st, 2nd, 4th, 8th… in a row: an outage of a day is a few lines.
        if changed or self._failed_polls.bit_count() == 1:
            log.warning(
                "[CommandQueue] %s; next poll in %.1f s (failure %d in a row)",
                error,
                pause,
                self._failed_polls,
            )
        self._idle.set()
        await _either(self._stopping, pause)

    async def run_settler(self) -> None:
        """Write what became of commands until cancelled; runs beside `run`."""
        await self._settler.run()

    async def stop(self, patience: float) -> None:
        """Claim no more; finish or give back what is in hand, and settle it, within `patience` seconds.

        What cannot be settled by then comes back when its lease ends, under the same command_id.
        """
        self._stopping.set()
        self._wanted.set()
        loop = asyncio.get_running_loop()
        for timeout in self._publishing:
            with suppress(RuntimeError):  # it has just run out
                timeout.reschedule(min(timeout.when() or math.inf, loop.time() + patience / 2))
        try:
            async with asyncio.timeout(patience):
                await self._idle.wait()
                await self.published_is_settled()
        except TimeoutError:
            log.warning(
                "[CommandQueue] %d command(s) could not be settled in time; they come back after their lease",
                len(self._settler.held),
            )

    async def published_is_settled(self) -> None:
        """Wait until everything published before this call is in the database, but for what a lock keeps."""
        await self._settler.settled(_SETTLE_PATIENCE)

    async def sent_is_known(self, device: str) -> None:
        """Wait until the database knows what was sent to this device: an answer can overtake its PUBACK.

        An answer without a command_id is for the command sent last, so the row must say `sent` before it
        is matched. A PUBACK that does not come is waited for briefly.
        """
        under_way = self._under_way.get(device_key(device))
        if under_way is not None:
            await _either(under_way, _PUBACK_PATIENCE)
        await self.published_is_settled()

    @contextmanager
    def _sending_to(self, command: Command) -> Iterator[None]:
        """Let `sent_is_known` wait for the end of this block."""
        key = device_key(command.topic_id)
        self._under_way[key] = done = asyncio.Event()
        try:
            yield
        finally:
            done.set()
            if self._under_way.get(key) is done:
                del self._under_way[key]

    async def _turn(self) -> float:
        """Claim once and publish what that brought; returns the seconds to wait for the next claim."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        # What could not be published or settled is not taken; the queue is swept all the same.
        limit = CLAIM_LIMIT if self._link.connected and not self.settling_stuck else 0
        claim = await self._gateway.claim(limit=limit, lease=self._options.lease, held=self._settler.held)
        self.last_poll, self.last_error, self._failed_polls = loop.time(), None, 0
        self._report(claim)
        if claim.welcome_due:
            self._on_welcome_due()
        if claim.visits_due:
            self._on_visits_due()
        if claim.newest_age is not None:
            self._on_found(started - claim.newest_age)
        for row in claim.unreadable:
            self._settler.settle(
                Settlement(
                    row.command_id, row.attempt, "failed", f"unreadable row: {row.reason}", retry=False
                )
            )
        if claim.commands:
            await self._publish_all(claim.commands, _Turn(started))
        if claim.more and (claim.commands or claim.failed):
            return 0.0
        # Zero says that a due row is not ours to take yet; asking again at once would not change that.
        return min(self._options.poll_interval, claim.seconds_to_next_due or self._options.poll_interval)

    async def _publish_all(self, commands: Sequence[Command], turn: _Turn) -> None:
        """Publish in order for each device, devices side by side."""
        log.info("[CommandQueue] Processing %d pending command(s)", len(commands))
        # A stable sort: within a device, the order of the claim stays.
        by_device = sorted(commands, key=lambda command: str(command.device_id))
        async with asyncio.TaskGroup() as group:
            for _, of_device in groupby(by_device, key=lambda command: command.device_id):
                group.create_task(self._publish_in_order(list(of_device), turn))
        turn.report()

    async def _publish_in_order(self, commands: Sequence[Command], turn: _Turn) -> None:
        """Publish one device's commands; when one is given back, so are those behind it.

        But for one whose time is over: the next claim expires it.
        """
        reason: str | None = None
        for command in commands:
            back = _TIME_IS_OVER if _seconds_left(command, turn) < _LEAST_LIFE else reason
            if back is not None:
                settlement = Settlement(command.command_id, command.attempt, "released", back)
                self._settler.settle(settlement, command)
            else:
                with self._sending_to(command):
                    settlement = await self._publish(command, turn)
                    self._settler.settle(settlement, command)
                reason = settlement.error if settlement.outcome == "released" else None
            if settlement.outcome == "released":
                turn.waiting[settlement.error or "no reason given"] += 1
        if reason is not None:
            # The next claim must find them in their old place, before the device's later commands.
            await self.published_is_settled()

    async def _publish(self, command: Command, turn: _Turn) -> Settlement:
        """Publish one command; a fault of our code is its failure, and nobody else's."""
        try:
            return await self._try_to_publish(command, turn)
        except Exception as error:
            log.exception("[CommandQueue] A fault of this service; that command alone fails")
            reason = f"a fault of this service, please report it: {error!r}"
            return Settlement(command.command_id, command.attempt, "failed", reason)

    async def _try_to_publish(self, command: Command, turn: _Turn) -> Settlement:
        key = (command.command_id, command.attempt)
        usable_until = turn.claimed_at + _USABLE_LEASE * self._options.lease
        remaining = usable_until - asyncio.get_running_loop().time()
        if not self.running or remaining <= 0:
            return Settlement(
                *key, "released", "the lease is ending" if self.running else "the worker is stopping"
            )
        try:
            topic = command_topic(command.topic_root, command.topic_id)
            payload = encode_command(command, wake_format=self._options.wake_format)
        except LocalProtocolError as error:
            return Settlement(*key, "failed", f"not sent: {error}", retry=False)
        left = _seconds_left(command, turn)
        try:
            async with asyncio.timeout(min(remaining, left)) as timeout:
                self._publishing.add(timeout)
                result = await self._link.publish(topic, payload, expiry_seconds=int(left))
        except (BrokerUnavailableError, TimeoutError) as error:
            reason = str(error) or "the broker did not acknowledge in time"
            if isinstance(error, OutcomeUnknownError | TimeoutError):
                turn.uncertain[reason] += 1
            return Settlement(*key, "released", reason)
        except PermanentError as error:
            return Settlement(*key, "failed", str(error))
        finally:
            self._publishing.discard(timeout)
        return Settlement(*key, "sent", no_listener=result.no_subscriber)

    def _report(self, claim: Claim) -> None:
        for worker, commands in claim.rescued.items():
            log.warning(
                "[CommandQueue] %d command(s) of a worker that is gone (%s) are taken over, under the same "
                "command_id",
                commands,
                worker,
            )
        for failed in claim.failed:
            COMMANDS.labels("failed").inc()
            log.warning(
                "[CommandQueue] ❌ %s failed (retry_count %d%s): %s",
                failed.command_type,
                failed.retry_count,
                ", final" if failed.final else "",
                failed.error,
                extra=context(command=failed.command_id, device=failed.device_code or failed.device_id),
            )
        for expired in claim.expired:
            COMMANDS.labels("expired").inc()
            log.warning(
                "[CommandQueue] ⌛ %s %s",
                expired.command_type,
                expired.error,
                extra=context(command=expired.command_id, device=expired.device_code or expired.device_id),
            )
        self._report_refused(claim)

    def _report_refused(self, claim: Claim) -> None:
        """Each command once, until it goes on: every claim finds it again."""
        for rows in (claim.commands, claim.failed, claim.expired):
            for changed in rows:
                self._refused.pop(changed.command_id, None)
        for refused in claim.refused:
            if refused.command_id in self._refused:
                continue
            self._refused[refused.command_id] = None
            log.warning(
                "[CommandQueue] The database refuses to change %s (device %s): %s; it is passed over, the "
                "rest goes on",
                refused.command_id,
                refused.device_code or "without a code",
                refused.error,
                extra=context(command=refused.command_id, device=refused.device_code),
            )
        while len(self._refused) > _MOST_REFUSED_KNOWN:
            del self._refused[next(iter(self._refused))]


def _seconds_left(command: Command, turn: _Turn) -> float:
    """Until the command expires; it may have waited in our hands since the claim."""
    return command.seconds_to_expiry - (asyncio.get_running_loop().time() - turn.claimed_at)


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, but no longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
