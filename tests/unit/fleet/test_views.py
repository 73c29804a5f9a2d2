"""What is shown: a device's page, the lists, `top`, and JSON."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from rich.console import Console, RenderableType

from mqtt_service.adapters.supabase.fleet_rows import (
    Depth,
    EventRow,
    Flow,
    ImageRow,
    Overview,
    Place,
    SlowDevice,
    WorkerRow,
)
from mqtt_service.fleet.device_page import DevicePage, page_view, success_of, timeline_of
from mqtt_service.fleet.output import plain
from mqtt_service.fleet.send_view import change_line, progress_view
from mqtt_service.fleet.tables import commands_table, devices_table
from mqtt_service.fleet.top_view import Glance, Health, sparkline, top_view
from tests.unit.fleet.rows import NOW, WORKER, ago, command, device, later

SITE = Place("site", UUID(int=2), "Alder North", "Europe/Berlin", "0 8,16 * * *")


def text(view: RenderableType) -> str:
    console = Console(width=160, record=True, file=None, force_terminal=False, quiet=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_success_counts_what_has_ended_and_leaves_out_what_was_cancelled() -> None:
    success = success_of(
        [
            command(status="acknowledged", delivered_at=ago(seconds=9), acknowledged_at=ago(seconds=7)),
            command(status="acknowledged", delivered_at=ago(seconds=9), acknowledged_at=ago(seconds=5)),
            command(status="acknowledged"),
            command(status="expired"),
            command(status="cancelled"),
            command(),
        ]
    )
    assert (success.commands, success.acknowledged, success.lost, success.open) == (5, 3, 1, 1)
    assert (success.rate, success.median_answer) == (0.75, 3.0)
    assert success_of([]).rate is None


def test_a_device_page_says_what_it_is_and_what_happened_the_latest_first() -> None:
    image = ImageRow(
        UUID(int=5), "image_001.jpg", "failed", ago(hours=3), None, ago(hours=2), "too many chunks"
    )
    event = EventRow(UUID(int=6), ago(hours=1), "mapped", "info", 'mapped to site "Alder North"')
    timeline = timeline_of(device(), [command()], [image], [event], NOW, 10)
    assert [moment.kind for moment in timeline] == ["command", "event", "picture", "wake"]
    assert len(timeline_of(device(), [command()], [image], [event], NOW, 2)) == 2
    page = DevicePage(device(), SITE, success_of([command()]), {"failed": 1}, timeline)
    shown = text(page_view(page, NOW, UTC))
    for words in (
        "North gate",
        "0 8,16 * * * (its site's)",
        "3.91 V",
        "-61 dBm",
        "1 failed",
        "too many chunks",
    ):
        assert words in shown
    late = DevicePage(device(next_wake_at=ago(hours=1)), None, success_of([]), {}, [])
    assert "overdue" in text(page_view(late, NOW, UTC))


def test_lists_show_a_row_for_each_and_take_names_as_they_are() -> None:
    odd = command(status="failed", due_at=None, last_error="[red]not markup[/red]")
    shown = text(commands_table([odd], {odd.device_id: "DEVICE-1"}, NOW, UTC))
    for words in ("0f9c2c1e", "DEVICE-1", "failed", "for good: [red]not markup[/red]"):
        assert words in shown
    shown = text(devices_table([device(device_name="[b]x")], {UUID(int=2): "Alder North"}, NOW, UTC))
    for words in ("DEVICE-ESP32S3-001", "[b]x", "Alder North", "4 h ago", "3.91 V"):
        assert words in shown


def test_a_wait_shows_each_command_of_a_few_and_of_many_those_that_are_lost() -> None:
    few = text(progress_view([command()], {UUID(int=1): "DEVICE-1"}, 1, NOW))
    assert "DEVICE-1" in few
    many = [command(command_id=UUID(int=number), status="acknowledged") for number in range(99)]
    lost = command(status="rejected", last_error="no such picture")
    shown = text(progress_view([*many, lost], {UUID(int=1): "DEVICE-1"}, 100, NOW))
    assert "99 acknowledged" in shown
    assert shown.count("DEVICE-1") == 1
    assert "no such picture" in shown
    assert change_line(lost, {}, NOW, UTC) == (
        "2026-03-01 12:00:00+00:00 (gone) 0f9c2c1e rejected: no such picture"
    )


def overview(**changes: object) -> Overview:
    values: dict[str, object] = {
        "now": NOW,
        "depth": Depth(12, 3, 4, 5, 0, 6, ago(minutes=2)),
        "minute": Flow(60, 10, 9, 8, 0),
        "window": Flow(3600, 100, 90, 80, 7),
        "devices": 40,
        "active": 30,
        "awake": 2,
        "overdue": 1,
        "slowest": [SlowDevice(UUID(int=1), "DEVICE-1", 4, 12.34)],
        "workers": [WorkerRow("web-1", WORKER, ago(hours=1), 3, 2)],
        **changes,
    }
    return Overview(**values)  # type: ignore[arg-type]  # as they are above


def test_top_shows_queue_rates_devices_workers_and_what_a_worker_says() -> None:
    document = {
        "status": "degraded",
        "worker": WORKER,
        "mqtt": {"connected": True},
        "supabase": {"connected": True},
        "realtime": {"connected": False, "error": "silent"},
        "uptime": 3600,
    }
    shown = text(
        top_view(Glance("project.example", overview(), Health("http://w", document, None), (1, 2), None), 40)
    )
    for words in (
        "project.example",
        "40 devices, 30 active, 2 awake, 1 overdue",
        "2 min ago",
        "12.3 s",
        "degraded",
    ):
        assert words in shown
    for words in ("silent", WORKER, "connected"):
        assert words in shown


def test_top_says_what_does_not_answer() -> None:
    unreached = Health("http://w", None, "no worker answers")
    assert "no worker answers" in text(top_view(Glance("p", overview(), unreached, (), None), None))
    assert "away" in text(top_view(Glance("p", None, unreached, (), "away"), None))


@pytest.mark.parametrize(("values", "line"), [([], ""), ([0, 0], "  "), ([0, 1, 8], " ▁█"), ([5], "█")])
def test_a_sparkline_is_as_high_as_its_largest_value(values: list[int], line: str) -> None:
    assert sparkline(values) == line


def test_json_has_times_in_utc_ids_as_text_and_no_infinity() -> None:
    moment = datetime(2026, 3, 1, 13, 0, tzinfo=UTC) + timedelta(microseconds=5)
    assert plain({"a": [moment], "b": UUID(int=1), "c": datetime.max.replace(tzinfo=UTC)}) == {
        "a": ["2026-03-01T13:00:00.000005Z"],
        "b": "00000000-0000-0000-0000-000000000001",
        "c": None,
    }
    document = plain(command(due_at=later(hours=1)))
    assert isinstance(document, dict)
    assert document["due_at"] == "2026-03-01T13:00:00Z"
