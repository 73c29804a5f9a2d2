#!/usr/bin/env python3
"""Draw the terminal views of docs/command-line.md into docs/images, from rows that never change."""

import re
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from uuid import UUID

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group, RenderableType
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mqtt_service.adapters.supabase.fleet_rows import (
    CommandRow,
    Depth,
    DeviceRow,
    EventRow,
    Flow,
    ImageRow,
    Overview,
    Place,
    SlowDevice,
    WorkerRow,
)
from mqtt_service.fleet.device_page import DevicePage, page_view, success_of, timeline_of
from mqtt_service.fleet.send_view import progress_view
from mqtt_service.fleet.top_view import Glance, Health, top_view

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WORKER = "mqtt-service-web-1:3f9a01bc"
SITE = Place("site", UUID(int=2), "Alder North", "Europe/Berlin", "0 8,16 * * *")
# The template asks a host of fonts for two of them; the reader's own monospaced font serves as well.
WITHOUT_FONTS = re.sub(r"@font-face \{\{.*?\}\}\n?|<!-- .*? -->\n?", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def _ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def _device(*, is_active: bool = True) -> DeviceRow:
    return DeviceRow(
        UUID("a0000000-0000-4000-8000-000000000031"), "AA:BB:CC:DD:EE:FF", "DEVICE-ESP32S3-001", "North gate",
        "active", is_active, UUID(int=4), UUID(int=3), SITE.place_id, None, NOW + timedelta(hours=3),
        _ago(hours=5), _ago(hours=5), "1.4.2", 3.91, -61,
    )  # fmt: skip


def _command(number: int, command_type: str, status: str, **changes: object) -> CommandRow:
    values: dict[str, object] = {
        "command_id": UUID(int=(0x0F9C2C1E + number * 0x01A7B2C3) << 96),
        "device_id": _device().device_id,
        "command_type": command_type,
        "command_payload": {},
        "status": status,
        "priority": 0,
        "issued_at": _ago(hours=number),
        "scheduled_for": None,
        "expires_at": None,
        "delivered_at": None,
        "acknowledged_at": None,
        "retry_count": 0,
        "redelivery_count": 0,
        "no_listener": False,
        "last_error": None,
        "response": None,
        "due_at": None,
        "held_until": None,
        "in_queue": True,
        "lease_worker": None,
        "lease_until": None,
        "attempt": 1,
        **changes,
    }
    return CommandRow(**values)  # type: ignore[arg-type]  # as they are above


def _commands() -> list[CommandRow]:
    return [
        _command(1, "send_image", "sent", delivered_at=_ago(minutes=59), no_listener=True),
        _command(
            6, "capture_image", "acknowledged", delivered_at=_ago(hours=5), acknowledged_at=_ago(hours=4.9993)
        ),
        _command(
            7, "update_config", "failed", retry_count=3, last_error="the device said: unknown key interval"
        ),
        _command(
            9,
            "set_wake_schedule",
            "acknowledged",
            delivered_at=_ago(hours=9),
            acknowledged_at=_ago(hours=8.9995),
        ),
    ]


def _device_page() -> RenderableType:
    images = [
        ImageRow(
            UUID(int=5), "image_001.jpg", "complete", _ago(hours=5), _ago(hours=4.99), _ago(hours=4.99), None
        )
    ]
    events = [EventRow(UUID(int=6), _ago(hours=30), "mapped", "info", 'mapped to site "Alder North"')]
    timeline = timeline_of(_device(), _commands(), images, events, NOW, 20)
    page = DevicePage(_device(), SITE, success_of(_commands()), {"complete": 42, "pending": 1}, timeline)
    return page_view(page, NOW, UTC)


def _show_view() -> RenderableType:
    row = _commands()[0]
    # as fn_explain_command says it
    story = (
        "send_image for DEVICE-ESP32S3-001 (AA:BB:CC:DD:EE:FF), queued 2026-03-01 11:00:00+00:00 (1 h ago).",
        (
            "The broker has had it since 2026-03-01 11:01:00+00:00 (59 min ago); nobody was listening then: "
            "the device slept."
        ),
        "When the device wakes, it is sent again (0 of 3 times so far).",
        "The device wakes at 2026-03-01 15:00:00+00:00 (in 3 h); it was last heard 5 h ago.",
        "It gives up at 2026-03-02 11:00:00+00:00 (in 23 h).",
    )
    return Group(f"{row.command_id}  {row.status}", *(Text(f"  {line}") for line in story))


def _send_view() -> RenderableType:
    names = [f"DEVICE-ESP32S3-{number:03}" for number in range(1, 7)]
    states = ("acknowledged", "acknowledged", "sent", "acknowledged", "rejected", "pending")
    rows = [
        _command(
            number,
            "capture_image",
            state,
            device_id=UUID(int=number),
            delivered_at=_ago(seconds=4),
            acknowledged_at=_ago(seconds=3 - number / 3) if state == "acknowledged" else None,
            last_error="the device said: camera is covered" if state == "rejected" else None,
            due_at=_ago(seconds=1) if state == "pending" else None,
        )
        for number, state in enumerate(states)
    ]
    said = f"capture_image for 6 devices at Alder North: {', '.join(names)}"
    labels = {UUID(int=number): name for number, name in enumerate(names)}
    return Group(said, "Queued: 6", progress_view(rows, labels, len(rows), NOW))


def _whole_fleet() -> RenderableType:
    overview = Overview(
        NOW, Depth(14, 6, 120, 3, 0, 38, _ago(seconds=2)), Flow(60, 180, 176, 171, 1),
        Flow(3600, 9_420, 9_388, 9_301, 12), 1_240, 1_198, 37, 4,
        [SlowDevice(UUID(int=n), f"DEVICE-ESP32S3-{n:03}", 40 - n, 48 / n) for n in (3, 7, 9, 21, 30)],
        [
            WorkerRow("web-1", WORKER, _ago(hours=26), 4, 21),
            WorkerRow("web-2", "mqtt-service-web-2:71c0aa42", _ago(minutes=8), 2, 16),
        ],
    )  # fmt: skip
    connected = {"connected": True, "error": None}
    document = {
        "status": "healthy", "worker": WORKER, "mqtt": connected, "supabase": connected,
        "realtime": connected, "uptime": 93_600,
    }  # fmt: skip
    history = [120 + (n * 37) % 60 for n in range(24)]
    glance = Glance(
        "project.supabase.co", overview, Health("http://127.0.0.1:3000", document, None), history, None
    )
    return top_view(glance, 30, UTC)


def draw() -> dict[str, str]:
    """Each picture by the name of its file."""
    views = {
        "top": ("mqtt-service top", _whole_fleet()),
        "send": ("mqtt-service send capture_image --site 'Alder North' --wait", _send_view()),
        "show": ("mqtt-service show 1143dee1", _show_view()),
        "device": ("mqtt-service device DEVICE-ESP32S3-001", _device_page()),
    }
    return {f"{name}.svg": _svg(name, title, view) for name, (title, view) in views.items()}


def _svg(name: str, title: str, view: RenderableType) -> str:
    console = Console(record=True, width=110, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(view)
    drawn = console.export_svg(title=title, code_format=WITHOUT_FONTS, unique_id=name)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for file_name, svg in draw().items():
        (IMAGES / file_name).write_text(svg, encoding="utf-8")
