"""When the link connects again, and with which version of MQTT."""

from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.adapters.mqtt.broker_errors import HungUpError, ProtocolRefusedError
from mqtt_service.adapters.mqtt.client import V5, V311
from mqtt_service.adapters.mqtt.reconnecting import Attempts, ProtocolVersion, reconnect_delay
from mqtt_service.errors import BrokerUnavailableError


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_pause_between_attempts_stays_between_a_moment_and_half_a_minute(
    failures: int, jitter: float
) -> None:
    assert 0.25 <= reconnect_delay(failures, jitter) <= 30.0


@given(st.integers(1, 30), st.floats(0, 1))
def test_the_pause_never_shrinks_as_failures_go_on(failures: int, jitter: float) -> None:
    assert reconnect_delay(failures, jitter) <= reconnect_delay(failures + 1, jitter)


def test_two_instances_do_not_come_back_at_the_same_moment() -> None:
    assert reconnect_delay(10, 0.0) < reconnect_delay(10, 1.0)


def test_a_connection_that_held_starts_the_backoff_over() -> None:
    attempts = Attempts()
    for _ in range(4):
        attempts.ended(seconds=1.0, was_up=False)
    assert attempts.failures == 4
    attempts.ended(seconds=31.0, was_up=True)
    assert attempts.failures == 1


def test_only_connections_that_came_up_and_were_soon_lost_in_a_row_are_suspicious() -> None:
    attempts = Attempts()
    for _ in range(5):
        attempts.ended(seconds=1.0, was_up=False)
    assert not attempts.suspicious
    for _ in range(3):
        attempts.ended(seconds=1.0, was_up=True)
    assert attempts.suspicious
    attempts.ended(seconds=31.0, was_up=True)
    assert not attempts.suspicious


def test_a_broker_that_refuses_mqtt_5_gets_3_1_1_at_once_and_from_then_on() -> None:
    protocol = ProtocolVersion()
    assert protocol.choose_after(ProtocolRefusedError("no"))
    assert protocol.current == V311
    assert not protocol.choose_after(BrokerUnavailableError("lost"))
    assert protocol.current == V311


def test_a_broker_that_hung_up_gets_3_1_1_at_once_and_then_mqtt_5_again() -> None:
    protocol = ProtocolVersion()
    assert protocol.choose_after(HungUpError("closed"))
    assert protocol.current == V311
    assert not protocol.choose_after(HungUpError("closed"))
    assert protocol.current == V5


def test_another_fault_does_not_change_the_version() -> None:
    protocol = ProtocolVersion()
    assert not protocol.choose_after(BrokerUnavailableError("refused"))
    assert (protocol.current, protocol.name) == (V5, "MQTT 5")
