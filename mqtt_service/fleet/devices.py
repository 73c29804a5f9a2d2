"""The verbs `devices` and `device`."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mqtt_service.adapters.supabase.fleet_commands import CommandFilter
from mqtt_service.adapters.supabase.fleet_devices import DeviceFilter
from mqtt_service.config import ProjectSettings
from mqtt_service.fleet.device_page import DevicePage, page_view, success_of, timeline_of
from mqtt_service.fleet.finding import find_device, find_places
from mqtt_service.fleet.output import Output, plain
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.tables import devices_table

# How far back a device's success and pictures are counted, and how many rows at most.
_COUNTED = timedelta(days=30)
_MOST = 2000


def run_devices(
    settings: ProjectSettings, statuses: Sequence[str], sites: Sequence[str], *, as_json: bool
) -> int:
    """List devices by their label."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            at = await find_places(project, "site", sites)
            wanted = DeviceFilter(statuses=statuses, site_ids=[place.place_id for place in at])
            found = await project.devices.every(wanted)
            site_ids = list({device.site_id for device in found if device.site_id})
            places = await project.devices.places_by_ids("site", site_ids)
        names = {place.place_id: place.name for place in places}
        found.sort(key=lambda device: device.label)
        output.document(
            [
                {**_as_dict(device), "site_name": names.get(device.site_id) if device.site_id else None}
                for device in found
            ]
        )
        if found:
            output.show(devices_table(found, names, datetime.now(UTC)))
        elif not as_json:
            output.note("No device fits.")
        return 0

    return asyncio.run(run())


def run_device(settings: ProjectSettings, reference: str, limit: int, *, as_json: bool) -> int:
    """Show one device: what it is, how it does, what happened to it."""
    output = Output(as_json=as_json)

    async def run() -> int:
        now = datetime.now(UTC)
        async with open_project(settings) as project:
            page = await _page(project, reference, now, limit)
        output.document(
            {
                **_as_dict(page.device),
                "site": page.site,
                "success": page.success,
                "pictures": page.pictures,
                "timeline": [
                    {"at": moment.at, "kind": moment.kind, "what": moment.what} for moment in page.timeline
                ],
            }
        )
        output.show(page_view(page, now))
        return 0

    return asyncio.run(run())


async def _page(project: Project, reference: str, now: datetime, limit: int) -> DevicePage:
    device = await find_device(project, reference)
    wanted = CommandFilter(device_ids=[device.device_id], since=now - _COUNTED)
    commands, images, events, places = await asyncio.gather(
        project.commands.latest(wanted, _MOST),
        project.devices.images(device.device_id, _MOST),
        project.devices.events(device.device_id, limit),
        project.devices.places_by_ids("site", [device.site_id] if device.site_id else []),
    )
    pictures = Counter(image.status for image in images if image.updated_at > now - _COUNTED)
    return DevicePage(
        device,
        places[0] if places else None,
        success_of(commands),
        dict(pictures),
        timeline_of(device, commands, images, events, now, limit),
    )


def _as_dict(value: object) -> dict[str, object]:
    document = plain(value)
    return document if isinstance(document, dict) else {}
