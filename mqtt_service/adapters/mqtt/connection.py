"""One connection to the broker, from CONNECT to its end, as the event loop sees it.

paho resends by itself what it holds when it reconnects, so a client is used for one connection only, and
whoever waits for a PUBACK when that ends learns that the outcome is unknown.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from paho.mqtt import client as mqtt
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from mqtt_service.adapters.mqtt import reasons
from mqtt_service.adapters.mqtt.client import V5, Client, HandOver, new_properties
from mqtt_service.adapters.mqtt.inbound import AckOrder
from mqtt_service.adapters.mqtt.options import InboundMessage, MqttOptions
from mqtt_service.errors import (
    BrokerUnavailableError,
    OutcomeUnknownError,
    PermanentError,
    ServiceError,
)
from mqtt_service.publisher import PublishResult

log = logging.getLogger("mqtt_service.mqtt")

_NO_MATCHING_SUBSCRIBERS = 0x10
_LONGEST_EXPIRY = 0xFFFF_FFFF
# A PUBLISH is its topic, its payload, and less than this.
_PUBLISH_OVERHEAD = 32
Receive = Callable[[InboundMessage, int, AckOrder], None]
_SHARED = "$share/"


@dataclass(frozen=True, slots=True)
class Established:
    """A connection that works; `session_present`: the broker had kept our session. `keepalive` in seconds."""

    session_present: bool
    keepalive: int


class Connection:
    """See the module. `ready` says that it works, `ended` holds the reason why it does no longer.

    `receive` is called from CONNACK on: a kept session speaks before SUBACK. `begins_session` is called at
    CONNACK where the broker had kept none. Raises OSError when the CA file cannot be read.
    """

    def __init__(
        self,
        options: MqttOptions,
        protocol: MQTTProtocolVersion,
        subscriptions: Sequence[str],
        receive: Receive,
        begins_session: Callable[[], None] = lambda: None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Established] = loop.create_future()
        self.ended: asyncio.Future[ServiceError] = loop.create_future()
        self.gone = asyncio.Event()
        self._options = options
        self._v5 = protocol == V5
        self._subscriptions = subscriptions
        self._receive = receive
        self._begins_session = begins_session
        self._pending: dict[int, asyncio.Future[ReasonCode]] = {}
        self._slots = asyncio.Semaphore(options.max_in_flight)
        self._largest_packet: int | None = None
        self._established: Established | None = None
        self._unsubscribed = asyncio.Event()
        self._client = Client(options, protocol, self, HandOver(self._failed))
        # Without effect once the connection is gone: the broker delivers again then.
        self.order = AckOrder(partial(self._client.ack, qos=1))

    @property
    def usable(self) -> bool:
        """Whether a publish can be tried."""
        return self.ready.done() and not self.ended.done()

    @property
    def last_received(self) -> float:
        """The monotonic time of the last packet from the broker."""
        return self._client.last_received

    def start(self) -> None:
        """Connect; `ready` or `ended` says what came of it."""
        self._client.loop_start()

    async def publish(self, topic: str, payload: bytes, expiry_seconds: int | None) -> PublishResult:
        """Publish at QoS 1, never retained, and return at PUBACK; see `MqttLink.publish`."""
        self._check_size(topic, payload)
        asked = time.monotonic()
        await self._slots.acquire()
        if expiry_seconds is not None:
            expiry_seconds -= int(time.monotonic() - asked)
        try:
            acknowledged = self._send(topic, payload, expiry_seconds)
        except BaseException:
            self._slots.release()
            raise
        try:
            async with asyncio.timeout(self._options.puback_timeout):
                reason = await acknowledged
        except TimeoutError:
            seconds = self._options.puback_timeout
            self.end(BrokerUnavailableError(f"{self._options.address} sent no PUBACK for {seconds:.0f} s"))
            raise OutcomeUnknownError(str(self.ended.result())) from None
        if reason.is_failure:
            raise reasons.refused_publish(topic, reason)
        return PublishResult(no_subscriber=reason.value == _NO_MATCHING_SUBSCRIBERS)

    async def leave_groups(self, patience: float) -> None:
        """End shared subscriptions: Mosquitto goes on giving messages to members that are away."""
        shared = [topic for topic in self._subscriptions if topic.startswith(_SHARED)]
        if shared and self._v5:
            self._unsubscribed.clear()
            self._client.unsubscribe(shared)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._unsubscribed.wait()

    def disconnect(self) -> None:
        """Take leave of the broker, which keeps the session; `ended` follows."""
        self._client.disconnect()

    def end(self, reason: ServiceError) -> None:
        """Break off for this reason, unless it has ended already; nothing more is heard of the connection."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self._client.cut()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(OutcomeUnknownError(str(reason)))
            self._slots.release()
        self._pending.clear()

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, ServiceError):
            error = BrokerUnavailableError(f"the MQTT link failed ({error!r})")
        self.end(error)

    def _check_size(self, topic: str, payload: bytes) -> None:
        """The broker would answer a packet beyond its limit by closing the connection for everyone."""
        size = len(topic.encode(errors="replace")) + len(payload) + _PUBLISH_OVERHEAD
        if self._largest_packet is not None and size > self._largest_packet:
            raise PermanentError(
                f"the message on {topic} has {size} bytes, the broker takes {self._largest_packet}"
            )

    def _send(self, topic: str, payload: bytes, expiry_seconds: int | None) -> asyncio.Future[ReasonCode]:
        if self.ended.done():
            raise BrokerUnavailableError(str(self.ended.result()))
        properties = None
        if self._v5 and expiry_seconds is not None:
            properties = new_properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = min(max(expiry_seconds, 1), _LONGEST_EXPIRY)
        try:
            info = self._client.publish(topic, payload, qos=1, retain=False, properties=properties)
        except ValueError as error:
            raise PermanentError(f"nothing can be published on {topic!r}: {error}") from error
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerUnavailableError(f"not published: {mqtt.error_string(info.rc)}")
        # No PUBACK was missed: `puback` runs on this loop too, so never before this line.
        future: asyncio.Future[ReasonCode] = asyncio.get_running_loop().create_future()
        self._pending[info.mid] = future
        return future

    # What the broker said, in the terms of BrokerEvents:

    def connack(self, reason: ReasonCode, properties: Properties, *, session_present: bool) -> None:
        """Take over the broker's limits and subscribe, or end."""
        if self.ended.done():
            return
        if reason.is_failure:
            self.end(reasons.refused_connect(self._options, reason))
            return
        in_flight = min(self._options.max_in_flight, getattr(properties, "ReceiveMaximum", 0xFFFF))
        self._slots = asyncio.Semaphore(in_flight)
        self._largest_packet = getattr(properties, "MaximumPacketSize", None)
        keepalive = getattr(properties, "ServerKeepAlive", self._options.keepalive)
        self._established = Established(session_present, keepalive)
        if not session_present:
            self._begins_session()
        self._subscribe()

    def _subscribe(self) -> None:
        if not self._subscriptions:
            self.suback([])
        elif self._v5:
            unshared = [_unshared(topic) for topic in self._subscriptions if topic.startswith(_SHARED)]
            if unshared:  # the kept session of a worker that was in no group has them
                self._client.unsubscribe(unshared)
            self._client.subscribe([(topic, _subscribe_options(topic)) for topic in self._subscriptions])
        else:
            self._client.subscribe([(_unshared(topic), 1) for topic in self._subscriptions])

    def suback(self, answers: list[ReasonCode]) -> None:
        """The connection works, unless a subscription was refused."""
        if self.ended.done() or self._established is None:
            return
        for topic, answer in zip(self._subscriptions, answers, strict=True):
            if answer.is_failure:
                self.end(reasons.refused_subscription(self._options, topic, answer))
                return
        self.ready.set_result(self._established)

    def unsuback(self) -> None:
        """The broker ended subscriptions."""
        self._unsubscribed.set()

    def puback(self, mid: int, reason: ReasonCode) -> None:
        """Tell who waits, if it still does; only now is the slot free again."""
        future = self._pending.pop(mid, None)
        if future is None:
            return
        self._slots.release()
        if not future.done():
            future.set_result(reason)

    def message(self, message: mqtt.MQTTMessage) -> None:
        """Hand a message in. A retained one is old news, which a broker of MQTT 5 is asked not to send."""
        if self.ended.done():
            return
        if message.retain:
            self._client.ack(message.mid, message.qos)
            return
        self._receive(_inbound(message, self._options.max_inbound), message.mid, self.order)

    def disconnected(self, reason: ReasonCode) -> None:
        """The broker put us out."""
        self.end(reasons.broker_disconnected(self._options, reason))

    def thread_ended(self, error: Exception | None) -> None:
        """The connection is gone, if it was not before."""
        if error is not None and self._established is None:
            self.end(reasons.failed_connect(self._options, error))
        elif error is not None:
            self._failed(error)
        else:
            self.end(reasons.connection_lost(self._options, answered=self._established is not None))
        self.gone.set()


def _unshared(topic: str) -> str:
    """What `$share/<group>/` stands before; MQTT 3.1.1 knows no groups."""
    return topic.split("/", 2)[2] if topic.startswith(_SHARED) else topic


def _subscribe_options(topic: str) -> SubscribeOptions:
    # MQTT 5 forbids no-local on a shared subscription (section 3.8.3.1).
    return SubscribeOptions(
        qos=1,
        noLocal=not topic.startswith(_SHARED),
        retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND,
    )


def _inbound(message: mqtt.MQTTMessage, window: int) -> InboundMessage:
    try:
        topic = message.topic
    except UnicodeDecodeError:
        topic = "\ufffd"
    packet_id = message.mid if message.qos and message.mid > window else None
    return InboundMessage(topic, bytes(message.payload), message.qos, message.dup, packet_id)
