"""What queue and visits need of the link."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mqtt_service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The broker has the message; `no_subscriber`: it says that nobody is subscribed (MQTT 5 only)."""

    no_subscriber: bool


Done = Callable[[PublishResult | ServiceError], None]


class Publisher(Protocol):
    """Publishes to the broker, one message at a time; `adapters.mqtt.link.MqttLink` is one."""

    @property
    def connected(self) -> bool:
        """Whether a publish can be tried now."""

    async def publish(self, topic: str, payload: bytes, *, expiry_seconds: int | None) -> PublishResult:
        """Publish at QoS 1 and return after the PUBACK.

        Raises BrokerUnavailableError when the broker cannot be reached, OutcomeUnknownError when the
        connection ended before the PUBACK, and PermanentError when the broker refuses the message.
        """


class Sender(Protocol):
    """Publishes many messages side by side, without a task for each; `adapters.mqtt.link.MqttLink` is one."""

    @property
    def connected(self) -> bool:
        """Whether a publish can be tried now."""

    def send(self, topic: str, payload: bytes, *, expiry_seconds: int | None, done: Done) -> None:
        """Publish at QoS 1; `done` is called once, later, on the event loop: with the result or the error.

        The errors are those of `Publisher.publish`. Those that are known at once are raised instead.
        """
