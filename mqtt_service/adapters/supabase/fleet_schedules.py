"""Tags, targets and recurring commands, as the command line reads and changes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.tables import PAGE, Moment, Query, Tables, columns_of

Target = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A row of `command_schedules`; `next_run_at` is None where it is paused or stopped."""

    schedule_id: UUID
    company_id: UUID
    name: str
    target: dict[str, Any]
    command_type: str
    command_payload: dict[str, Any]
    cron: str | None
    timezone: str | None
    validity: str | None
    missed: str
    enabled: bool
    next_run_at: Moment | None
    last_run_at: Moment | None
    last_result: str | None


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A recurring command to be added; `cron` None: at the wakes of the target's site."""

    schedule_id: UUID
    name: str
    target: Target
    command_type: str
    command_payload: Mapping[str, Any]
    cron: str | None = None
    timezone: str | None = None
    validity: str | None = None
    missed: str = "run_once"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TagRow:
    """A row of `device_tags`."""

    device_id: UUID
    tag: str


@dataclass(frozen=True, slots=True)
class Preview:
    """How many devices of which company a target means; the active ones would get a command."""

    company_id: UUID
    matched: int
    active: int


_SCHEDULES = TypeAdapter(list[ScheduleRow])
_TAGS = TypeAdapter(list[TagRow])
_PREVIEW = TypeAdapter(Preview)
_NOTHING = TypeAdapter(object)


class ScheduleTable:
    """Each call can be repeated; what the database refuses is PermanentError in its own words."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, schedule: NewSchedule) -> None:
        """Add a recurring command; one with this id that is there already stays as it is."""
        row = {
            "schedule_id": str(schedule.schedule_id),
            "name": schedule.name,
            "target": dict(schedule.target),
            "command_type": schedule.command_type,
            "command_payload": dict(schedule.command_payload),
            "cron": schedule.cron,
            "timezone": schedule.timezone,
            "validity": schedule.validity,
            "missed": schedule.missed,
            "priority": schedule.priority,
        }

        def insert() -> Query:
            return self._tables.table("command_schedules").upsert(
                row, on_conflict="schedule_id", ignore_duplicates=True, returning="minimal"
            )

        await self._tables.run(insert, "command_schedules", _NOTHING)

    async def every(self) -> list[ScheduleRow]:
        """All recurring commands, by their id."""

        def select() -> Query:
            return self._tables.table("command_schedules").select(columns_of(ScheduleRow))

        return await self._tables.every(select, "command_schedules", _SCHEDULES, "schedule_id")

    async def enable(self, schedule_id: UUID, *, enabled: bool) -> None:
        """Pause a recurring command, or resume it."""

        def update() -> Query:
            query = self._tables.table("command_schedules").update({"enabled": enabled}, returning="minimal")
            return query.eq("schedule_id", str(schedule_id))

        await self._tables.run(update, "command_schedules", _NOTHING)

    async def remove(self, schedule_id: UUID) -> None:
        """Remove a recurring command; what it has queued stays."""

        def delete() -> Query:
            query = self._tables.table("command_schedules").delete(returning="minimal")
            return query.eq("schedule_id", str(schedule_id))

        await self._tables.run(delete, "command_schedules", _NOTHING)

    async def preview(self, target: Target) -> Preview:
        """What a target means now; raises PermanentError with what is wrong where it is none."""
        function = "fn_preview_target"
        parameters: dict[str, object] = {"p_target": dict(target), "p_limit": 0}
        return await self._tables.run(lambda: self._tables.rpc(function, parameters), function, _PREVIEW)

    async def tag(self, tag: str, device_ids: Sequence[UUID]) -> None:
        """Give devices a tag; those that have it keep it."""
        rows = [{"device_id": str(one), "tag": tag} for one in device_ids]

        def insert() -> Query:
            return self._tables.table("device_tags").upsert(
                rows, on_conflict="device_id,tag", ignore_duplicates=True, returning="minimal"
            )

        await self._tables.run(insert, "device_tags", _NOTHING)

    async def untag(self, tag: str, device_ids: Sequence[UUID]) -> None:
        """Take a tag off devices."""

        def delete() -> Query:
            query = self._tables.table("device_tags").delete(returning="minimal").eq("tag", tag)
            return query.in_("device_id", [str(one) for one in device_ids])

        await self._tables.run(delete, "device_tags", _NOTHING)

    async def tags(self) -> list[TagRow]:
        """Which devices have which tags, by tag."""
        found: list[TagRow] = []
        while True:

            def page(offset: int = len(found)) -> Query:
                query = self._tables.table("device_tags").select(columns_of(TagRow)).order("tag")
                return query.order("device_id").range(offset, offset + PAGE - 1)

            more = await self._tables.run(page, "device_tags", _TAGS)
            if not more:
                return found
            found += more
