"""What queue and visits need of the link."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mqtt_service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The broker has the message; `no_subscriber`: it says that nobody is subscribed (MQTT 5 only)."""

    no_subscriber: bool


Done = Callable[[PublishResult | ServiceError], None]
Withdraw = Callable[[], bool]


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

    def send(self, topic: str, payload: bytes, *, expiry_seconds: int | None, done: Done) -> Withdraw:
        """Publish at QoS 1; `done` is called once, later, on the event loop: with the result or the error.

        The errors are those of `Publisher.publish`. Those that are known at once are raised instead.
        Returns a call that takes the message back: True where it was not sent yet; then it never is, and
        `done` is not called. The one who gives up waiting calls it.
        """


async def outcome_of(send: Callable[[Done], Withdraw]) -> PublishResult:
    """Send one message and return when the broker has it; raises why it has not.

    One whose caller is cancelled before its turn is withdrawn.
    """
    outcome: asyncio.Future[PublishResult] = asyncio.get_running_loop().create_future()

    def done(result: PublishResult | ServiceError) -> None:
        if outcome.done():  # its caller has given up
            return
        if isinstance(result, ServiceError):
            outcome.set_exception(result)
        else:
            outcome.set_result(result)

    withdraw = send(done)
    try:
        return await outcome
    except asyncio.CancelledError:
        withdraw()
        raise
