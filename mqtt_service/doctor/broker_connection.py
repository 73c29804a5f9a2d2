"""Connections of doctor's own to the broker: they announce its limits, and take their session with them.

Never under a worker's client id, which would throw that worker out, and never in a shared group, of which each
member takes a part of the messages from the others.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt.ack_order import AckOrder
from mqtt_service.adapters.mqtt.broker_errors import HungUpError, ProtocolRefusedError
from mqtt_service.adapters.mqtt.client import V5, V311, new_properties
from mqtt_service.adapters.mqtt.connection import Connection
from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.errors import BrokerUnavailableError, PermanentError

_LEAVE_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What a broker announces in CONNACK (MQTT 5, section 3.2.2.3); None where it does not."""

    session_expiry: int | None = None
    receive_maximum: int | None = None
    maximum_packet: int | None = None
    maximum_qos: int | None = None
    wildcards: bool = True
    shared: bool = True


class DoctorConnection(Connection):
    """A connection that knows the limits, and can end its session. `hear` gets each message's topic."""

    def __init__(
        self,
        options: MqttOptions,
        protocol: MQTTProtocolVersion,
        topics: Sequence[str] = (),
        hear: Callable[[str], None] = lambda _topic: None,
    ) -> None:
        self.limits = BrokerLimits()
        self._hear = hear
        super().__init__(options, protocol, topics, self._heard, lambda: None)

    def _heard(self, message: InboundMessage, mid: int, order: AckOrder) -> None:
        if message.qos:
            order.handled(order.enter(mid))
        self._hear(message.topic)

    def connack(self, reason: ReasonCode, properties: Properties, *, session_present: bool) -> None:
        """Note the limits, then go on as a worker's connection does."""
        self.limits = BrokerLimits(
            session_expiry=getattr(properties, "SessionExpiryInterval", None),
            receive_maximum=getattr(properties, "ReceiveMaximum", None),
            maximum_packet=getattr(properties, "MaximumPacketSize", None),
            maximum_qos=getattr(properties, "MaximumQoS", None),
            wildcards=bool(getattr(properties, "WildcardSubscriptionAvailable", 1)),
            shared=bool(getattr(properties, "SharedSubscriptionAvailable", 1)),
        )
        super().connack(reason, properties, session_present=session_present)

    async def leave(self, *, keep_session: bool) -> None:
        """Disconnect; the broker forgets the session, or keeps it until a later connection leaves it."""
        if self.usable:
            properties = None
            if self._v5 and not keep_session:
                properties = new_properties(PacketTypes.DISCONNECT)
                properties.SessionExpiryInterval = 0
            if self._client.disconnect(properties=properties) is MQTTErrorCode.MQTT_ERR_SUCCESS:
                await asyncio.wait({self.ended}, timeout=_LEAVE_TIMEOUT)
        self.end(BrokerUnavailableError("this connection was left"))


async def connected(
    options: MqttOptions,
    topics: Sequence[str] = (),
    hear: Callable[[str], None] = lambda _topic: None,
) -> tuple[DoctorConnection, MQTTProtocolVersion]:
    """Connect with MQTT 5, or with 3.1.1 where the broker has no other; raises why that failed."""
    for protocol in (V5, V311):
        try:
            connection = DoctorConnection(options, protocol, topics, hear)
        except OSError as error:
            raise PermanentError(
                f"MQTT_CA_FILE cannot be used ({error}); name a file of PEM certificates"
            ) from error
        connection.start()
        try:
            ends = {connection.ready, connection.ended}
            await asyncio.wait(ends, timeout=options.connect_timeout, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            connection.end(BrokerUnavailableError("interrupted"))
            raise
        if connection.usable:
            return connection, protocol
        if not connection.ended.done():
            connection.end(
                BrokerUnavailableError(
                    f"{options.address} did not answer; check MQTT_HOST, MQTT_PORT and MQTT_TLS"
                )
            )
        error = connection.ended.result()
        if protocol is V311 or not isinstance(error, ProtocolRefusedError | HungUpError):
            raise error
    raise BrokerUnavailableError(f"{options.address} refused both versions; check MQTT_PORT")


@asynccontextmanager
async def connection(
    options: MqttOptions,
    topics: Sequence[str] = (),
    hear: Callable[[str], None] = lambda _topic: None,
) -> AsyncIterator[tuple[DoctorConnection, MQTTProtocolVersion]]:
    """As `connected`; the session ends with the block, however that ends."""
    made, protocol = await connected(options, topics, hear)
    try:
        yield made, protocol
    finally:
        await made.leave(keep_session=False)
        if protocol is V311:
            await forget(options)


async def forget(options: MqttOptions) -> None:
    """End a session of MQTT 3.1.1 by taking it up as a clean one (MQTT 3.1.1, section 3.1.2.4)."""
    with suppress(Exception):  # what cannot be reached is not there to be tidied up
        made = DoctorConnection(replace(options, session_expiry=0), V311)
        made.start_clean()
        await asyncio.wait({made.ready, made.ended}, timeout=options.connect_timeout)
        await made.leave(keep_session=False)
