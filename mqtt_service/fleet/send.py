"""The verb `send`: choose, say for whom, ask, queue, and watch if asked to."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from rich.live import Live

from mqtt_service.adapters.supabase.fleet_rows import CommandRow, DeviceRow, NewCommand
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.asking import Ask, agrees
from mqtt_service.fleet.choosing import Selection, name_some
from mqtt_service.fleet.finding import Chosen, choose
from mqtt_service.fleet.firmware import release_for
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.payload import read_payload
from mqtt_service.fleet.send_view import change_line, progress_view
from mqtt_service.fleet.sending import Order, Queued, commands_for, queue
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.times import both, parse_duration, parse_future
from mqtt_service.fleet.waiting import watch
from mqtt_service.fleet.words import fate


@dataclass(frozen=True, slots=True)
class SendRequest:
    """What a person wrote after `send`; `ask` says yes or no to a question."""

    command_type: str
    selection: Selection
    pairs: Sequence[str] = ()
    payload: str | None = None
    at: str | None = None
    expires: str | None = None
    priority: int = 0
    wait: bool = False
    timeout: str | None = None
    yes: bool = False
    release: str | None = None
    ask: Ask = field(default=lambda _: False)


def order_of(request: SendRequest, now: datetime) -> Order:
    """What is to be done; raises UsageError. `--expires` counts from `--at`, where that is given."""
    at = parse_future(request.at, now) if request.at else None
    expires = (at or now) + parse_duration(request.expires) if request.expires else None
    payload = read_payload(request.pairs, request.payload)
    if request.release and (request.command_type != "update_firmware" or payload):
        raise UsageError("--release goes with update_firmware, and without a payload")
    return Order(request.command_type, payload, request.priority, at, expires)


def run_send(settings: ProjectSettings, request: SendRequest, *, as_json: bool) -> int:
    """Queue the command; returns the exit status: 1 where it was not queued for all, or not acknowledged."""
    order = order_of(request, datetime.now(UTC))
    request.selection.check()
    timeout = parse_duration(request.timeout) if request.timeout else None
    return asyncio.run(_send(settings, request, order, timeout, Output(as_json=as_json)))


async def _send(
    settings: ProjectSettings,
    request: SendRequest,
    order: Order,
    timeout: timedelta | None,  # noqa: ASYNC109 - it ends a view, not a call
    output: Output,
) -> int:
    async with open_project(settings) as project:
        chosen = await choose(project, request.selection)
        release_of = await _releases(project, request.release)
        _announce(order, chosen, output)
        if (
            len(chosen.devices) > 1
            and not request.yes
            and not agrees(request.ask, "Queue it?", "nothing was queued")
        ):
            output.note("Nothing was queued.")
            return 1
        devices = {device.device_id: device for device in chosen.devices}
        commands = commands_for(order, chosen.devices, uuid4, release_of)
        queued = await queue(project.commands, commands)
        say_queued(queued, devices, output)
        rows: dict[UUID, CommandRow] = {}
        if request.wait and queued.commands:
            ids = [command.command_id for command in queued.commands]
            rows = await _wait(project, ids, devices, timeout, output)
        output.document(_document(order, chosen, queued, rows if request.wait else None))
    return 0 if _succeeded(queued, rows if request.wait else None) else 1


async def _releases(project: Project, version: str | None) -> Callable[[DeviceRow], UUID | None]:
    """Which release each device gets."""
    if version is None:
        return lambda _: None
    releases = await project.releases.every()
    return lambda device: release_for(device, version, releases).release_id


def _announce(order: Order, chosen: Chosen, output: Output) -> None:
    count = len(chosen.devices)
    names = name_some([device.label for device in chosen.devices])
    devices = "1 device" if count == 1 else f"{count} devices"
    now = datetime.now(UTC)
    when = f", not before {both(order.scheduled_for, now)}" if order.scheduled_for else ""
    until = f", until {both(order.expires_at, now)}" if order.expires_at else ""
    where = "" if chosen.where == "by name" else f" {chosen.where}"
    output.say(f"{order.command_type} for {devices}{where}: {names}{when}{until}")
    if chosen.left_out:
        left_out = name_some([device.label for device in chosen.left_out])
        output.say(f"Left out, since not active: {len(chosen.left_out)} ({left_out})")


def say_queued(queued: Queued, devices: Mapping[UUID, DeviceRow], output: Output) -> None:
    """Say what was queued, what was not, and of what that is not known."""
    if len(queued.commands) == 1 and not queued.refused:
        output.say(f"Queued: {queued.commands[0].command_id}")
    elif len(queued.unknown) == 1 and not queued.commands:
        command_id = queued.unknown[0].command_id
        output.note(
            f"Perhaps queued, as {command_id}: {queued.error}. Before sending again: mqtt-service show"
        )
        return
    else:
        output.say(f"Queued: {len(queued.commands)}")
    for command, reason in queued.refused:
        output.note(f"{devices[command.device_id].label} was refused: {reason}")
    if queued.error is not None:
        output.note(f"The rest ({len(queued.unknown)}) may not be queued: {queued.error}")


async def _wait(
    project: Project,
    ids: Sequence[UUID],
    devices: dict[UUID, DeviceRow],
    timeout: timedelta | None,  # noqa: ASYNC109 - as above
    output: Output,
) -> dict[UUID, CommandRow]:
    """The rows at the end; each change is shown as it comes."""
    labels = {device_id: device.label for device_id, device in devices.items()}
    seconds = timeout.total_seconds() if timeout else None
    rows: dict[UUID, CommandRow] = {}
    with Live(console=output.out, transient=False) if output.live else nullcontext() as live:
        async for seen in watch(project.commands, ids, timeout=seconds):
            now = datetime.now(UTC)
            if isinstance(live, Live):
                live.update(progress_view(list(seen.values()), labels, len(ids), now))
            else:
                for row in seen.values():
                    before = rows.get(row.command_id)
                    if before is None or before.status != row.status:
                        output.say(change_line(row, labels, now))
            rows = seen
    _say_end(rows, len(ids), output)
    return rows


def _say_end(rows: dict[UUID, CommandRow], asked: int, output: Output) -> None:
    ends = Counter(fate(row) for row in rows.values())
    if asked > 1 or ends["done"] < asked:
        words = f"{ends['done']} of {asked} acknowledged"
        words += f", {ends['open']} still open" if ends["open"] else ""
        lost = asked - ends["done"] - ends["open"]
        output.say(words + (f", {lost} failed" if lost else ""))


def _succeeded(queued: Queued, rows: dict[UUID, CommandRow] | None) -> bool:
    if queued.refused or queued.error is not None:
        return False
    if rows is None:
        return True
    return all(
        command.command_id in rows and fate(rows[command.command_id]) == "done" for command in queued.commands
    )


def _document(
    order: Order, chosen: Chosen, queued: Queued, rows: dict[UUID, CommandRow] | None
) -> dict[str, object]:
    devices = {device.device_id: device for device in chosen.devices}

    def described(command: NewCommand) -> dict[str, object]:
        device = devices[command.device_id]
        return {
            "command_id": command.command_id,
            "device_id": command.device_id,
            "device_code": device.device_code,
            "device_mac": device.device_mac,
        }

    return {
        "command_type": order.command_type,
        "command_payload": dict(order.payload),
        "scheduled_for": order.scheduled_for,
        "expires_at": order.expires_at,
        "queued": [described(command) for command in queued.commands],
        "refused": [{**described(command), "reason": reason} for command, reason in queued.refused],
        "unknown": [described(command) for command in queued.unknown],
        "left_out": [device.device_id for device in chosen.left_out],
        "error": queued.error,
        # null: nobody asked to wait
        "commands": None if rows is None else list(rows.values()),
    }
