"""Times and durations as people write and read them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mqtt_service.errors import UsageError
from mqtt_service.fleet.times import both, local, parse_duration, parse_future, parse_past, relative, span

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1h30m", 5400),
        ("3d", 259_200),
        ("2w", 1_209_600),
        (" 2H ", 7200),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "2", "0s", "soon", "-2h", "1.5h", "h", "30m1h", "999999999w"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="write it like 90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", datetime(2026, 3, 1, 14, 0, tzinfo=UTC)),
        ("18:30", datetime(2026, 3, 1, 17, 30, tzinfo=UTC)),
        ("9:05", datetime(2026, 3, 2, 8, 5, tzinfo=UTC)),
        ("2026-03-01T18:30", datetime(2026, 3, 1, 17, 30, tzinfo=UTC)),
        ("2026-07-01T18:30", datetime(2026, 7, 1, 16, 30, tzinfo=UTC)),
        ("2026-03-01T18:30:00Z", datetime(2026, 3, 1, 18, 30, tzinfo=UTC)),
        ("2026-03-01 18:30+02:00", datetime(2026, 3, 1, 16, 30, tzinfo=UTC)),
    ],
)
def test_a_time_to_come_is_read_in_the_local_zone_unless_it_says_its_own(
    text: str, expected: datetime
) -> None:
    assert parse_future(text, NOW, BERLIN) == expected


def test_a_span_is_a_time_gone_by_where_the_past_is_asked_for() -> None:
    assert parse_past("2h", NOW) == datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize("text", ["tomorrow", "25:00", "2026-13-01", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_future(text, NOW, BERLIN)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (45, "45 s"), (60, "1 min"), (330, "5 min 30 s"), (5400, "1 h 30 min"), (90_000, "1 d 1 h")],
)
def test_a_span_is_said_in_two_units_at_most(seconds: float, words: str) -> None:
    assert span(timedelta(seconds=seconds)) == words


def test_a_moment_is_said_in_the_zone_with_its_offset_and_how_far_it_is() -> None:
    assert both(NOW + timedelta(minutes=5), NOW, BERLIN) == "2026-03-01 13:05:00+01:00 (in 5 min)"
    assert relative(NOW - timedelta(minutes=5), NOW) == "5 min ago"
    assert relative(NOW, NOW) == "now"


@pytest.mark.parametrize("moment", [None, datetime.max.replace(tzinfo=UTC)])
def test_no_time_and_the_end_of_time_are_never(moment: datetime | None) -> None:
    assert (local(moment, BERLIN), relative(moment, NOW), both(moment, NOW)) == ("never", "never", "never")
