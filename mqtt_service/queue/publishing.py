"""Publishes claimed commands: one device's in the order of issue, several devices' side by side.

Each command gets a settlement: `sent` after the PUBACK, `failed` where this command is at fault, and
`released` (given back as pending, not counted as a failure) where the broker or this worker is.

    lane    one device's commands in hand: at most one of them is on its way to the broker

Once a command of a lane is released, so are those behind it, and those of a claim that began before the
database knew of that: the next claim finds them in their old places.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from mqtt_service.adapters.supabase.commands import Settlement
from mqtt_service.errors import (
    BrokerUnavailableError,
    LocalProtocolError,
    OutcomeUnknownError,
    PermanentError,
    ProjectMisconfiguredError,
    ServiceError,
    SupabaseUnavailableError,
)
from mqtt_service.protocol.commands import Command, WakeFormat, delivery_notice, encode_command
from mqtt_service.protocol.topics import command_topic, device_key
from mqtt_service.publisher import PublishResult, Sender, Withdraw
from mqtt_service.queue.settling import Settler

log = logging.getLogger(__name__)

# MQTT counts a message's expiry in whole seconds.
_MIN_SECONDS_TO_EXPIRY = 1.0
# After this part of its lease a command is not published any more: soon another worker may hold it.
_USABLE_LEASE = 0.8
_MAX_WAIT_FOR_PUBACK = 2.0
# A device that gets a command in its last second still needs time to fetch its firmware.
_FETCHING_TAKES = 3600.0
# For how long firmware is left after Storage could not sign its address, so that claims bring the rest.
_POSTPONED_FOR = 15.0
_MOST_POSTPONED = 1000
# How often it is looked whether something has waited for its PUBACK for too long.
_LOOK_EVERY = 0.25


# Has Storage sign the address of a file, for so many seconds.
Sign = Callable[[str, float], Awaitable[str]]


async def cannot_sign(path: str, _seconds: float) -> str:
    """For a queue without releases."""
    raise LocalProtocolError(f"this service cannot have an address signed, as {path} needs")


@dataclass(slots=True, eq=False)
class _Claimed:
    """A command in hand; the event loop's times.

    `give_up_at`: without a PUBACK by then it is released; `withdraw` takes it back if it was not sent yet.
    `address`: of its firmware; those of one claim that need the same file share it.
    """

    command: Command
    claimed_at: float
    give_up_at: float = 0.0
    withdraw: Withdraw = lambda: False
    notice: str | None = None
    address: asyncio.Future[str] | None = None

    @property
    def is_signing(self) -> bool:
        """Whether it waits for its firmware's address."""
        return self.address is not None and not self.address.done()


@dataclass(slots=True, eq=False)
class _Lane:
    """One device's commands in hand; `unwritten` counts settlements that the database does not have yet.

    `closed_by`: why a command was released that the database still takes for leased; `reopened_at`: when it
    learnt of the last one.
    """

    key: str
    waiting: deque[_Claimed] = field(default_factory=deque)
    sending: _Claimed | None = None
    unwritten: int = 0
    closed_by: str | None = None
    reopened_at: float = 0.0
    changed: asyncio.Event | None = None  # there is one while somebody waits for it


class CommandPublisher:
    """Publishes claimed commands and hands what became of each to `settler`; `lease` is in seconds.

    `sign` gets the addresses of firmware. `run` it as one task: it releases what the broker does not
    acknowledge in time.
    """

    def __init__(
        self,
        sender: Sender,
        settler: Settler,
        lease: float,
        wake_format: WakeFormat,
        sign: Sign = cannot_sign,
    ) -> None:
        self._sender = sender
        self._sign = sign
        self._signing: set[asyncio.Future[str]] = set()
        self._postponed: dict[UUID, float] = {}  # until when; the first one is the oldest
        self._settler = settler
        self._lease = lease
        self._wake_format = wake_format
        self._stop_at: float | None = None
        self._lanes: dict[UUID, _Lane] = {}
        # By device_key, which two rows of devices can have in common.
        self._devices: dict[str, set[UUID]] = {}
        self._in_hand: dict[UUID, _Claimed] = {}
        self._sending: dict[UUID, tuple[_Lane, _Claimed]] = {}
        self._given_back = 0
        self._released: Counter[str] = Counter()
        self._outcome_unknown: Counter[str] = Counter()
        self._changed = asyncio.Event()

    @property
    def in_hand(self) -> Sequence[UUID]:
        """Commands that were taken and have no outcome yet."""
        return [*self._in_hand]

    @property
    def postponed(self) -> Sequence[UUID]:
        """Commands that were given back because Storage could not sign, and are to be left for a while."""
        now = asyncio.get_running_loop().time()
        self._postponed = {key: until for key, until in self._postponed.items() if until > now}
        return [*self._postponed]

    async def wait_until_at_most(self, commands: int) -> None:
        """Wait until no more than so many are in hand."""
        while len(self._in_hand) > commands:
            self._changed.clear()
            await self._changed.wait()

    def take(self, commands: Sequence[Command], claimed_at: float) -> int:
        """Begin to publish what was claimed at `claimed_at` (the event loop's clock, before the call).

        Returns how many of them were not given back at once.
        """
        given_back = self._given_back
        log.info("[CommandQueue] Processing %d pending command(s)", len(commands))
        lanes: dict[UUID, _Lane] = {}
        addresses = self._begin_signing(commands)
        for command in commands:
            lane = self._lanes.get(command.device_id)
            if lane is None:
                lane = self._lanes[command.device_id] = _Lane(device_key(command.topic_id))
                self._devices.setdefault(lane.key, set()).add(command.device_id)
            lanes[command.device_id] = lane
            claimed = self._in_hand[command.command_id] = _Claimed(
                command, claimed_at, address=addresses.get(command.firmware_path)
            )
            lane.waiting.append(claimed)
        for lane in lanes.values():
            self._go_on(lane)
        return len(commands) - (self._given_back - given_back)

    def _begin_signing(self, commands: Sequence[Command]) -> dict[str | None, asyncio.Future[str]]:
        """One address for each file, that opens it for as long as the last of its commands lives."""
        seconds: dict[str, float] = {}
        for command in commands:
            if command.firmware_path is not None:
                known = seconds.get(command.firmware_path, 0.0)
                seconds[command.firmware_path] = max(known, command.seconds_to_expiry + _FETCHING_TAKES)
        addresses: dict[str | None, asyncio.Future[str]] = {}
        for path, wanted in seconds.items():
            address = addresses[path] = asyncio.ensure_future(self._sign(path, wanted))
            self._signing.add(address)
            address.add_done_callback(self._was_signed)
        return addresses

    def _was_signed(self, address: asyncio.Future[str]) -> None:
        self._signing.discard(address)
        if not address.cancelled():
            address.exception()  # its commands get it, if they still wait

    def stop(self, seconds: float) -> None:
        """Publish nothing more; what is waiting for its PUBACK gets so many seconds."""
        self._stop_at = asyncio.get_running_loop().time() + seconds
        for lane in list(self._lanes.values()):
            self._go_on(lane)

    async def run(self) -> None:
        """Release what was not acknowledged in time, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = asyncio.get_running_loop().time()
            stopped = self._stop_at is not None and self._stop_at <= now
            overdue = [each for each in self._sending.values() if stopped or each[1].give_up_at <= now]
            for lane, claimed in overdue:
                self._done(lane, claimed, _too_late(claimed))

    async def wait_until_sent_is_recorded(self, device: str) -> None:
        """Wait until the database knows what was sent to this device.

        An answer without a command_id is for the command sent last, and it can overtake that command's
        PUBACK: the row must say `sent` before the answer is matched. A PUBACK that does not come is waited
        for up to 2 s.
        """
        key = device_key(device)
        for lane in [self._lanes[device_id] for device_id in self._devices.get(key, ())]:
            sending = lane.sending
            with suppress(TimeoutError):
                async with asyncio.timeout(_MAX_WAIT_FOR_PUBACK):
                    while sending is not None and lane.sending is sending:
                        lane.changed = lane.changed or asyncio.Event()
                        await lane.changed.wait()
            if lane.unwritten:
                await self._settler.wait_until_written()

    def _go_on(self, lane: _Lane) -> None:
        """Send the lane's next command, unless one is under way; settle those that cannot be sent."""
        while lane.waiting and lane.sending is None:
            claimed = lane.waiting.popleft()
            reason = self._reason_to_release(lane, claimed)
            if reason is not None:
                # One that has no time left holds up none behind it: the next claim expires it.
                self._release(lane, claimed, reason, closing=reason != _NO_TIME_LEFT)
            elif claimed.is_signing:
                self._await_address(lane, claimed)
            else:
                self._send(lane, claimed)

    def _await_address(self, lane: _Lane, claimed: _Claimed) -> None:
        """Keep the lane's turn for a command whose address is being signed."""
        claimed.give_up_at = claimed.claimed_at + _USABLE_LEASE * self._lease
        lane.sending = claimed
        self._sending[claimed.command.command_id] = lane, claimed

        def signed(address: asyncio.Future[str]) -> None:
            if lane.sending is claimed and not address.cancelled():  # else it was given up
                lane.sending = None
                del self._sending[claimed.command.command_id]
                lane.waiting.appendleft(claimed)
                self._go_on(lane)

        if claimed.address is not None:
            claimed.address.add_done_callback(signed)

    def _reason_to_release(self, lane: _Lane, claimed: _Claimed) -> str | None:
        now = asyncio.get_running_loop().time()
        if claimed.claimed_at + claimed.command.seconds_to_expiry - now < _MIN_SECONDS_TO_EXPIRY:
            return _NO_TIME_LEFT
        if self._stop_at is not None:
            return "the worker is stopping"
        if lane.closed_by is not None:
            return lane.closed_by
        if claimed.claimed_at <= lane.reopened_at:
            return "an earlier command of its device was given back meanwhile"
        if claimed.claimed_at + _USABLE_LEASE * self._lease <= now:
            return "the lease is ending"
        return None

    def _send(self, lane: _Lane, claimed: _Claimed) -> None:
        command, key = claimed.command, (claimed.command.command_id, claimed.command.attempt)
        expires_at = claimed.claimed_at + command.seconds_to_expiry
        claimed.give_up_at = min(claimed.claimed_at + _USABLE_LEASE * self._lease, expires_at)
        try:
            topic = command_topic(command.topic_root, command.topic_id)
            now = datetime.now(UTC)
            url = claimed.address.result() if claimed.address is not None else None
            payload = encode_command(command, now=now, wake_format=self._wake_format, firmware_url=url)
            # Here, where a fault is one command's alone: after the PUBACK it would be the connection's.
            claimed.notice = delivery_notice(command, now=now, wake_format=self._wake_format)
            claimed.withdraw = self._sender.send(
                topic,
                payload,
                expiry_seconds=int(expires_at - asyncio.get_running_loop().time()),
                done=partial(self._acknowledged, lane, claimed),
            )
        except LocalProtocolError as error:
            self._settle(lane, claimed, Settlement(*key, "failed", f"not sent: {error}", retry=False))
        except (SupabaseUnavailableError, ProjectMisconfiguredError) as error:
            self._postpone(lane, claimed, error)
        except ServiceError as error:
            self._finish(lane, claimed, error)
        except Exception as error:
            log.exception("[CommandQueue] A fault of this service; only this command fails")
            reason = f"a fault of this service, please report it: {error!r}"
            self._settle(lane, claimed, Settlement(*key, "failed", reason))
        else:
            lane.sending = claimed
            self._sending[command.command_id] = lane, claimed

    def _postpone(self, lane: _Lane, claimed: _Claimed, error: ServiceError) -> None:
        """Give back a command whose firmware has no address now: Storage is at fault, not the command."""
        if len(self._postponed) >= _MOST_POSTPONED:
            del self._postponed[next(iter(self._postponed))]
        until = asyncio.get_running_loop().time() + _POSTPONED_FOR
        self._postponed[claimed.command.command_id] = until
        self._release(lane, claimed, str(error), closing=True)

    def _acknowledged(self, lane: _Lane, claimed: _Claimed, outcome: PublishResult | ServiceError) -> None:
        if lane.sending is claimed:  # else it was given up
            self._done(lane, claimed, outcome)

    def _done(self, lane: _Lane, claimed: _Claimed, outcome: PublishResult | ServiceError) -> None:
        """The outcome of one command, after which the lane goes on."""
        self._finish(lane, claimed, outcome)
        self._go_on(lane)

    def _finish(self, lane: _Lane, claimed: _Claimed, outcome: PublishResult | ServiceError) -> None:
        key = (claimed.command.command_id, claimed.command.attempt)
        lane.sending = None
        self._sending.pop(claimed.command.command_id, None)
        if isinstance(outcome, PublishResult):
            sent = Settlement(*key, "sent", no_listener=outcome.no_subscriber, notice=claimed.notice)
            self._settle(lane, claimed, sent)
        elif isinstance(outcome, PermanentError):
            self._settle(lane, claimed, Settlement(*key, "failed", str(outcome)))
        else:
            self._outcome_unknown[str(outcome)] += isinstance(outcome, OutcomeUnknownError)
            self._release(lane, claimed, str(outcome), closing=True)

    def _release(self, lane: _Lane, claimed: _Claimed, reason: str, *, closing: bool) -> None:
        if not self._released:
            asyncio.get_running_loop().call_soon(self._log_released)
        self._released[reason] += 1
        self._given_back += 1
        if closing:
            lane.closed_by = reason
        command = claimed.command
        self._settle(lane, claimed, Settlement(command.command_id, command.attempt, "released", reason))

    def _settle(self, lane: _Lane, claimed: _Claimed, settlement: Settlement) -> None:
        lane.unwritten += 1
        self._in_hand.pop(settlement.command_id, None)
        self._settler.settle(settlement, claimed.command, partial(self._written, lane, claimed))
        self._note_change(lane)

    def _written(self, lane: _Lane, claimed: _Claimed) -> None:
        """The database has the outcome of one of the lane's commands."""
        lane.unwritten -= 1
        if lane.unwritten == 0 and lane.closed_by is not None and not lane.waiting and lane.sending is None:
            lane.closed_by = None
            lane.reopened_at = asyncio.get_running_loop().time()
        self._note_change(lane)
        if lane.unwritten or lane.waiting or lane.sending is not None:
            return
        # A claim that is under way may still bring commands from before.
        device_id = claimed.command.device_id
        if lane.reopened_at == 0.0 and self._lanes.get(device_id) is lane:
            self._forget(device_id)

    def forget_reopened(self, claimed_at: float) -> None:
        """A claim that began at `claimed_at` has been taken: no earlier one can bring commands any more."""
        for device_id, lane in list(self._lanes.items()):
            idle = not lane.waiting and lane.sending is None and not lane.unwritten
            if idle and lane.reopened_at < claimed_at:
                self._forget(device_id)

    def _forget(self, device_id: UUID) -> None:
        lane = self._lanes.pop(device_id)
        self._devices[lane.key].discard(device_id)
        if not self._devices[lane.key]:
            del self._devices[lane.key]

    def _note_change(self, lane: _Lane) -> None:
        if lane.changed is not None:
            lane.changed.set()
            lane.changed = None
        self._changed.set()

    def _log_released(self) -> None:
        """One line for each reason, however many commands it concerns."""
        for reason, number in self._released.items():
            unknown = self._outcome_unknown[reason]
            log.warning(
                "[CommandQueue] %d command(s) not sent, pending again without a failure counted: %s%s",
                number,
                reason,
                f"; {unknown} of them may have arrived and will be sent again under the same command_id"
                if unknown
                else "",
            )
        self._released.clear()
        self._outcome_unknown.clear()


def _too_late(claimed: _Claimed) -> ServiceError:
    """Why a command is released that has no PUBACK yet; from here on it is not sent any more."""
    if claimed.is_signing:
        return SupabaseUnavailableError("Storage did not sign the firmware's address in time")
    if claimed.withdraw():
        return BrokerUnavailableError("the broker did not take what was sent before it in time")
    return OutcomeUnknownError("the broker did not acknowledge in time")


_NO_TIME_LEFT = "it expires before it can be sent"
