"""One device's page: what it is, how it does, and what happened to it. Pure: rows in, a view out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mqtt_service.adapters.supabase.fleet_rows import CommandRow, DeviceRow, EventRow, ImageRow, Place
from mqtt_service.fleet.tables import short_id
from mqtt_service.fleet.times import both, local
from mqtt_service.fleet.words import answer_time, brief, colour, fate


@dataclass(frozen=True, slots=True)
class Moment:
    """A line of a device's timeline; `kind` is command, wake, picture or event."""

    at: datetime
    kind: str
    what: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Success:
    """How the commands of a device ended; `median_answer` in seconds."""

    commands: int
    acknowledged: int
    lost: int
    open: int
    rate: float | None
    median_answer: float | None


@dataclass(frozen=True, slots=True)
class DevicePage:
    """All that the page shows."""

    device: DeviceRow
    site: Place | None
    success: Success
    pictures: dict[str, int]
    timeline: Sequence[Moment]


def success_of(commands: Sequence[CommandRow]) -> Success:
    """How these commands ended, less cancelled ones; the rate is of those that ended, None where none did."""
    counted = [command for command in commands if command.status != "cancelled"]
    fates = [fate(command) for command in counted]
    done, lost = fates.count("done"), fates.count("lost")
    times = [took.total_seconds() for command in counted if (took := answer_time(command)) is not None]
    return Success(
        len(counted),
        done,
        lost,
        fates.count("open"),
        done / (done + lost) if done + lost else None,
        median(times) if times else None,
    )


def timeline_of(
    device: DeviceRow,
    commands: Sequence[CommandRow],
    images: Sequence[ImageRow],
    events: Sequence[EventRow],
    now: datetime,
    limit: int,
) -> list[Moment]:
    """What happened, the latest first. Of its wakes the project keeps the last."""
    moments = [
        Moment(
            command.issued_at,
            "command",
            f"{command.command_type} {short_id(command.command_id)}: {command.status}"
            + (f", {words}" if (words := brief(command, now)) else ""),
            colour(command.status),
        )
        for command in commands
    ]
    moments += [
        Moment(
            image.completed_at or image.updated_at,
            "picture",
            f"{image.image_name}: {image.status}" + (f", {image.last_error}" if image.last_error else ""),
            {"complete": "green", "failed": "red"}.get(image.status, ""),
        )
        for image in images
    ]
    moments += [
        Moment(
            event.created_at,
            "event",
            f"{event.event_type}: {event.description}",
            {"warning": "yellow", "error": "red"}.get(event.severity, ""),
        )
        for event in events
    ]
    if device.last_wake_at is not None:
        moments.append(Moment(device.last_wake_at, "wake", "it said HELLO", "cyan"))
    return sorted(moments, key=lambda moment: moment.at, reverse=True)[:limit]


def facts(page: DevicePage, now: datetime, zone: tzinfo | None = None) -> list[tuple[str, str]]:
    """The head of the page: a name and what is to be said."""
    device, success = page.device, page.success
    site = f"{page.site.name} ({page.site.timezone})" if page.site else "none"
    rate = "nothing has ended yet" if success.rate is None else f"{success.rate:.0%}"
    answer = "" if success.median_answer is None else f", median answer {success.median_answer:.1f} s"
    pictures = ", ".join(f"{count} {status}" for status, count in sorted(page.pictures.items())) or "none"
    rows = [
        ("id", str(device.device_id)),
        ("MAC", device.device_mac),
        ("name", device.device_name or ""),
        ("status", f"{device.provisioning_status}{'' if device.is_active else ', not active'}"),
        ("site", site),
        ("schedule", _schedule(page)),
        ("last wake", both(device.last_wake_at, now, zone)),
        ("next wake", _next_wake(device, now, zone)),
        ("last heard", both(device.last_seen_at, now, zone)),
        ("battery", "" if device.battery_voltage is None else f"{device.battery_voltage:.2f} V"),
        ("signal", "" if device.wifi_rssi is None else f"{device.wifi_rssi} dBm"),
        ("firmware", device.firmware_version or ""),
        (
            "commands",
            f"{success.acknowledged} acknowledged, {success.lost} lost, {success.open} open: {rate}{answer}",
        ),
        ("pictures", pictures),
    ]
    return [(name, words) for name, words in rows if words]


def _schedule(page: DevicePage) -> str:
    if page.device.wake_schedule_cron:
        return f"{page.device.wake_schedule_cron} (its own)"
    return f"{page.site.wake_schedule_cron or 'the default'} (its site's)" if page.site else ""


def _next_wake(device: DeviceRow, now: datetime, zone: tzinfo | None) -> str:
    if device.next_wake_at is None:
        return "not known"
    overdue = ", overdue" if device.is_active and device.next_wake_at < now else ""
    return f"{both(device.next_wake_at, now, zone)}{overdue}"


def page_view(page: DevicePage, now: datetime, zone: tzinfo | None = None) -> RenderableType:
    """The page as it is printed."""
    head = Table(box=None, show_header=False, pad_edge=False)
    head.add_column(style="bold", no_wrap=True)
    head.add_column(overflow="fold")
    for name, words in facts(page, now, zone):
        head.add_row(name, Text(words))
    body = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(2):
        body.add_column(no_wrap=True)
    body.add_column(overflow="fold")
    for moment in page.timeline:
        body.add_row(local(moment.at, zone), moment.kind, Text(moment.what, style=moment.style))
    return Group(Text(page.device.label, style="bold"), head, Text(), Text("Timeline", style="bold"), body)
