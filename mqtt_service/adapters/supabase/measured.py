"""The gateways of commands and answers, which also count by type and measure how long each took.

Each row costs a look into a dict and an observation: the children of the metrics are kept (`metrics.child`).
"""

import time
from collections.abc import Sequence
from uuid import UUID

from mqtt_service.adapters.supabase.acknowledgements import (
    Acknowledged,
    AcknowledgementGateway,
    AcknowledgementRow,
)
from mqtt_service.adapters.supabase.commands import (
    Claim,
    CommandGateway,
    RetryPolicy,
    Settled,
    Settlement,
)
from mqtt_service.adapters.supabase.devices import HeartbeatGateway, HeartbeatRecorded, HeartbeatRow
from mqtt_service.adapters.supabase.transport import DatabaseFunctions
from mqtt_service.metrics import (
    ANSWER_SECONDS,
    COMMAND_OUTCOMES,
    REDELIVERIES,
    SEND_SECONDS,
    child,
)

_MOST_IN_HAND = 50_000


class MeasuredCommandGateway(CommandGateway):
    """Counts attempts by type and outcome, and measures from a command's time until it is settled as sent."""

    def __init__(self, database: DatabaseFunctions, worker: str, policy: RetryPolicy) -> None:
        super().__init__(database, worker, policy)
        # For each command in hand: its type, and when it was to be sent, by this process' monotonic clock.
        self._in_hand: dict[UUID, tuple[str, float]] = {}

    @property
    def in_hand(self) -> int:
        """How many commands are claimed and not settled."""
        return len(self._in_hand)

    async def claim(self, *, limit: int, lease: float, held: Sequence[UUID]) -> Claim:
        """As `CommandGateway.claim`."""
        claim = await super().claim(limit=limit, lease=lease, held=held)
        now = time.monotonic()
        if len(self._in_hand) > _MOST_IN_HAND:  # whose settlements the database refused
            self._in_hand.clear()
        for command in claim.commands:
            ago = claim.waited.get(str(command.command_id), 0.0)
            self._in_hand[command.command_id] = command.command_type, now - ago
        for failed in claim.failed:
            child(
                COMMAND_OUTCOMES, failed.command_type, "failed_for_good" if failed.final else "failed"
            ).inc()
        for expired in claim.expired:
            child(COMMAND_OUTCOMES, expired.command_type, "expired").inc()
        return claim

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """As `CommandGateway.settle`."""
        answers = await super().settle(settlements)
        now = time.monotonic()
        for settlement, settled in zip(settlements, answers, strict=False):
            if settled.result == "refused":
                continue
            known = self._in_hand.pop(settlement.command_id, None)
            if settled.result == "stale" or known is None:  # or it was counted before
                continue
            kind, since = known
            for_good = settlement.outcome == "failed" and settled.final
            child(COMMAND_OUTCOMES, kind, "failed_for_good" if for_good else settlement.outcome).inc()
            if settlement.outcome == "sent":
                child(SEND_SECONDS, kind).observe(now - since)
        return answers


class MeasuredAcknowledgementGateway(AcknowledgementGateway):
    """Counts commands by type and what devices answered, and measures how long the devices took."""

    async def acknowledge(self, rows: Sequence[AcknowledgementRow]) -> list[Acknowledged]:
        """As `AcknowledgementGateway.acknowledge`."""
        answers = await super().acknowledge(rows)
        for answer in answers:
            if answer.result in {"acknowledged", "failed", "rejected"} and answer.command_type is not None:
                child(COMMAND_OUTCOMES, answer.command_type, f"device_{answer.result}").inc()
                if answer.result == "acknowledged" and answer.seconds_since_sent is not None:
                    child(ANSWER_SECONDS, answer.command_type).observe(answer.seconds_since_sent)
        return answers


class MeasuredHeartbeatGateway(HeartbeatGateway):
    """Counts the commands that go out again because their device woke."""

    async def record_heartbeats(self, heartbeats: Sequence[HeartbeatRow]) -> list[HeartbeatRecorded]:
        """As `HeartbeatGateway.record_heartbeats`."""
        answers = await super().record_heartbeats(heartbeats)
        REDELIVERIES.inc(sum(answer.redelivered for answer in answers))
        return answers
