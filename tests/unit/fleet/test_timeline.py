"""The timeline as it is printed: its span, and times in the zone of the device's site."""

from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from mqtt_service.adapters.supabase.fleet_rows import Place, TimelineRow
from mqtt_service.errors import UsageError
from mqtt_service.fleet.timeline import read_span, timeline_view, zone_of
from tests.unit.fleet.rows import NOW, ago

BERLIN = ZoneInfo("Europe/Berlin")
COMMAND = UUID("0f9c2c1e-6f0b-4d36-9a53-0d8f7f7a2b11")


@pytest.mark.parametrize(
    ("timezone", "zone"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (" Europe/Berlin ", "Europe/Berlin"),
        ("Moon/Base", "UTC"),
        ("..", "UTC"),
        (None, "UTC"),
    ],
)
def test_the_zone_is_the_sites_or_utc(timezone: str | None, zone: str) -> None:
    assert str(zone_of(Place("site", UUID(int=1), "North", timezone))) == zone
    assert zone_of(None) == UTC


def test_a_span_is_the_last_day_unless_it_says_another() -> None:
    assert read_span(None, None, NOW, BERLIN) == (ago(days=1), NOW)
    assert read_span("2h", None, NOW, BERLIN) == (ago(hours=2), NOW)
    assert read_span("3d", "2d", NOW, BERLIN) == (ago(days=3), ago(days=2))
    since, until = read_span("2026-02-01", "2026-02-02", NOW, BERLIN)
    assert (since, until) == (datetime(2026, 1, 31, 23, tzinfo=UTC), datetime(2026, 2, 1, 23, tzinfo=UTC))


def test_a_span_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(UsageError, match="--since is not before --until"):
        read_span("1h", "2h", NOW, UTC)


def test_a_line_has_the_time_of_the_site_what_happened_and_the_command() -> None:
    rows = [
        TimelineRow(ago(hours=1), "wake", "said HELLO", {}, None),
        TimelineRow(NOW, "command", "ping sent", None, COMMAND),
        TimelineRow(NOW, "picture", "a.jpg complete", None, COMMAND),
    ]
    console = Console(width=120)
    with console.capture() as capture:
        console.print(timeline_view(rows, BERLIN))
    wake, sent, picture = capture.get().splitlines()
    assert wake.split() == ["2026-03-01", "12:00:00+01:00", "wake", "said", "HELLO"]
    assert sent.split() == ["2026-03-01", "13:00:00+01:00", "command", "0f9c2c1e", "ping", "sent"]
    assert picture.split()[2:] == ["picture", "a.jpg", "complete"]
