"""The verbs `schedule` and `tag`: recurring commands, and the tags that their targets can name."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from mqtt_service.adapters.supabase.fleet_schedules import NewSchedule, ScheduleRow
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.choosing import the_named
from mqtt_service.fleet.finding import find_devices, find_place
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.payload import read_payload
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.tables import schedules_table
from mqtt_service.fleet.times import both, parse_duration

Change = Literal["pause", "resume", "remove"]

_DONE = {"pause": "paused", "resume": "resumed", "remove": "removed"}


@dataclass(frozen=True, slots=True)
class TargetWords:
    """The parts of a target as a person writes them; `where` is a JSON object with further parts."""

    devices: Sequence[str] = ()
    site: str | None = None
    program: str | None = None
    company: str | None = None
    tags: Sequence[str] = ()
    where: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """What a person wrote after `schedule add`."""

    name: str
    command_type: str
    target: TargetWords
    pairs: Sequence[str] = ()
    payload: str | None = None
    cron: str | None = None
    at_wakes: bool = False
    timezone: str | None = None
    expires: str | None = None
    missed: str = "run_once"
    priority: int = 0


def read_where(text: str | None) -> dict[str, Any]:
    """The further parts of a target; {} for None. Raises UsageError for what is no JSON object."""
    try:
        parts = json.loads(text) if text is not None else {}
    except ValueError:
        parts = None
    if not isinstance(parts, dict):
        raise UsageError('--where is not a JSON object: write e.g. \'{"battery": {"<": 3.5}}\'')
    return parts


def the_schedule(reference: str, schedules: Sequence[ScheduleRow]) -> ScheduleRow:
    """The one whose name this is, or whose id begins like this; raises UsageError."""
    return the_named("schedule", reference, [(row.schedule_id, row.name, row) for row in schedules])


async def target_of(project: Project, words: TargetWords) -> dict[str, Any]:
    """The target that the words mean; raises UsageError for names that are not there, or for none at all."""
    target = read_where(words.where)
    if words.devices:
        found = await find_devices(project, words.devices)
        target["devices"] = [str(device.device_id) for device in found]
    if words.site is not None:
        target["site"] = str((await find_place(project, "site", words.site)).place_id)
    if words.program is not None:
        target["program"] = str((await find_place(project, "program", words.program)).place_id)
    if words.company is not None:
        target["company"] = str((await find_place(project, "company", words.company)).place_id)
    if words.tags:
        target["tags"] = list(words.tags)
    if not target:
        raise UsageError("say for which devices: --device, --site, --program, --company, --tag or --where")
    return target


def run_schedule_add(settings: ProjectSettings, request: ScheduleRequest, *, as_json: bool) -> int:
    """Add a recurring command, and say for how many devices it is now and when it runs."""
    output = Output(as_json=as_json)
    if (request.cron is None) != request.at_wakes:
        raise UsageError("say when: --cron '0 6 * * *', or --at-wakes for the wakes of the site")
    payload = read_payload(request.pairs, request.payload)
    life: timedelta | None = parse_duration(request.expires) if request.expires else None

    async def run() -> int:
        async with open_project(settings) as project:
            target = await target_of(project, request.target)
            new = NewSchedule(
                uuid4(), request.name, target, request.command_type, payload, request.cron, request.timezone,
                f"{life.total_seconds():.0f} seconds" if life else None, request.missed, request.priority,
            )  # fmt: skip
            await project.schedules.add(new)
            added = the_schedule(str(new.schedule_id), await project.schedules.every())
            meant = await project.schedules.preview({"company": str(added.company_id), **target})
        output.say(f"Added {added.name}: {added.command_type}, next {both(added.next_run_at, _now())}.")
        output.say(f"{meant.matched} device(s) fit the target now, {meant.active} of them active.")
        output.document({"schedule": added, "matched": meant.matched, "active": meant.active})
        return 0

    return asyncio.run(run())


def run_schedule_list(settings: ProjectSettings, *, as_json: bool) -> int:
    """List recurring commands by their name."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            found = await project.schedules.every()
        found.sort(key=lambda row: row.name.casefold())
        output.document(found)
        if found:
            output.show(schedules_table(found, _now()))
        elif not as_json:
            output.note("There is no recurring command.")
        return 0

    return asyncio.run(run())


def run_schedule_change(settings: ProjectSettings, reference: str, change: Change, *, as_json: bool) -> int:
    """Pause, resume or remove a recurring command."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            row = the_schedule(reference, await project.schedules.every())
            if change == "remove":
                await project.schedules.remove(row.schedule_id)
            else:
                await project.schedules.enable(row.schedule_id, enabled=change == "resume")
                row = the_schedule(str(row.schedule_id), await project.schedules.every())
        then = f", next {both(row.next_run_at, _now())}" if change == "resume" else ""
        output.say(f"{row.name} is {_DONE[change]}{then}.")
        output.document({"schedule": row, "change": change})
        return 0

    return asyncio.run(run())


def run_tag(
    settings: ProjectSettings, tag: str, references: Sequence[str], *, add: bool, as_json: bool
) -> int:
    """Give devices a tag, or take it off."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            devices = await find_devices(project, references)
            ids = [device.device_id for device in devices]
            await (project.schedules.tag(tag, ids) if add else project.schedules.untag(tag, ids))
        labels = ", ".join(device.label for device in devices)
        output.say(f"{'Tagged' if add else 'Not tagged any more'} with {tag}: {labels}")
        output.document({"tag": tag, "devices": ids, "tagged": add})
        return 0

    return asyncio.run(run())


def run_tag_list(settings: ProjectSettings, *, as_json: bool) -> int:
    """List tags, and the devices that have each."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            rows = await project.schedules.tags()
            devices = await project.devices.by_ids(list({row.device_id for row in rows}))
        labels = {device.device_id: device.label for device in devices}
        by_tag: dict[str, list[UUID]] = defaultdict(list)
        for row in rows:
            by_tag[row.tag].append(row.device_id)
        output.document([{"tag": tag, "devices": ids} for tag, ids in by_tag.items()])
        for tag, ids in by_tag.items():
            if not as_json:
                output.say(f"{tag}: {', '.join(sorted(labels.get(one, str(one)) for one in ids))}")
        if not rows and not as_json:
            output.note("No device has a tag.")
        return 0

    return asyncio.run(run())


def _now() -> datetime:
    return datetime.now(UTC)
