"""What the queue and the visits of devices need of the MQTT link: publish a message, learn how it went."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The broker has the message; `no_subscriber`: it says that nobody is subscribed (MQTT 5 only)."""

    no_subscriber: bool


class Publisher(Protocol):
    """Publishes to the broker; `adapters.mqtt.link.MqttLink` is one."""

    @property
    def connected(self) -> bool:
        """Whether a publish can be tried now."""

    async def publish(self, topic: str, payload: bytes, *, expiry_seconds: int | None) -> PublishResult:
        """Publish at QoS 1 and return after the PUBACK.

        Raises BrokerUnavailableError when the broker cannot be reached, OutcomeUnknownError when the
        connection ended before the PUBACK, and PermanentError when the broker refuses the message.
        """
