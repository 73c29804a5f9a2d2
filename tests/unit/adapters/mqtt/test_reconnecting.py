"""When the link connects again."""

from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.adapters.mqtt.reconnecting import reconnect_delay


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
