"""Devices' acknowledgements, from `…/ack` to the rows of their commands.

A message is handled once its write is committed; only then does the link acknowledge it to the broker. So an
answer that the broker accepted is in its row, or comes again.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from mqtt_service.adapters.mqtt.link import InboundMessage
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

log = logging.getLogger(__name__)

_BATCH = 500
_MOST_CANCELLED = 1000
# The worker that is sending to the device knows within a moment what it sent.
_EARLY = 0.25


@dataclass(frozen=True, slots=True)
class AnswerListeners:
    """Whom to call, with the device's id as on its topic; the devices' visits wait for both.

    `on_answer`: the device answered a command of this type (None: unknown), and the row says so.
    `on_image_confirmed`: a worker, this one or another, told the device that its picture is stored.
    """

    on_answer: Callable[[str, str | None], None] = lambda _device, _command_type: None
    on_image_confirmed: Callable[[str, str], None] = lambda _device, _image_name: None


class AcknowledgementHandler:
    """Takes devices' acknowledgements from `…/ack` to their rows, in the order in which they came."""

    def __init__(
        self,
        gateway: AcknowledgementGateway,
        queue: CommandQueueProcessor,
        listeners: AnswerListeners,
        worker: str,
        *,
        shared: bool = False,
        heard_since: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._shared = shared
        self._heard_since = heard_since
        self._queue = queue
        self._listeners = listeners
        self._batcher: Batcher[AcknowledgementRow, Acknowledged] = Batcher(
            "ACK", gateway.acknowledge, _BATCH, key=lambda row: device_key(row.topic_id)
        )
        self._worker = worker
        self._refs = count(1)
        # Refs of messages whose handling was cancelled, by what the broker repeats, in their order.
        self._cancelled: OrderedDict[tuple[str, bytes], list[tuple[str, float]]] = OrderedDict()

    async def run(self) -> None:
        """Write acknowledgements until cancelled."""
        await self._batcher.run()

    async def drained(self) -> None:
        """Wait until every acknowledgement received so far is in the database."""
        await self._batcher.drained()

    async def handle(self, topic: Topic, message: InboundMessage) -> None:
        """Write one message; raises RemoteProtocolError for one that cannot be read."""
        answer = parse_ack(topic, message.payload)
        if isinstance(answer, ServiceMessage):
            DROPPED_MESSAGES.labels("own").inc()
            if answer.kind == "ACK_OK" and answer.image_name is not None:
                self._listeners.on_image_confirmed(answer.device, answer.image_name)
        elif is_reply_id(answer.command_id):
            DROPPED_MESSAGES.labels("reply").inc()
        else:
            await self._acknowledge(answer, message)

    async def _acknowledge(self, answer: Acknowledgement, message: InboundMessage) -> None:
        if answer.claimed_device is not None:
            FOREIGN_IDS.inc()
        key = (message.topic, message.payload)
        ref = self._ref_of_repeat(key) if message.duplicate else None
        ref = ref or f"{self._worker}:{next(self._refs)}"
        try:
            if answer.command_id is None:
                await self._queue.sent_is_known(answer.device)
            row = self._row(answer, ref, message)
            result = await self._batcher.submit(row)
            while result.result == "early":
                await asyncio.sleep(_EARLY)
                result = await self._batcher.submit(row)
        except asyncio.CancelledError:
            self._cancelled.setdefault(key, []).append((ref, message.heard_at))
            if len(self._cancelled) > _MOST_CANCELLED:
                self._cancelled.popitem(last=False)
            raise
        except PermanentError as error:
            DROPPED_MESSAGES.labels("refused").inc()
            log.warning("[ACK] Dropped: %s", error, extra=context(device=answer.device))
            return
        ACKNOWLEDGEMENTS.labels(result.result).inc()
        if result.result != "reply":
            self._listeners.on_answer(answer.device, result.command_type)
        _tell(answer, result)

    def _ref_of_repeat(self, key: tuple[str, bytes]) -> str | None:
        """The next ref of these words; none of a session that is gone: the broker repeats nothing of it."""
        began = self._heard_since() or 0.0
        refs = [ref for ref in self._cancelled.pop(key, []) if ref[1] >= began]
        if len(refs) > 1:
            self._cancelled[key] = refs[1:]
        return refs[0][0] if refs else None

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest answer has waited for the database."""
        return self._batcher.longest_wait

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
            shared=self._shared,
            delivery=self._delivery(message),
            redelivered=message.duplicate,
            heard_at=message.heard_at,
            heard_since=self._heard_since(),
        )

    def _delivery(self, message: InboundMessage) -> str | None:
        """What names the message in the session of our client id: its packet id, and what it says."""
        if message.packet_id is None:
            return None
        client_id = self._worker.rpartition(":")[0]
        digest = hashlib.sha256(message.topic.encode(errors="replace") + b"\0" + message.payload).hexdigest()
        return f"{client_id}#{message.packet_id}#{digest[:16]}"


_UNMATCHED = {
    "unknown_device": "no device with this id is registered",
    "unknown_command": "no command of this device awaits it",
    "wrong_device": "the command belongs to another device",
    "duplicate": "the command had it already",
    "ignored": "the command is in a final state",
}


def _tell(answer: Acknowledgement, result: Acknowledged) -> None:
    extra = context(
        command=result.command_id or answer.command_id, device=result.device_code or answer.device
    )
    if result.result == "acknowledged":
        log.info("[CommandQueue] ✅ Command %s acknowledged by device", result.command_type, extra=extra)
    elif result.result in {"failed", "rejected"}:
        reason = answer.message or "no reason given"
        log.warning(
            "[CommandQueue] ❌ Command %s %s by device: %s",
            result.command_type,
            result.result,
            reason,
            extra=extra,
        )
    elif result.result == "reply":
        log.debug("[VISIT] The device acknowledged a reply (%s)", result.command_type, extra=extra)
    else:
        log.warning("[CommandQueue] Answer not used: %s", _UNMATCHED[result.result], extra=extra)
