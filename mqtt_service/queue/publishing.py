"""Publishes the commands of one claim: one device's in the order of issue, several devices' side by side.

Each command gets a settlement: `sent` after the PUBACK, `failed` where this command is at fault, and
`released` (given back as pending, not counted as a failure) where the broker or this worker is.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby

from mqtt_service.adapters.supabase.commands import Settlement
from mqtt_service.errors import (
    BrokerUnavailableError,
    LocalProtocolError,
    OutcomeUnknownError,
    PermanentError,
)
from mqtt_service.protocol.commands import Command, WakeFormat, delivery_notice, encode_command
from mqtt_service.protocol.topics import command_topic, device_key
from mqtt_service.publisher import Publisher
from mqtt_service.queue.settling import Settler

log = logging.getLogger(__name__)

# MQTT counts a message's expiry in whole seconds.
_MIN_SECONDS_TO_EXPIRY = 1.0
# After this part of its lease a command is not published any more: soon another worker may hold it.
_USABLE_LEASE = 0.8
_MAX_WAIT_FOR_PUBACK = 2.0


@dataclass(frozen=True, slots=True)
class _Batch:
    """The commands of one claim; `claimed_at` is on the event loop's clock.

    `released` counts those that were given back, by reason; `outcome_unknown` those of them that the broker
    may have nevertheless.
    """

    claimed_at: float
    released: Counter[str] = field(default_factory=Counter)
    outcome_unknown: Counter[str] = field(default_factory=Counter)

    def log_released(self) -> None:
        """One line for each reason, however many commands it concerns."""
        for reason, number in self.released.items():
            unknown = self.outcome_unknown[reason]
            log.warning(
                "[CommandQueue] %d command(s) not sent, pending again without a failure counted: %s%s",
                number,
                reason,
                f"; {unknown} of them may have arrived and will be sent again under the same command_id"
                if unknown
                else "",
            )


class CommandPublisher:
    """Publishes claimed commands and hands what became of each to `settler`; `lease` is in seconds."""

    def __init__(self, publisher: Publisher, settler: Settler, lease: float, wake_format: WakeFormat) -> None:
        self._publisher = publisher
        self._settler = settler
        self._lease = lease
        self._wake_format = wake_format
        self._stopping = False
        self._timeouts: set[asyncio.Timeout] = set()
        self._publishing_to: dict[str, asyncio.Event] = {}

    async def publish_all(self, commands: Sequence[Command], claimed_at: float) -> None:
        """Publish what was claimed at `claimed_at` (the event loop's clock); never raises for one command."""
        log.info("[CommandQueue] Processing %d pending command(s)", len(commands))
        batch = _Batch(claimed_at)
        # A stable sort: the commands of one device stay in the order of the claim.
        by_device = sorted(commands, key=lambda command: str(command.device_id))
        async with asyncio.TaskGroup() as group:
            for _, of_device in groupby(by_device, key=lambda command: command.device_id):
                group.create_task(self._publish_in_order(list(of_device), batch))
        batch.log_released()

    def stop(self, seconds: float) -> None:
        """Publish nothing more; what is waiting for its PUBACK gets so many seconds."""
        self._stopping = True
        deadline = asyncio.get_running_loop().time() + seconds
        for timeout in self._timeouts:
            with suppress(RuntimeError):  # it has just run out
                timeout.reschedule(min(timeout.when() or math.inf, deadline))

    async def wait_until_sent_is_recorded(self, device: str) -> None:
        """Wait until the database knows what was sent to this device.

        An answer without a command_id is for the command sent last, and it can overtake that command's
        PUBACK: the row must say `sent` before the answer is matched. A PUBACK that does not come is waited
        for up to 2 s.
        """
        publishing = self._publishing_to.get(device_key(device))
        if publishing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_MAX_WAIT_FOR_PUBACK):
                    await publishing.wait()
        await self._settler.wait_until_written()

    async def _publish_in_order(self, commands: Sequence[Command], batch: _Batch) -> None:
        """Publish one device's commands; once one is released, so are those after it.

        A command that has no time left is released on its own: the next claim expires it.
        """
        blocked_by: str | None = None
        for command in commands:
            if _seconds_to_expiry(command, batch) < _MIN_SECONDS_TO_EXPIRY:
                self._release(command, "it expires before it can be sent", batch)
            elif blocked_by is not None:
                self._release(command, blocked_by, batch)
            else:
                blocked_by = await self._publish_and_settle(command, batch)
        if blocked_by is not None:
            # The next claim must find them in their old place, before the device's later commands.
            await self._settler.wait_until_written()

    def _release(self, command: Command, reason: str, batch: _Batch) -> None:
        batch.released[reason] += 1
        self._settler.settle(Settlement(command.command_id, command.attempt, "released", reason), command)

    async def _publish_and_settle(self, command: Command, batch: _Batch) -> str | None:
        """Returns why the command was released; None where it was sent or failed."""
        with self._publishing(command):
            settlement = await self._publish(command, batch)
            self._settler.settle(settlement, command)
        if settlement.outcome != "released":
            return None
        reason = settlement.error or "no reason given"
        batch.released[reason] += 1
        return reason

    @contextmanager
    def _publishing(self, command: Command) -> Iterator[None]:
        """Let `wait_until_sent_is_recorded` wait for the end of this block."""
        key = device_key(command.topic_id)
        self._publishing_to[key] = done = asyncio.Event()
        try:
            yield
        finally:
            done.set()
            if self._publishing_to.get(key) is done:
                del self._publishing_to[key]

    async def _publish(self, command: Command, batch: _Batch) -> Settlement:
        """Publish one command; a fault of our own code fails this command and no other."""
        try:
            return await self._try_to_publish(command, batch)
        except Exception as error:
            log.exception("[CommandQueue] A fault of this service; only this command fails")
            reason = f"a fault of this service, please report it: {error!r}"
            return Settlement(command.command_id, command.attempt, "failed", reason)

    async def _try_to_publish(self, command: Command, batch: _Batch) -> Settlement:
        key = (command.command_id, command.attempt)
        lease_left = batch.claimed_at + _USABLE_LEASE * self._lease - asyncio.get_running_loop().time()
        if self._stopping:
            return Settlement(*key, "released", "the worker is stopping")
        if lease_left <= 0:
            return Settlement(*key, "released", "the lease is ending")
        try:
            topic = command_topic(command.topic_root, command.topic_id)
            payload = encode_command(command, now=datetime.now(UTC), wake_format=self._wake_format)
        except LocalProtocolError as error:
            return Settlement(*key, "failed", f"not sent: {error}", retry=False)
        return await self._send(command, topic, payload, batch, lease_left)

    async def _send(
        self, command: Command, topic: str, payload: bytes, batch: _Batch, lease_left: float
    ) -> Settlement:
        key = (command.command_id, command.attempt)
        to_expiry = _seconds_to_expiry(command, batch)
        try:
            async with asyncio.timeout(min(lease_left, to_expiry)) as timeout:
                self._timeouts.add(timeout)
                result = await self._publisher.publish(topic, payload, expiry_seconds=int(to_expiry))
        except (BrokerUnavailableError, TimeoutError) as error:
            reason = str(error) or "the broker did not acknowledge in time"
            if isinstance(error, OutcomeUnknownError | TimeoutError):
                batch.outcome_unknown[reason] += 1
            return Settlement(*key, "released", reason)
        except PermanentError as error:
            return Settlement(*key, "failed", str(error))
        finally:
            self._timeouts.discard(timeout)
        notice = delivery_notice(command, now=datetime.now(UTC), wake_format=self._wake_format)
        return Settlement(*key, "sent", no_listener=result.no_subscriber, notice=notice)


def _seconds_to_expiry(command: Command, batch: _Batch) -> float:
    """The claim says how long the command lives; since then some of that has passed."""
    return command.seconds_to_expiry - (asyncio.get_running_loop().time() - batch.claimed_at)
