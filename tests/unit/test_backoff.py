"""How long is waited after failures."""

import pytest

from mqtt_service.backoff import delay_after


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (1_000_000, 30.0)]
)
def test_the_delay_doubles_up_to_half_a_minute(failures: int, seconds: float) -> None:
    assert delay_after(failures) == seconds


def test_the_delay_is_never_longer_than_the_caller_allows() -> None:
    assert [delay_after(failures, longest=1.5) for failures in (1, 2, 3, 4)] == [0.5, 1.0, 1.5, 1.5]
