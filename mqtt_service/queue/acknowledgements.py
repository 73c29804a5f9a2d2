"""Devices' acknowledgements, from `…/ack` to the rows of their commands.

A message is handled once its write is committed; only then does the link acknowledge it to the broker. So an
answer that the broker accepted is in its row, or is delivered again.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mqtt_service.adapters.mqtt.message_identity import MessageRefs, delivery_id
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.supabase.acknowledgements import (
    Acknowledged,
    AcknowledgementGateway,
    AcknowledgementRow,
)
from mqtt_service.batching import Batcher
from mqtt_service.errors import PermanentError
from mqtt_service.log import context
from mqtt_service.metrics import ACKNOWLEDGEMENTS, DROPPED_MESSAGES, FOREIGN_IDS
from mqtt_service.protocol.messages import Acknowledgement, ServiceMessage, parse_ack
from mqtt_service.protocol.replies import is_reply_id
from mqtt_service.protocol.topics import Topic, device_key
from mqtt_service.queue.command_queue import CommandQueueProcessor
from mqtt_service.queue.settling import PAUSE, SMALL_BATCH
from mqtt_service.repairs import Repairs

log = logging.getLogger(__name__)

_BATCH = 500
# The worker that is sending to the device records within a moment what it sent.
_PAUSE_WHEN_EARLY = 0.25


@dataclass(frozen=True, slots=True)
class AnswerListeners:
    """Whom to call, with the device's id as on its topic; the devices' visits wait for all of them.

    `on_answer`: the device answered a command of this type (None: unknown), and the row says so.
    `on_progress`: the device says that it is at a command, and the row says so.
    `on_image_confirmed`: this worker or another confirmed to the device that its picture is stored.
    """

    on_answer: Callable[[str, str | None], None] = lambda _device, _command_type: None
    on_image_confirmed: Callable[[str, str], None] = lambda _device, _image_name: None
    on_progress: Callable[[str], None] = lambda _device: None


class AcknowledgementHandler:
    """Takes devices' acknowledgements from `…/ack` to their rows, in the order in which they came.

    `shared`: the subscription is shared, so no other worker receives these. `standby`: another service beside
    the workers receives and uses them. `session_started_at` is the
    monotonic time at which the broker's session began, None where it is older than this process.
    """

    def __init__(
        self,
        gateway: AcknowledgementGateway,
        queue: CommandQueueProcessor,
        listeners: AnswerListeners,
        worker: str,
        *,
        shared: bool = False,
        standby: bool = False,
        session_started_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._gateway = gateway
        self._queue = queue
        self._listeners = listeners
        self._worker = worker
        self._shared = shared
        self._standby = standby
        self._session_started_at = session_started_at
        self._refs = MessageRefs(worker, session_started_at)
        self._repairs = Repairs("ack")
        self._batcher: Batcher[AcknowledgementRow, Acknowledged] = Batcher(
            "ACK", self._write_batch, _BATCH, key=lambda row: device_key(row.topic_id), pause=PAUSE
        )

    async def run(self) -> None:
        """Write acknowledgements until cancelled."""
        await self._batcher.run()

    async def drained(self) -> None:
        """Wait until every acknowledgement received so far is in the database."""
        await self._batcher.drained()

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest answer has waited for the database."""
        return self._batcher.longest_wait

    async def handle(self, topic: Topic, message: InboundMessage) -> None:
        """Write one message; raises RemoteProtocolError for one that cannot be read."""
        answer = parse_ack(topic, message.payload)
        if isinstance(answer, ServiceMessage):
            DROPPED_MESSAGES.labels("own").inc()
            if answer.kind == "ACK_OK" and answer.image_name is not None:
                self._listeners.on_image_confirmed(answer.device, answer.image_name)
            return
        self._repairs.report(answer.device, answer.repairs)
        if is_reply_id(answer.command_id):
            DROPPED_MESSAGES.labels("reply_id").inc()
        else:
            await self._acknowledge(answer, message)

    async def _acknowledge(self, answer: Acknowledgement, message: InboundMessage) -> None:
        if answer.claimed_device is not None:
            FOREIGN_IDS.inc()
        ref = self._refs.ref_of(message)
        try:
            result = await self._write(answer, ref, message)
        except asyncio.CancelledError:
            self._refs.cancelled(message, ref)
            raise
        except PermanentError as error:
            DROPPED_MESSAGES.labels("refused").inc()
            log.warning("[ACK] Dropped: %s", error, extra=context(device=answer.device))
            return
        if answer.outcome == "in_progress":
            self._listeners.on_progress(answer.device)
        elif result.result != "reply":
            self._listeners.on_answer(answer.device, result.command_type)

    async def _write(self, answer: Acknowledgement, ref: str, message: InboundMessage) -> Acknowledged:
        if answer.command_id is None:
            await self._queue.wait_until_sent_is_recorded(answer.device)
        row = self._row(answer, ref, message)
        result = await self._batcher.submit(row)
        while result.result == "early":
            await asyncio.sleep(_PAUSE_WHEN_EARLY)
            result = await self._batcher.submit(row)
        return result

    async def _write_batch(self, rows: Sequence[AcknowledgementRow]) -> list[Acknowledged]:
        results = await self._gateway.acknowledge(rows)
        few = len(rows) <= SMALL_BATCH
        counts: Counter[str] = Counter()
        for row, result in zip(rows, results, strict=True):
            if result.result != "early":
                counts[result.result] += 1
                _log_result(row, result, few=few)
        for word, number in counts.items():
            ACKNOWLEDGEMENTS.labels(word).inc(number)
        if counts["acknowledged"] and not few:
            log.info("[CommandQueue] ✅ %d command(s) acknowledged by devices", counts["acknowledged"])
        return results

    def _row(self, answer: Acknowledgement, ref: str, message: InboundMessage) -> AcknowledgementRow:
        return AcknowledgementRow(
            ref=ref,
            topic_root=answer.root,
            topic_id=answer.device,
            outcome=answer.outcome,
            command_id=answer.command_id,
            command_type=answer.command_type,
            message=answer.message,
            response=answer.response,
            progress=answer.progress,
            shared=self._shared,
            standby=self._standby,
            delivery=delivery_id(self._worker, message),
            redelivered=message.duplicate,
            received_at=message.received_at,
            session_started_at=self._session_started_at(),
        )


_WHY_UNUSED = {
    "unknown_device": "no device with this id is registered",
    "unknown_command": "no command of this device waits for an answer",
    "wrong_device": "the command belongs to another device",
    "duplicate": "the command had it already",
    "ignored": "the command is in a final state",
    "refused": "the database refuses to change the command",
}


def _log_result(row: AcknowledgementRow, result: Acknowledged, *, few: bool) -> None:
    """One line for each answer; of many, those that say that it is done at debug level."""
    level = logging.INFO if few else logging.DEBUG
    if result.result == "acknowledged" and not log.isEnabledFor(level):
        return
    extra = context(command=result.command_id or row.command_id, device=result.device_code or row.topic_id)
    if result.result == "acknowledged":
        log.log(
            level, "[CommandQueue] ✅ Command %s acknowledged by device", result.command_type, extra=extra
        )
    elif result.result in {"failed", "rejected"}:
        log.warning(
            "[CommandQueue] ❌ Command %s %s by device: %s",
            result.command_type,
            result.result,
            row.message or "no reason given",
            extra=extra,
        )
    elif result.result == "in_progress":
        _log_progress(row, result, level, extra)
    elif result.result == "reply":
        log.debug("[VISIT] The device acknowledged a reply (%s)", result.command_type, extra=extra)
    else:
        why = f": {result.error}" if result.error else ""
        unused = _WHY_UNUSED[result.result]
        if result.result == "ignored" and result.status == "cancelled" and row.outcome != "in_progress":
            unused = "the command was cancelled; its row says what the device did all the same"
        log.warning("[CommandQueue] Answer not used: %s%s", unused, why, extra=extra)


def _log_progress(
    row: AcknowledgementRow, result: Acknowledged, level: int, extra: dict[str, object]
) -> None:
    share = "in progress" if row.progress is None else f"{row.progress} % done"
    if result.status == "sent":
        log.log(level, "[CommandQueue] Command %s: %s", result.command_type, share, extra=extra)
    else:
        log.warning(
            "[CommandQueue] Command %s: %s, says the device, but the command is %s",
            result.command_type,
            share,
            result.status,
            extra=extra,
        )
