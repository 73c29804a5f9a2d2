"""What devices say: one handler per kind of message. A handler returns once its write is committed.

The link acknowledges a message to the broker only after its handler has returned, so that an answer which
the broker accepted is in its row, or comes again.
"""

import asyncio
import logging
from collections import OrderedDict
from itertools import count

from mqtt_service.adapters.gateway import Gateway
from mqtt_service.adapters.mqtt_link import InboundMessage
from mqtt_service.adapters.rows import Acknowledged, AcknowledgementRow
from mqtt_service.batching import Batcher
from mqtt_service.command_queue import CommandQueueProcessor
from mqtt_service.errors import PermanentError, RemoteProtocolError
from mqtt_service.log import context
from mqtt_service.metrics import ACKNOWLEDGEMENTS, DROPPED_MESSAGES, FOREIGN_IDS
from mqtt_service.protocol.messages import Acknowledgement, ServiceMessage, parse_ack
from mqtt_service.protocol.topics import parse_topic

log = logging.getLogger(__name__)

_BATCH = 500
_MOST_CANCELLED = 1000


class AcknowledgementHandler:
    """Takes devices' acknowledgements from `…/ack` to their rows, in the order in which they came."""

    def __init__(self, gateway: Gateway, queue: CommandQueueProcessor, worker: str) -> None:
        self._queue = queue
        self._batcher: Batcher[AcknowledgementRow, Acknowledged] = Batcher("ACK", gateway.acknowledge, _BATCH)
        self._worker = worker
        self._refs = count(1)
        # Messages whose handling was cancelled, by what the broker repeats: a repeat is the same answer.
        self._cancelled: OrderedDict[tuple[str, bytes], str] = OrderedDict()

    async def run(self) -> None:
        """Write acknowledgements until cancelled."""
        await self._batcher.run()

    async def drained(self) -> None:
        """Wait until every acknowledgement received so far is in the database."""
        await self._batcher.drained()

    async def handle(self, message: InboundMessage) -> None:
        """Write one message; a malformed one is logged, counted and dropped."""
        try:
            topic = parse_topic(message.topic)
            answer = parse_ack(topic, message.payload)
        except RemoteProtocolError as error:
            DROPPED_MESSAGES.labels("malformed").inc()
            log.warning("[ACK] Dropped a message on %r: %s", message.topic, error)
            return
        if isinstance(answer, ServiceMessage):
            DROPPED_MESSAGES.labels("own").inc()
            return
        await self._acknowledge(answer, message)

    async def _acknowledge(self, answer: Acknowledgement, message: InboundMessage) -> None:
        if answer.claimed_device is not None:
            FOREIGN_IDS.inc()
        key = (message.topic, message.payload)
        ref = self._cancelled.pop(key, "") if message.duplicate else ""
        ref = ref or f"{self._worker}:{next(self._refs)}"
        try:
            if answer.command_id is None:
                await self._queue.sent_is_known(answer.device)
            result = await self._batcher.submit(self._row(answer, ref))
        except asyncio.CancelledError:
            self._cancelled[key] = ref
            if len(self._cancelled) > _MOST_CANCELLED:
                self._cancelled.popitem(last=False)
            raise
        except PermanentError as error:
            DROPPED_MESSAGES.labels("refused").inc()
            log.warning("[ACK] Dropped: %s", error, extra=context(device=answer.device))
            return
        ACKNOWLEDGEMENTS.labels(result.result).inc()
        _tell(answer, result)

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest answer has waited for the database."""
        return self._batcher.longest_wait

    @staticmethod
    def _row(answer: Acknowledgement, ref: str) -> AcknowledgementRow:
        return AcknowledgementRow(
            ref=ref,
            topic_root=answer.root,
            topic_id=answer.device,
            outcome=answer.outcome,
            command_id=answer.command_id,
            command_type=answer.command_type,
            message=answer.message,
            response=answer.response,
        )


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
    else:
        log.warning("[CommandQueue] Answer not used: %s", _UNMATCHED[result.result], extra=extra)
