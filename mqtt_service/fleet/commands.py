"""The verbs `commands`, `show`, `cancel` and `retry`."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from rich.live import Live

from mqtt_service.adapters.supabase.fleet_commands import CommandFilter
from mqtt_service.adapters.supabase.fleet_rows import CommandRow, DeviceRow
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.finding import find_command, find_devices
from mqtt_service.fleet.output import Output, plain
from mqtt_service.fleet.send_view import change_line
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.tables import commands_table, short_id
from mqtt_service.fleet.times import parse_past
from mqtt_service.fleet.words import LOST, OPEN, STATUSES

_WATCH_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class ListRequest:
    """What a person wrote after `commands`."""

    statuses: Sequence[str] = ()
    devices: Sequence[str] = ()
    types: Sequence[str] = ()
    since: str | None = None
    limit: int = 50
    watch: bool = False


def read_statuses(words: Sequence[str]) -> tuple[list[str], bool]:
    """The statuses that are meant, and whether those are meant that are lost; raises UsageError."""
    statuses: list[str] = []
    for word in words:
        if word not in {*STATUSES, OPEN, LOST}:
            raise UsageError(f"{word!r} is no status: use {', '.join((*STATUSES, OPEN, LOST))}")
        if word == OPEN:
            statuses += ["pending", "sent"]
        elif word != LOST:
            statuses.append(word)
    return list(dict.fromkeys(statuses)), LOST in words


def run_commands(settings: ProjectSettings, request: ListRequest, *, as_json: bool) -> int:
    """List commands, the latest first; with `watch` until Ctrl-C."""
    statuses, lost = read_statuses(request.statuses)
    since = parse_past(request.since, datetime.now(UTC)) if request.since else None
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            devices = await find_devices(project, request.devices)
            wanted = CommandFilter(
                statuses, lost, [device.device_id for device in devices], request.types, since
            )
            if request.watch:
                await _watch(project, wanted, request.limit, output)
                return 0
            commands = await project.commands.latest(wanted, request.limit)
            labels = await _labels(project, commands)
        output.document([_described(command, labels) for command in commands])
        if commands:
            output.show(commands_table(commands, {k: d.label for k, d in labels.items()}, datetime.now(UTC)))
        elif not as_json:
            output.note("No command fits.")
        return 0

    return asyncio.run(run())


async def _watch(project: Project, wanted: CommandFilter, limit: int, output: Output) -> None:
    """Show the list anew each time; where nobody watches, each command and each change as a line."""
    seen: dict[UUID, CommandRow] = {}
    with (
        Live(console=output.out, screen=output.live, auto_refresh=False)
        if output.live
        else nullcontext() as live
    ):
        while True:
            commands = await project.commands.latest(wanted, limit)
            devices = await _labels(project, commands)
            labels = {key: device.label for key, device in devices.items()}
            now = datetime.now(UTC)
            if isinstance(live, Live):
                live.update(commands_table(commands, labels, now), refresh=True)
            for command in reversed(commands):
                if not output.live and seen.get(command.command_id) != command:
                    output.document(_described(command, devices), one_line=True)
                    if not output.as_json:
                        output.say(change_line(command, labels, now))
            seen = {command.command_id: command for command in commands}
            await asyncio.sleep(_WATCH_PAUSE)


async def _labels(project: Project, commands: Sequence[CommandRow]) -> dict[UUID, DeviceRow]:
    ids = list({command.device_id for command in commands})
    return {device.device_id: device for device in await project.devices.by_ids(ids)}


def _described(command: CommandRow, devices: dict[UUID, DeviceRow]) -> dict[str, object]:
    device = devices.get(command.device_id)
    return {
        **_as_dict(command),
        "device_code": device and device.device_code,
        "device_name": device and device.device_name,
        "device_mac": device and device.device_mac,
    }


def _as_dict(row: object) -> dict[str, object]:
    document = plain(row)
    return document if isinstance(document, dict) else {}


def run_show(settings: ProjectSettings, reference: str, *, as_json: bool) -> int:
    """Tell one command's story."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            command = await find_command(project, reference)
            devices = await _labels(project, [command])
            story = await project.commands.explain(command.command_id)
        if story is None:
            raise UsageError(f"the command {reference} is gone: it was deleted a moment ago")
        told = {name: value for name, value in _as_dict(story).items() if name != "text"}
        output.document({**_described(command, devices), **told, "story": story.text})
        if not as_json:
            output.say(f"{command.command_id}  {command.status}")
            for line in story.text:
                output.say(f"  {line}")
            output.say(f"  Payload: {json.dumps(command.command_payload, ensure_ascii=False)}")
            if command.response is not None:
                output.say(f"  Answer: {json.dumps(command.response, ensure_ascii=False)}")
        return 0

    return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class Move:
    """A move that a person may make (docs/commands.md, "Cancel, and try again")."""

    before: Sequence[str]
    after: str
    done: str
    refused: str


CANCEL = Move(
    ("pending", "failed"),
    "cancelled",
    "cancelled",
    "only what is pending or failed can be cancelled",
)
RETRY = Move(
    ("failed",),
    "pending",
    "tried again",
    "only what failed can be tried again: queue a new one",
)


def run_move(settings: ProjectSettings, references: Sequence[str], move: Move, *, as_json: bool) -> int:
    """Cancel commands, or try them again; 1 where one of them could not be moved."""
    output = Output(as_json=as_json)

    async def run() -> int:
        results = []
        async with open_project(settings) as project:
            commands = [await find_command(project, reference) for reference in references]
            for command in {command.command_id: command for command in commands}.values():
                results.append(await _move(project, command, move, output))  # noqa: PERF401 - one at a time
        output.document(results)
        return 0 if all(result["done"] for result in results) else 1

    return asyncio.run(run())


async def _move(project: Project, command: CommandRow, move: Move, output: Output) -> dict[str, object]:
    moved = await project.commands.move(command.command_id, before=move.before, after=move.after)
    already = moved is None
    if moved is None:
        # Where an answer was lost the move has happened already.
        found = await project.commands.by_ids([command.command_id])
        moved = found[0] if found else command
    done = moved.status == move.after
    name = f"{short_id(command.command_id)} ({command.command_type})"
    if done:
        output.say(f"{name} is {moved.status} already" if already else f"{name}: {move.done}")
        if move.after == "cancelled" and command.attempt:
            output.say("  A worker had taken it up before, so the device may have got it nevertheless.")
    else:
        output.note(f"{name} is {moved.status}: {move.refused}")
    return {
        "command_id": command.command_id,
        "status": moved.status,
        "done": done,
        "reason": None if done else f"it is {moved.status}: {move.refused}",
    }
