"""The verbs `rollout` and `window`: commands released little by little, and when they may go out."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

from rich.live import Live

from mqtt_service.adapters.supabase.fleet_rollouts import NewRollout, NewWindow, RolloutRow, WindowRow
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.asking import Ask, agrees
from mqtt_service.fleet.choosing import the_named
from mqtt_service.fleet.finding import find_place
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.payload import read_payload
from mqtt_service.fleet.rollout_view import progress_line, rollout_page, rollouts_table, windows_table
from mqtt_service.fleet.schedules import TargetWords, target_of
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.times import parse_duration

Change = Literal["pause", "resume", "approve", "cancel"]

_STATUS = {"pause": "paused", "resume": "running", "approve": "running", "cancel": "cancelled"}
_FROM_STATUS = {"resume": {"paused", "stopped"}, "approve": {"awaiting_approval"}}
_WATCH_PAUSE = 1.0  # seconds
_SHOWN = 20  # devices that failed or got no command


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What a person wrote after `rollout start`; `ask` says yes or no to a question."""

    name: str
    command_type: str
    target: TargetWords
    pairs: Sequence[str] = ()
    payload: str | None = None
    release: UUID | None = None
    continuous: bool = False
    rate: int | None = None
    growth: float | None = None
    max_rate: int | None = None
    stop_at: float | None = None  # per cent
    stop_after: int | None = None
    expires: str | None = None
    priority: int = 0
    needs_approval: bool = False
    yes: bool = False
    ask: Ask = field(default=lambda _: False)


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """What a person wrote after `window add`."""

    cron: str
    duration: str
    site: str | None = None
    rollout: str | None = None
    timezone: str | None = None
    types: Sequence[str] = ()


def the_rollout(reference: str, rollouts: Sequence[RolloutRow]) -> RolloutRow:
    """The one whose name this is, or whose id begins like this; raises UsageError."""
    return the_named("rollout", reference, [(row.rollout_id, row.name, row) for row in rollouts])


def the_window(reference: str, windows: Sequence[WindowRow]) -> WindowRow:
    """The one whose id begins like this; raises UsageError."""
    return the_named("window", reference, [(row.window_id, None, row) for row in windows])


def run_rollout_start(settings: ProjectSettings, request: RolloutRequest, *, as_json: bool) -> int:
    """Say for how many devices it is, ask, and start; 1 where the person says no."""
    output = Output(as_json=as_json)
    payload = read_payload(request.pairs, request.payload)
    life = parse_duration(request.expires) if request.expires else None

    async def run() -> int:
        async with open_project(settings) as project:
            target = await target_of(project, request.target)
            meant = await project.schedules.preview(target)
            _announce(request, meant.matched, meant.active, output)
            if not request.yes and not agrees(request.ask, "Start it?", "nothing was started"):
                output.note("Nothing was started.")
                return 1
            new = NewRollout(
                uuid4(), meant.company_id, request.name, target, request.command_type, payload,
                request.continuous, request.release, f"{life.total_seconds():.0f} seconds" if life else None,
                request.priority, request.rate, request.growth, request.max_rate,
                None if request.stop_at is None else request.stop_at / 100, request.stop_after,
                request.needs_approval,
            )  # fmt: skip
            await project.rollouts.start(new)
            started = await project.rollouts.one(new.rollout_id)
        is_waiting = "It waits for another admin's approval" if request.needs_approval else "Started"
        output.say(f"{is_waiting}: {new.rollout_id}")
        output.document({"rollout": started, "matched": meant.matched, "active": meant.active})
        return 0

    return asyncio.run(run())


def _announce(request: RolloutRequest, matched: int, active: int, output: Output) -> None:
    output.say(f"{request.command_type} for {matched} device(s), {active} of them active.")
    if request.continuous:
        output.say("It goes on for devices that come to fit, until it is cancelled.")


def run_rollout_list(settings: ProjectSettings, *, as_json: bool) -> int:
    """List rollouts, the latest first."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            found = await project.rollouts.every()
        found.sort(key=lambda row: row.started_at or _now(), reverse=True)
        output.document(found)
        if found:
            output.show(rollouts_table(found, _now()))
        elif not as_json:
            output.note("There is no rollout.")
        return 0

    return asyncio.run(run())


def run_rollout_status(settings: ProjectSettings, reference: str, *, watch: bool, as_json: bool) -> int:
    """Show a rollout's devices by state; with `watch` until it is over, or Ctrl-C."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            row = the_rollout(reference, await project.rollouts.every())
            if watch:
                row = await _watch(project, row, output)
            unlucky = await project.rollouts.unlucky(row.rollout_id, _SHOWN)
            found = await project.devices.by_ids([one.device_id for one in unlucky])
        labels = {device.device_id: device.label for device in found}
        if not watch:
            output.show(rollout_page(row, unlucky, labels, _now()))
            output.document({"rollout": row, "unlucky": unlucky})
        return 0

    return asyncio.run(run())


async def _watch(project: Project, row: RolloutRow, output: Output) -> RolloutRow:
    """Draw progress in place; where nobody watches, each change as a line. Returns the last row."""
    shown: RolloutRow | None = None
    with Live(console=output.out, auto_refresh=False) if output.live else nullcontext() as live:
        while True:
            if isinstance(live, Live):
                live.update(rollout_page(row, [], {}, _now()), refresh=True)
            elif row != shown:
                output.document(row, one_line=True)
                if not output.as_json:
                    output.say(progress_line(row))
            shown = row
            if row.finished_at is not None:
                return row
            await asyncio.sleep(_WATCH_PAUSE)
            found = await project.rollouts.one(row.rollout_id)
            if found is None:
                raise UsageError(f"{row.name} was removed")
            row = found


def run_rollout_change(
    settings: ProjectSettings, reference: str, change: Change, *, by: UUID | None = None, as_json: bool
) -> int:
    """Pause a rollout, resume, approve or cancel it."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            row = the_rollout(reference, await project.rollouts.every())
            allowed = _FROM_STATUS.get(change)
            if allowed is not None and row.status not in allowed:
                raise UsageError(f"{row.name} is {row.status}: there is nothing to {change}")
            await project.rollouts.become(row.rollout_id, _STATUS[change], by)
            row = await project.rollouts.one(row.rollout_id) or row
        output.say(f"{row.name} is {row.status}.")
        output.document({"rollout": row, "change": change})
        return 0

    return asyncio.run(run())


def run_window_add(settings: ProjectSettings, request: WindowRequest, *, as_json: bool) -> int:
    """Add a window, and say when it opens."""
    output = Output(as_json=as_json)
    if (request.site is None) == (request.rollout is None):
        raise UsageError("say whose window it is: --site or --rollout")
    span = parse_duration(request.duration)

    async def run() -> int:
        async with open_project(settings) as project:
            site = request.site and (await find_place(project, "site", request.site)).place_id
            rollout = (
                request.rollout and the_rollout(request.rollout, await project.rollouts.every()).rollout_id
            )
            new = NewWindow(
                uuid4(), request.cron, f"{span.total_seconds():.0f} seconds", site or None, rollout or None,
                request.timezone, list(request.types) or None,
            )  # fmt: skip
            await project.rollouts.add_window(new)
            added = the_window(str(new.window_id), await project.rollouts.windows())
        output.show(windows_table([added], {}, _now()))
        output.document(added)
        return 0

    return asyncio.run(run())


def run_window_list(settings: ProjectSettings, *, as_json: bool) -> int:
    """List windows: whose they are, what they hold, and when they open."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            found = await project.rollouts.windows()
            sites = await project.devices.places_by_ids("site", [row.site_id for row in found if row.site_id])
            rollouts = await project.rollouts.every() if any(row.rollout_id for row in found) else []
        names = {place.place_id: place.name for place in sites}
        names |= {row.rollout_id: f"rollout {row.name}" for row in rollouts}
        output.document(found)
        if found:
            output.show(windows_table(found, names, _now()))
        elif not as_json:
            output.note("There is no window.")
        return 0

    return asyncio.run(run())


def run_window_remove(settings: ProjectSettings, reference: str, *, as_json: bool) -> int:
    """Remove a window; what it holds goes out."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            row = the_window(reference, await project.rollouts.windows())
            await project.rollouts.remove_window(row.window_id)
        output.say(f"{row.window_id} is removed; what it held goes out.")
        output.document({"window": row, "change": "remove"})
        return 0

    return asyncio.run(run())


def _now() -> datetime:
    return datetime.now(UTC)
