"""One connection to the broker, from CONNECT to its end, as the event loop sees it.

paho itself sends again what it holds when it reconnects, so a client is used for one connection only, and a
publish that waits for its PUBACK when the connection ends learns that its outcome is unknown.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial

from paho.mqtt import client as mqtt
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt import broker_errors, subscriptions
from mqtt_service.adapters.mqtt.ack_order import AckOrder
from mqtt_service.adapters.mqtt.client import V5, Client, new_properties
from mqtt_service.adapters.mqtt.in_flight import InFlight, Outgoing
from mqtt_service.adapters.mqtt.loop_bridge import LoopBridge
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.adapters.mqtt.publish_packets import Publish
from mqtt_service.errors import (
    BrokerUnavailableError,
    PermanentError,
    ServiceError,
)
from mqtt_service.publisher import Done, PublishResult, Withdraw

_NO_MATCHING_SUBSCRIBERS = 0x10
_MAX_EXPIRY = 0xFFFF_FFFF
_NO_LIMIT = 0xFFFF
# A PUBLISH is its topic, its payload, and less than this.
_PUBLISH_OVERHEAD = 32
_SOMEBODY_LISTENS = PublishResult(no_subscriber=False)
_NOBODY_LISTENS = PublishResult(no_subscriber=True)
Receive = Callable[[InboundMessage, int, AckOrder], None]


@dataclass(frozen=True, slots=True)
class Established:
    """A connection that works; `session_present`: the broker had kept our session. `keepalive` in seconds."""

    session_present: bool
    keepalive: int


class Connection:
    """One connection. `ready` is set once it works; `ended` holds the reason why it no longer does.

    `receive` is called from CONNACK on, since a kept session delivers before SUBACK. `on_new_session` is
    called at CONNACK where the broker had kept none. Raises OSError when the CA file cannot be read.
    """

    def __init__(
        self,
        options: MqttOptions,
        protocol: MQTTProtocolVersion,
        topics: Sequence[str],
        receive: Receive,
        on_new_session: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Established] = loop.create_future()
        self.ended: asyncio.Future[ServiceError] = loop.create_future()
        self._options = options
        self._v5 = protocol == V5
        self._topics = topics
        self._receive = receive
        self._on_new_session = on_new_session
        self._in_flight = InFlight(options.max_in_flight, self._publish)
        self._puback_watch: asyncio.TimerHandle | None = None
        self._max_packet: int | None = None
        self._established: Established | None = None
        self._unsubscribed = asyncio.Event()
        self._client = Client(options, protocol, self, LoopBridge(self._failed))
        # Without effect once the connection has ended: the broker then delivers again.
        self.order = AckOrder(self._client.acknowledge, loop.call_soon)

    @property
    def usable(self) -> bool:
        """Whether a publish can be tried."""
        return self.ready.done() and not self.ended.done()

    @property
    def last_received(self) -> float:
        """The monotonic time of the last packet from the broker."""
        return self._client.last_received

    def start(self) -> None:
        """Connect; then either `ready` or `ended` is set."""
        self._client.loop_start()

    def send(self, topic: str, payload: bytes, expiry_seconds: int | None, done: Done) -> Withdraw:
        """Publish at QoS 1, never retained; see `Sender.send`."""
        self._check_size(topic, payload)
        message = Outgoing(topic, payload, expiry_seconds, done)
        self._in_flight.add(message)
        if self._puback_watch is None:
            self._watch_pubacks()
        return partial(self._in_flight.withdraw, message)

    async def leave_groups(self, timeout: float) -> None:  # noqa: ASYNC109 - it does not cancel, it gives up waiting
        """End shared subscriptions: Mosquitto goes on giving messages to members that are away."""
        shared = subscriptions.shared(self._topics)
        if shared and self._v5:
            self._unsubscribed.clear()
            self._client.unsubscribe(shared)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._unsubscribed.wait()

    def disconnect(self) -> None:
        """Send DISCONNECT; the broker keeps the session, and `ended` follows."""
        self.order.flush()
        self._client.disconnect()

    def end(self, reason: ServiceError) -> None:
        """Break off for this reason, unless it has ended already; nothing is reported after that."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self._client.abort()
        if self._puback_watch is not None:
            self._puback_watch.cancel()
        self._in_flight.fail_all(str(reason))

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, ServiceError):
            error = BrokerUnavailableError(f"the MQTT link failed ({error!r})")
        self.end(error)

    def _check_size(self, topic: str, payload: bytes) -> None:
        """A packet beyond its limit would make the broker close the connection for everyone."""
        size = len(topic.encode(errors="replace")) + len(payload) + _PUBLISH_OVERHEAD
        if self._max_packet is not None and size > self._max_packet:
            raise PermanentError(
                f"the message on {topic} has {size} bytes, the broker takes {self._max_packet}"
            )

    def _publish(self, message: Outgoing) -> int:
        """Give a message to paho; returns its packet id. What it waited here is time of its expiry, too."""
        if self.ended.done():
            raise BrokerUnavailableError(str(self.ended.result()))
        properties = None
        if self._v5 and message.expiry_seconds is not None:
            expiry = message.expiry_seconds - int(time.monotonic() - message.since)
            properties = _expiry_properties(min(max(expiry, 1), _MAX_EXPIRY))
        try:
            info = self._client.publish(
                message.topic, message.payload, qos=1, retain=False, properties=properties
            )
        except ValueError as error:
            raise PermanentError(f"nothing can be published on {message.topic!r}: {error}") from error
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerUnavailableError(f"not published: {mqtt.error_string(info.rc)}")
        # No PUBACK was missed: `puback` runs on this loop too, so never before this line.
        return info.mid

    def _watch_pubacks(self) -> None:
        """End a connection on which a PUBACK does not come; one timer watches the oldest message alone."""
        self._puback_watch, sent_at = None, self._in_flight.oldest_sent_at
        if sent_at is None or self.ended.done():
            return
        left = sent_at + self._options.puback_timeout - time.monotonic()
        if left > 0:
            self._puback_watch = asyncio.get_running_loop().call_later(left, self._watch_pubacks)
        else:
            seconds = self._options.puback_timeout
            self.end(BrokerUnavailableError(f"{self._options.address} sent no PUBACK for {seconds:.0f} s"))

    # What the client reports (BrokerEvents):

    def connack(self, reason: ReasonCode, properties: Properties, *, session_present: bool) -> None:
        """Adopt the broker's limits and subscribe, or end."""
        if self.ended.done():
            return
        if reason.is_failure:
            self.end(broker_errors.refused_connect(self._options, reason))
            return
        receive_maximum = getattr(properties, "ReceiveMaximum", _NO_LIMIT)
        self._in_flight.set_limit(min(self._options.max_in_flight, receive_maximum))
        self._max_packet = getattr(properties, "MaximumPacketSize", None)
        keepalive = getattr(properties, "ServerKeepAlive", self._options.keepalive)
        self._established = Established(session_present, keepalive)
        if not session_present:
            self._on_new_session()
        self._subscribe()

    def _subscribe(self) -> None:
        if not self._topics:
            self.suback([])
        elif self._v5:
            shared = subscriptions.shared(self._topics)
            if shared:  # a session that was kept from before there was a group subscribes to these alone
                self._client.unsubscribe([subscriptions.without_group(topic) for topic in shared])
            self._client.subscribe([(topic, subscriptions.options_of(topic)) for topic in self._topics])
        else:
            self._client.subscribe([(subscriptions.without_group(topic), 1) for topic in self._topics])

    def suback(self, answers: list[ReasonCode]) -> None:
        """The connection works, unless a subscription was refused."""
        if self.ended.done() or self._established is None:
            return
        for topic, answer in zip(self._topics, answers, strict=True):
            if answer.is_failure:
                self.end(broker_errors.refused_subscription(self._options, topic, answer))
                return
        self.ready.set_result(self._established)

    def unsuback(self) -> None:
        """The broker ended subscriptions."""
        self._unsubscribed.set()

    def puback(self, mid: int, reason: ReasonCode) -> None:
        """Pass the broker's answer on."""
        message = self._in_flight.acknowledged(mid)
        if message is None:
            return
        if reason.is_failure:
            message.done(broker_errors.refused_publish(message.topic, reason))
        else:
            message.done(_NOBODY_LISTENS if reason.value == _NO_MATCHING_SUBSCRIBERS else _SOMEBODY_LISTENS)

    def messages(self, messages: list[Publish]) -> None:
        """Pass these on. A retained one is old; a broker of MQTT 5 is asked not to send such."""
        for message in messages:
            if self.ended.done():
                return
            if not message.retained:
                self._receive(_inbound(message, self._options.max_inbound), message.mid, self.order)
            elif message.qos:
                self._client.acknowledge([message.mid])

    def disconnected(self, reason: ReasonCode) -> None:
        """The broker ended the connection and says why."""
        self.end(broker_errors.broker_disconnected(self._options, reason))

    def thread_ended(self, error: Exception | None) -> None:
        """The connection has ended, if it had not before."""
        if error is not None and self._established is None:
            self.end(broker_errors.failed_connect(self._options, error))
        elif error is not None:
            self._failed(error)
        else:
            self.end(broker_errors.connection_lost(self._options, answered=self._established is not None))


@lru_cache(maxsize=256)
def _expiry_properties(seconds: int) -> Properties:
    """Shared by all messages with this expiry: paho only reads them, and takes long to make them."""
    properties = new_properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = seconds
    return properties


def _inbound(message: Publish, counts_above: int) -> InboundMessage:
    packet_id = message.mid if message.qos and message.mid > counts_above else None
    return InboundMessage(message.topic, message.payload, message.qos, message.duplicate, packet_id)
