"""The verb `timeline`: what happened to a device, in order, in the zone of its site."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mqtt_service.adapters.supabase.fleet_rows import DeviceRow, Place, TimelineRow
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.finding import find_device
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.session import open_project
from mqtt_service.fleet.tables import short_id
from mqtt_service.fleet.times import local, parse_past

_USUALLY = timedelta(days=1)
_COLOURS = {"wake": "cyan", "reading": "dim", "event": "yellow"}


def zone_of(site: Place | None) -> tzinfo:
    """The zone of a site, as this machine knows it; else UTC."""
    try:
        return ZoneInfo(site.timezone.strip()) if site and site.timezone else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def read_span(since: str | None, until: str | None, now: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """From when to when; a day up to now where nothing is said. Raises UsageError."""
    end = parse_past(until, now, zone) if until else now
    start = parse_past(since, now, zone) if since else end - _USUALLY
    if start >= end:
        raise UsageError("--since is not before --until")
    return start, end


def run_timeline(
    settings: ProjectSettings, reference: str, since: str | None, until: str | None, *, as_json: bool
) -> int:
    """Tell what happened to a device."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            device = await find_device(project, reference)
            places = await project.devices.places_by_ids("site", [device.site_id] if device.site_id else [])
            zone = zone_of(places[0] if places else None)
            start, end = read_span(since, until, datetime.now(UTC), zone)
            moments = await project.devices.timeline(device.device_id, start, end)
        output.document(moments)
        if moments:
            output.show(timeline_view(moments, zone))
        elif not as_json:
            output.note(_nothing(device, start, end, zone))
        return 0

    return asyncio.run(run())


def timeline_view(moments: Sequence[TimelineRow], zone: tzinfo) -> RenderableType:
    """The moments as a table; a command is named by how its id begins."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for moment in moments:
        about = short_id(moment.about) if moment.about and moment.kind == "command" else ""
        style = _COLOURS.get(moment.kind, "")
        table.add_row(local(moment.happened_at, zone), moment.kind, about, Text(moment.what, style=style))
    return table


def _nothing(device: DeviceRow, start: datetime, end: datetime, zone: tzinfo) -> str:
    return f"Nothing happened to {device.label} from {local(start, zone)} to {local(end, zone)}."
