"""The verbs `map`, `unmap` and `wake`: where a device belongs, and when it wakes."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from mqtt_service.adapters.supabase.fleet_rows import DeviceRow, NewCommand, Place
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.finding import find_device, find_place
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.times import both

# Where neither the device nor its site has a schedule (docs/commands.md, "Mapping and the welcome").
DEFAULT_SCHEDULE = "0 8,16 * * *"


def run_map(settings: ProjectSettings, reference: str, site: str, *, as_json: bool) -> int:
    """Map a device to a site, through an active row of device_site_assignments."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            device = await find_device(project, reference)
            place = await find_place(project, "site", site)
            here = device.is_active and device.site_id == place.place_id
            assigned = await project.devices.assignments(device.device_id)
            if not here or place.place_id not in {row.site_id for row in assigned}:
                await project.devices.assign(uuid4(), device.device_id, place.place_id)
                here = False
            device = await _again(project, device)
        if here:
            output.say(f"{device.label} is mapped to {place.name} already.")
        else:
            output.say(f"{device.label} is mapped to {place.name}: active, next wake {_wakes(device)}.")
            output.say("The worker sends it its welcome, with its wake schedule.")
        output.document({"device": device, "site": place, "changed": not here})
        return 0

    return asyncio.run(run())


def run_unmap(settings: ProjectSettings, reference: str, *, as_json: bool) -> int:
    """End the mapping of a device; it becomes inactive and gets no more commands."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            device = await find_device(project, reference)
            assigned = await project.devices.assignments(device.device_id)
            if assigned:
                await project.devices.end_assignments(device.device_id)
            device = await _again(project, device)
        if assigned:
            output.say(f"{device.label} is mapped to no site now: {device.provisioning_status}.")
        else:
            output.say(f"{device.label} was mapped to no site: nothing was changed.")
        output.document({"device": device, "changed": bool(assigned)})
        return 0

    return asyncio.run(run())


def run_wake(settings: ProjectSettings, reference: str, cron: str | None, *, as_json: bool) -> int:
    """Give a device a schedule of its own, or with None its site's again, and tell it so.

    The schedule in its row holds from its next wake on; a set_wake_schedule command tells it before that, if
    it listens.
    """
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            device = await find_device(project, reference)
            if not device.is_active:
                raise UsageError(
                    f"{device.label} is not active: map it to a site first, with mqtt-service map"
                )
            sites = await project.devices.places_by_ids("site", [device.site_id] if device.site_id else [])
            schedule, timezone = _schedule(cron, sites[0] if sites else None)
            wakes = await project.devices.next_wake(schedule, datetime.now(UTC), timezone)
            command = NewCommand(
                uuid4(), device.device_id, "set_wake_schedule", {"wake_schedule_cron": schedule}
            )
            await project.devices.set_wake_schedule(device.device_id, cron)
            await project.commands.queue([command])
        whose = "its site's schedule" if cron is None else "a schedule of its own"
        output.say(
            f"{device.label} has {whose} now: {schedule} ({timezone}), next {both(wakes, datetime.now(UTC))}."
        )
        output.say(
            f"Queued, so that it hears of it before it wakes next: set_wake_schedule {command.command_id}"
        )
        output.document(
            {
                "device_id": device.device_id,
                "wake_schedule_cron": cron,
                "effective": schedule,
                "timezone": timezone,
                "next_wake_at": wakes,
                "command_id": command.command_id,
            }
        )
        return 0

    return asyncio.run(run())


def _schedule(cron: str | None, site: Place | None) -> tuple[str, str]:
    """What holds, and in which zone it is read."""
    of_site = site.wake_schedule_cron if site else None
    return (cron or of_site or DEFAULT_SCHEDULE), ((site.timezone if site else None) or "UTC")


async def _again(project: Project, device: DeviceRow) -> DeviceRow:
    found = await project.devices.by_ids([device.device_id])
    return found[0] if found else device


def _wakes(device: DeviceRow) -> str:
    return both(device.next_wake_at, datetime.now(UTC))
