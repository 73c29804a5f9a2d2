"""Watches commands until each has come to its end, by reading their rows again and again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from mqtt_service.adapters.supabase.fleet_commands import CommandTable
from mqtt_service.adapters.supabase.fleet_rows import CommandRow
from mqtt_service.errors import SupabaseUnavailableError
from mqtt_service.fleet.words import fate

# Seconds between two looks; of a large fleet a look is many calls.
_PAUSE, _PAUSE_OF_MANY, _MANY = 0.5, 2.0, 300


async def watch(
    table: CommandTable,
    command_ids: Sequence[UUID],
    *,
    timeout: float | None,  # noqa: ASYNC109 - it ends a view, not a call
) -> AsyncIterator[dict[UUID, CommandRow]]:
    """The rows by id after each look, until all have come to an end or `timeout` seconds have passed.

    A command that is deleted is no longer in the rows. While the API is away, it goes on looking.
    """
    loop = asyncio.get_running_loop()
    end = None if timeout is None else loop.time() + timeout
    rows: dict[UUID, CommandRow] = {}
    waiting = list(command_ids)
    while waiting:
        try:
            seen = {row.command_id: row for row in await table.by_ids(waiting)}
        except SupabaseUnavailableError:
            if end is not None and loop.time() >= end:
                return
            continue  # the call has waited between its tries
        rows = {key: row for key, row in rows.items() if key not in waiting} | seen
        yield rows
        waiting = [key for key in waiting if key in seen and fate(seen[key]) == "open"]
        pause = _PAUSE if len(waiting) <= _MANY else _PAUSE_OF_MANY
        left = pause if end is None else end - loop.time()
        if left <= 0:
            return
        if waiting:
            await asyncio.sleep(min(pause, left))
