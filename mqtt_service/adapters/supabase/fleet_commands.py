"""`device_commands` as the command line uses it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.fleet_rows import CommandRow, NewCommand, Story
from mqtt_service.adapters.supabase.tables import Query, Tables, columns_of

_TABLE = "device_commands"
_COLUMNS = columns_of(CommandRow)
_COMMANDS = TypeAdapter(list[CommandRow])
_NOTHING = TypeAdapter(object)
_CANCELLED = TypeAdapter(dict[str, int])
_STORY: TypeAdapter[Story | None] = TypeAdapter(Story | None)


@dataclass(frozen=True, slots=True)
class CommandFilter:
    """Which commands are asked for. `lost`: failed for good, rejected or expired; None and (): all."""

    statuses: Sequence[str] = ()
    lost: bool = False
    device_ids: Sequence[UUID] = ()
    types: Sequence[str] = ()
    since: datetime | None = None


class CommandTable:
    """Queues commands and reads them; each call can be repeated."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def queue(self, commands: Sequence[NewCommand]) -> None:
        """Insert commands, all or none; those that are there already (by their id) are left as they are.

        Raises PermanentError with the reason where the database refuses one of them.
        """
        rows = [
            {
                "command_id": str(command.command_id),
                "device_id": str(command.device_id),
                "command_type": command.command_type,
                "command_payload": dict(command.payload),
                "priority": command.priority,
                "scheduled_for": command.scheduled_for and command.scheduled_for.isoformat(),
                "expires_at": command.expires_at and command.expires_at.isoformat(),
                **({"release_id": str(command.release_id)} if command.release_id else {}),
            }
            for command in commands
        ]

        def insert() -> Query:
            return self._tables.table(_TABLE).upsert(
                rows, on_conflict="command_id", ignore_duplicates=True, returning="minimal"
            )

        await self._tables.run(insert, _TABLE, _NOTHING)

    async def by_ids(self, command_ids: Sequence[UUID]) -> list[CommandRow]:
        """These commands, in no order; one that was deleted is missing."""
        return await self._tables.by_ids(self._select, _TABLE, _COMMANDS, "command_id", command_ids)

    async def between(self, first: UUID, last: UUID, limit: int) -> list[CommandRow]:
        """At most `limit` commands with ids from `first` to `last`."""

        def select() -> Query:
            return (
                self._select()
                .gte("command_id", str(first))
                .lte("command_id", str(last))
                .order("command_id")
                .limit(limit)
            )

        return await self._tables.run(select, _TABLE, _COMMANDS)

    async def latest(self, wanted: CommandFilter, limit: int) -> list[CommandRow]:
        """At most `limit` of the commands asked for, those issued last first."""

        def select() -> Query:
            query = self._select()
            if wanted.device_ids:
                query = query.in_("device_id", [str(one) for one in wanted.device_ids])
            if wanted.types:
                query = query.in_("command_type", wanted.types)
            if wanted.since:
                query = query.gte("issued_at", wanted.since.isoformat())
            if wanted.lost:
                words = ",".join(["rejected", "expired", *wanted.statuses])
                return query.or_(f"and(status.eq.failed,due_at.is.null),status.in.({words})")
            return query.in_("status", wanted.statuses) if wanted.statuses else query

        return await self._tables.latest(
            select, _TABLE, _COMMANDS, time="issued_at", key="command_id", limit=limit
        )

    async def move(self, command_id: UUID, *, before: Sequence[str], after: str) -> CommandRow | None:
        """Give a command another status, if it has one of those `before`; None where it has not."""

        def update() -> Query:
            query = self._tables.table(_TABLE).update({"status": after})
            return query.eq("command_id", str(command_id)).in_("status", before)

        moved = await self._tables.run(update, _TABLE, _COMMANDS)
        return moved[0] if moved else None

    async def cancel_all(
        self,
        target: Mapping[str, Any] | None,
        schedule_id: UUID | None,
        kind: str | None,
        *,
        count_only: bool,
    ) -> int:
        """Cancel what waits for a target's devices, of a recurring command, of a type; returns how many.

        With `count_only` nothing is cancelled. Where an answer was lost, only what was left then is counted.
        """
        function = "fn_cancel_commands"
        parameters: dict[str, object] = {
            "p_target": None if target is None else dict(target),
            "p_schedule_id": None if schedule_id is None else str(schedule_id),
            "p_type": kind,
            "p_count_only": count_only,
        }
        told = await self._tables.run(lambda: self._tables.rpc(function, parameters), function, _CANCELLED)
        return told["found" if count_only else "cancelled"]

    async def explain(self, command_id: UUID) -> Story | None:
        """The story of a command; None where it was deleted."""
        parameters: dict[str, object] = {"p_command_id": str(command_id)}
        return await self._tables.run(
            lambda: self._tables.rpc("fn_explain_command", parameters), "fn_explain_command", _STORY
        )

    def _select(self) -> Query:
        return self._tables.table(_TABLE).select(_COLUMNS)
