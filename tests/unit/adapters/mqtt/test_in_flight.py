"""What one connection is publishing, and in which order the rest follows."""

from mqtt_service.adapters.mqtt.in_flight import InFlight, Outgoing
from mqtt_service.errors import BrokerUnavailableError, OutcomeUnknownError, ServiceError
from mqtt_service.publisher import PublishResult


class Wire:
    """Gives each message the next packet id; `outcomes`: by topic, what became of it."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.outcomes: dict[str, PublishResult | ServiceError] = {}

    def send(self, message: Outgoing) -> int:
        self.sent.append(message.topic)
        return len(self.sent)

    def message(self, topic: str) -> Outgoing:
        def done(outcome: PublishResult | ServiceError) -> None:
            self.outcomes[topic] = outcome

        return Outgoing(topic, b"", None, done)


def test_a_message_that_is_withdrawn_before_its_turn_is_never_sent_nor_heard_of() -> None:
    wire = Wire()
    in_flight = InFlight(1, wire.send)
    messages = [wire.message(topic) for topic in "abc"]
    for message in messages:
        in_flight.add(message)
    assert [in_flight.withdraw(message) for message in messages[:2]] == [False, True]  # a has been sent
    assert not in_flight.withdraw(messages[1])
    in_flight.acknowledged(1)
    assert wire.sent == ["a", "c"]
    in_flight.fail_all("gone")
    assert list(wire.outcomes) == ["c"]


def test_a_puback_with_an_unknown_packet_id_changes_nothing() -> None:
    wire = Wire()
    in_flight = InFlight(1, wire.send)
    in_flight.add(wire.message("a"))
    in_flight.add(wire.message("b"))
    assert in_flight.acknowledged(77) is None
    assert wire.sent == ["a"]
    in_flight.fail_all("gone")
    assert isinstance(wire.outcomes["a"], OutcomeUnknownError)
    assert isinstance(wire.outcomes["b"], BrokerUnavailableError)
    assert not isinstance(wire.outcomes["b"], OutcomeUnknownError)
