"""Connections of doctor's own to the broker: they tell its limits, and end their sessions.

Never under a worker's client id, which would throw that worker out, and never in a shared group, of which
each member takes a part of the messages from the others.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt.ack_order import AckOrder
from mqtt_service.adapters.mqtt.broker_errors import HungUpError, ProtocolRefusedError
from mqtt_service.adapters.mqtt.client import V5, V311
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
    """A connection that knows the broker's limits. `hear` gets each message's topic."""

    def __init__(
        self,
        options: MqttOptions,
        protocol: MQTTProtocolVersion,
        topics: Sequence[str] = (),
        hear: Callable[[str], None] = lambda _topic: None,
    ) -> None:
        self.limits = BrokerLimits()
        self._hear = hear
        self.speaks_v5 = protocol == V5
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

    async def leave(self) -> None:
        """Disconnect, and wait a moment for the end."""
        if self.usable:
            self.disconnect()
            await asyncio.wait({self.ended}, timeout=_LEAVE_TIMEOUT)
        self.end(BrokerUnavailableError("this connection was left"))


@asynccontextmanager
async def connected(
    options: MqttOptions, topics: Sequence[str] = (), hear: Callable[[str], None] = lambda _topic: None
) -> AsyncIterator[DoctorConnection]:
    """Connect with MQTT 5, or with 3.1.1 where the broker has no other; raises why that failed."""
    made = await _connect(options, topics, hear)
    try:
        yield made
    finally:
        await made.leave()


async def _connect(
    options: MqttOptions, topics: Sequence[str], hear: Callable[[str], None]
) -> DoctorConnection:
    try:
        return await _connect_with(V5, options, topics, hear)
    except (ProtocolRefusedError, HungUpError):
        return await _connect_with(V311, options, topics, hear)


async def _connect_with(
    protocol: MQTTProtocolVersion, options: MqttOptions, topics: Sequence[str], hear: Callable[[str], None]
) -> DoctorConnection:
    try:
        made = DoctorConnection(options, protocol, topics, hear)
    except OSError as error:
        cure = "name a file of PEM certificates"
        raise PermanentError(f"MQTT_CA_FILE cannot be used ({error}); {cure}") from error
    made.start()
    try:
        ends: list[asyncio.Future[Any]] = [made.ready, made.ended]
        await asyncio.wait(ends, timeout=options.connect_timeout, return_when=asyncio.FIRST_COMPLETED)
    except BaseException:
        made.end(BrokerUnavailableError("interrupted"))
        raise
    if made.usable:
        return made
    made.end(
        BrokerUnavailableError(f"{options.address} did not answer; check MQTT_HOST, MQTT_PORT and MQTT_TLS")
    )
    raise made.ended.result()
