"""Routes what devices send: acknowledgements, HELLOs and pictures each to their handler.

HELLOs and pictures can also, or only, go to an edge function; acknowledgements always go to the queue. A
stand-by leaves HELLOs and pictures to the service beside it.

The link acknowledges a message to the broker only after `handle` has returned, and so after what it changed
is committed. A message that cannot be read is logged, counted and dropped; it never stops the service.
"""

import logging
from dataclasses import dataclass, field

from mqtt_service.adapters.mqtt.messages import AtOnce, InboundMessage
from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.devices.handover import Handover
from mqtt_service.devices.heartbeats import HeartbeatHandler
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.telemetry import TelemetryHandler
from mqtt_service.devices.visits import Visits
from mqtt_service.errors import PermanentError, RemoteProtocolError
from mqtt_service.log import context
from mqtt_service.metrics import DROPPED_MESSAGES, FOREIGN_IDS, UNUSABLE_VALUES
from mqtt_service.protocol.assembly import ImageRefusedError
from mqtt_service.protocol.images import (
    ImageChunk,
    ImageMetadata,
    ImageNameError,
    LoneReadings,
    parse_data,
)
from mqtt_service.protocol.topics import Topic, is_probe, parse_topic
from mqtt_service.queue.acknowledgements import AcknowledgementHandler
from mqtt_service.repairs import Repairs

log = logging.getLogger(__name__)

# So metadata, which has none, is read once: by `handle`, which takes a chunk spelt with escapes, too.
_CHUNK_ID = b'"chunk_id"'


@dataclass(frozen=True, slots=True)
class InboundRouter:
    """Takes each message from MQTT to its handler; `standby`: another service answers the devices."""

    acknowledgements: AcknowledgementHandler
    heartbeats: HeartbeatHandler
    pictures: Pictures
    visits: Visits
    telemetry: TelemetryHandler
    handover: Handover | None = None
    standby: bool = False
    repairs: Repairs = field(default_factory=lambda: Repairs("data"))

    async def handle(self, message: InboundMessage) -> None:
        """Handle one message; return once what it changed is committed."""
        try:
            topic = parse_topic(message.topic)
            if is_probe(topic.device):
                DROPPED_MESSAGES.labels("probe").inc()
                return
            if topic.channel == "ack":
                await self.acknowledgements.handle(topic, message)
                return
            if self.standby:
                DROPPED_MESSAGES.labels("standby").inc()
                return
            if self.handover is not None:
                await self.handover.submit(message)
            if self.handover is None or not self.handover.exclusive:
                await self._from_device(topic, message)
        except RemoteProtocolError as error:
            DROPPED_MESSAGES.labels("malformed").inc()
            log.warning("[MQTT] Dropped a message on %r: %s", message.topic, error)

    def handle_at_once(self, message: InboundMessage) -> AtOnce:
        """Keep a picture's chunk, which needs memory alone; `handle` has to see to any other message."""
        if self.standby or self.handover is not None or _CHUNK_ID not in message.payload:
            return AtOnce.TO_HANDLER
        try:
            data = parse_data(parse_topic(message.topic), message.payload, now=self.pictures.now())
            if not isinstance(data, ImageChunk):
                return AtOnce.TO_HANDLER
            self._chunk(data)
        except ImageRefusedError as error:
            return AtOnce.NO_ROOM if error.passes else AtOnce.TO_HANDLER
        except RemoteProtocolError:  # `handle` meets it again, and can tell the picture's row
            return AtOnce.TO_HANDLER
        if data.repairs:
            self.repairs.report(data.device, data.repairs)
        if data.claimed_device is not None:
            FOREIGN_IDS.inc()
        return AtOnce.HANDLED

    async def _from_device(self, topic: Topic, message: InboundMessage) -> None:
        if topic.channel == "status":
            await self.heartbeats.handle(topic, message.payload)
        elif topic.channel == "data":
            await self._data(topic, message)

    async def _data(self, topic: Topic, message: InboundMessage) -> None:
        try:
            data = parse_data(topic, message.payload, now=self.pictures.now())
        except ImageNameError as error:
            await self._refuse(topic.device, error.shown, error)
            raise
        self.repairs.report(data.device, data.repairs)
        if data.claimed_device is not None:
            FOREIGN_IDS.inc()
        if isinstance(data, LoneReadings):
            await self.telemetry.handle(data, message)
            return
        try:
            if isinstance(data, ImageChunk):
                self._chunk(data)
            else:
                await self._metadata(data)
        except ImageRefusedError as error:
            await self._refuse(data.device, data.name, error)

    async def _refuse(self, device: str, name: str, error: RemoteProtocolError) -> None:
        try:
            recorded = await self.pictures.refuse(device, name, error)
        except PermanentError as refusal:
            DROPPED_MESSAGES.labels("refused").inc()
            log.warning("[IMAGE] %s dropped: %s", name, refusal, extra=context(device=device))
            return
        if recorded is not None and recorded.result != "unknown_device":
            self.visits.heard_from(device).picture_recorded(recorded)

    def _chunk(self, chunk: ImageChunk) -> None:
        assembly = self.pictures.chunk(chunk)
        if assembly is None:
            return
        visit = self.visits.heard_from(chunk.device)
        if assembly.complete:
            visit.picture_complete()

    async def _metadata(self, metadata: ImageMetadata) -> None:
        for kind in metadata.unusable:
            UNUSABLE_VALUES.labels(kind).inc()
        await self.visits.wait_for_beginning(metadata.device)
        recorded = await self._announce(metadata)
        if recorded is None:
            return
        if recorded.device_id is None and recorded.result in {"unknown_device", "refused"}:
            DROPPED_MESSAGES.labels("refused").inc()
            reason = recorded.error or "the device is not registered and may not register itself"
            log.warning(
                "[IMAGE] %s dropped: %s", metadata.name, reason, extra=context(device=metadata.device)
            )
            return
        await self.visits.heard_from(metadata.device).picture_announced(metadata, recorded)

    async def _announce(self, metadata: ImageMetadata) -> ImageRecorded | None:
        try:
            return await self.pictures.announce(metadata)
        except PermanentError as error:
            DROPPED_MESSAGES.labels("refused").inc()
            log.warning("[IMAGE] %s dropped: %s", metadata.name, error, extra=context(device=metadata.device))
            return None
