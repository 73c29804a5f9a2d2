"""Queues one command for many devices, in few calls that can be repeated."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from mqtt_service.adapters.supabase.fleet_commands import CommandTable
from mqtt_service.adapters.supabase.fleet_rows import DeviceRow, NewCommand
from mqtt_service.errors import PermanentError, ProjectMisconfiguredError, RetryableError

_MOST_ROWS = 500
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, for however many devices."""

    command_type: str
    payload: Mapping[str, Any]
    priority: int = 0
    scheduled_for: datetime | None = None
    expires_at: datetime | None = None


@dataclass(slots=True)
class Queued:
    """What became of an order; `unknown`: what may not be queued, since the API went away (`error`)."""

    commands: list[NewCommand] = field(default_factory=list)
    refused: list[tuple[NewCommand, str]] = field(default_factory=list)
    unknown: list[NewCommand] = field(default_factory=list)
    error: str | None = None


def commands_for(
    order: Order,
    devices: Sequence[DeviceRow],
    new_id: Callable[[], UUID],
    release_of: Callable[[DeviceRow], UUID | None] = lambda _: None,
) -> list[NewCommand]:
    """One command for each device, with ids of `new_id`."""
    return [
        NewCommand(
            new_id(),
            device.device_id,
            order.command_type,
            order.payload,
            order.priority,
            order.scheduled_for,
            order.expires_at,
            release_of(device),
        )
        for device in devices
    ]


async def queue(table: CommandTable, commands: Sequence[NewCommand]) -> Queued:
    """Queue commands of one order.

    The first goes alone: what is refused of it is refused of all, and then nothing has been queued (raises
    PermanentError). Later, a row that is refused harms no other. Where the API goes away, what is left is
    `unknown`, also the first: its answer may be lost, and who sends anew would have two.
    """
    queued = Queued()
    try:
        await table.queue(commands[:1])
    except RetryableError as error:
        return Queued(unknown=list(commands), error=str(error))
    queued.commands += commands[:1]
    for batch in _batches(commands[1:]):
        if queued.error is None:
            try:
                await _queue_apart(table, batch, queued)
            except (RetryableError, ProjectMisconfiguredError) as error:
                queued.error = str(error)
        if queued.error is not None:
            settled = {one.command_id for one in (*queued.commands, *(row for row, _ in queued.refused))}
            queued.unknown += [command for command in batch if command.command_id not in settled]
    return queued


async def _queue_apart(table: CommandTable, batch: Sequence[NewCommand], queued: Queued) -> None:
    """Queue a batch; where one of it is refused, halves of it, down to that one."""
    try:
        await table.queue(batch)
    except ProjectMisconfiguredError:
        raise
    except PermanentError as error:
        if len(batch) == 1:
            queued.refused.append((batch[0], str(error)))
            return
        middle = len(batch) // 2
        await _queue_apart(table, batch[:middle], queued)
        await _queue_apart(table, batch[middle:], queued)
    else:
        queued.commands += batch


def _batches(commands: Sequence[NewCommand]) -> Iterator[Sequence[NewCommand]]:
    if not commands:
        return
    row_bytes = len(json.dumps(dict(commands[0].payload))) + 200
    size = max(1, min(_MOST_ROWS, _MOST_BYTES // row_bytes))
    for start in range(0, len(commands), size):
        yield commands[start : start + size]
