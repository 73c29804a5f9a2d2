"""Finds in the project what people name: devices, places, commands; raises UsageError where it cannot."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mqtt_service.adapters.supabase.fleet_devices import DeviceFilter
from mqtt_service.adapters.supabase.fleet_rows import CommandRow, DeviceRow, Place, PlaceKind
from mqtt_service.errors import UsageError
from mqtt_service.fleet.choosing import Selection, as_mac, as_uuid, id_range, the_device, the_place
from mqtt_service.fleet.session import Project

_CALLS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Chosen:
    """The active devices that were chosen, in words too, and those left out because they are not active."""

    devices: Sequence[DeviceRow]
    left_out: Sequence[DeviceRow]
    where: str


async def find_device(project: Project, reference: str) -> DeviceRow:
    """The device with this id, MAC, code or name."""
    device_id, mac = as_uuid(reference), as_mac(reference)
    if device_id is not None:
        return the_device(reference, await project.devices.by_ids([device_id]))
    text = reference.strip()
    candidates = [
        *await project.devices.resembling("device_code", text),
        *await project.devices.resembling("device_name", text),
        *(
            await project.devices.with_mac(mac)
            if mac
            else await project.devices.resembling("device_mac", text)
        ),
    ]
    return the_device(reference, candidates)


async def find_devices(project: Project, references: Sequence[str]) -> list[DeviceRow]:
    """The devices with these names, each once, in the order given."""
    turn = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def find(reference: str) -> DeviceRow:
        async with turn:
            return await find_device(project, reference)

    found = await asyncio.gather(*map(find, references))
    return list({device.device_id: device for device in found}.values())


async def find_place(project: Project, kind: PlaceKind, reference: str) -> Place:
    """The site, program or company with this id or name."""
    place_id = as_uuid(reference)
    if place_id is not None:
        candidates = await project.devices.places_by_ids(kind, [place_id])
    else:
        candidates = await project.devices.places_named(kind, reference.strip())
    return the_place(kind, reference, candidates)


async def find_places(project: Project, kind: PlaceKind, references: Sequence[str]) -> list[Place]:
    """The places with these ids or names."""
    return [await find_place(project, kind, reference) for reference in references]


async def choose(project: Project, selection: Selection) -> Chosen:
    """The devices that a selection means.

    A device that is named must be active, since a command for another would fail; of a group, those that are
    not active are left out.
    """
    selection.check()
    if selection.devices:
        return _named(await find_devices(project, selection.devices))
    wanted, where = await _group(project, selection)
    found = await project.devices.every(wanted)
    chosen = Chosen(
        [device for device in found if device.is_active],
        [device for device in found if not device.is_active],
        where,
    )
    if not chosen.devices:
        raise UsageError(f"there is no active device {where}: see mqtt-service devices")
    return chosen


def _named(devices: list[DeviceRow]) -> Chosen:
    for device in devices:
        if not device.is_active:
            raise UsageError(
                f"{device.label} is not active ({device.provisioning_status}): map it to a site first, with "
                "mqtt-service map"
            )
    return Chosen(devices, [], "by name")


async def _group(project: Project, selection: Selection) -> tuple[DeviceFilter, str]:
    sites = await find_places(project, "site", selection.sites)
    programs = await find_places(project, "program", selection.programs)
    companies = await find_places(project, "company", selection.companies)
    names = " and ".join(place.name for place in (*sites, *programs, *companies))
    kind = next((kind for kind, found in (("at", sites), ("of", programs), ("of", companies)) if found), None)
    wanted = DeviceFilter(
        site_ids=[place.place_id for place in sites],
        program_ids=[place.place_id for place in programs],
        company_ids=[place.place_id for place in companies],
    )
    return wanted, f"{kind} {names}" if kind else "in the project"


async def find_command(project: Project, reference: str) -> CommandRow:
    """The command whose id begins like this."""
    first, last = id_range(reference)
    found = await project.commands.between(first, last, 2)
    if not found:
        raise UsageError(f"no command has an id that begins with {reference}: see mqtt-service commands")
    if len(found) > 1:
        raise UsageError(f"more than one command has an id that begins with {reference}: write more of it")
    return found[0]
