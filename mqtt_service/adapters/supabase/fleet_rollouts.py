"""Rollouts and maintenance windows, as the command line reads and changes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.tables import Moment, Query, Tables, columns_of


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A row of `rollout_progress`: devices by state. `total` and `waiting` are None for a continuous one."""

    rollout_id: UUID
    company_id: UUID
    name: str
    status: str
    command_type: str
    continuous: bool
    started_at: Moment | None
    finished_at: Moment | None
    next_release_at: Moment | None
    rate_per_minute: int
    total: int | None
    waiting: int | None
    pending: int
    sent: int
    unverified: int
    succeeded: int
    failed: int
    cancelled: int
    skipped: int
    refused: int
    ended: int
    last_result: str | None


@dataclass(frozen=True, slots=True)
class NewRollout:
    """A rollout to be started; what is None is the table's default."""

    rollout_id: UUID
    company_id: UUID
    name: str
    target: Mapping[str, Any]
    command_type: str
    command_payload: Mapping[str, Any]
    continuous: bool = False
    release_id: UUID | None = None
    validity: str | None = None
    priority: int = 0
    rate_per_minute: int | None = None
    growth_factor: float | None = None
    max_rate_per_minute: int | None = None
    failure_threshold: float | None = None
    failure_minimum: int | None = None
    needs_approval: bool = False


@dataclass(frozen=True, slots=True)
class RolloutDevice:
    """What became of one device of a rollout, and why."""

    device_id: UUID
    command_id: UUID | None
    state: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A row of `maintenance_windows`; `opens_at` is None where it is not in force."""

    window_id: UUID
    site_id: UUID | None
    rollout_id: UUID | None
    cron: str
    duration: str
    timezone: str | None
    command_types: list[str]
    enabled: bool
    opens_at: Moment | None
    closes_at: Moment | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class NewWindow:
    """A window to be added, of a site or of a rollout; `command_types` None is the table's default."""

    window_id: UUID
    cron: str
    duration: str
    site_id: UUID | None = None
    rollout_id: UUID | None = None
    timezone: str | None = None
    command_types: list[str] | None = None


_ROLLOUTS = TypeAdapter(list[RolloutRow])
_DEVICES = TypeAdapter(list[RolloutDevice])
_WINDOWS = TypeAdapter(list[WindowRow])
_NOTHING = TypeAdapter(object)


class RolloutTable:
    """Each call can be repeated; what the database refuses is PermanentError in its own words."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def start(self, rollout: NewRollout) -> None:
        """Start a rollout; one with this id that is there already stays as it is."""
        await self._add("command_rollouts", "rollout_id", rollout)

    async def every(self) -> list[RolloutRow]:
        """All rollouts, by their id."""

        def select() -> Query:
            return self._tables.table("rollout_progress").select(columns_of(RolloutRow))

        return await self._tables.every(select, "rollout_progress", _ROLLOUTS, "rollout_id")

    async def one(self, rollout_id: UUID) -> RolloutRow | None:
        """One rollout; None: it is gone."""

        def select() -> Query:
            query = self._tables.table("rollout_progress").select(columns_of(RolloutRow))
            return query.eq("rollout_id", str(rollout_id))

        found = await self._tables.run(select, "rollout_progress", _ROLLOUTS)
        return found[0] if found else None

    async def become(self, rollout_id: UUID, status: str, approved_by: UUID | None = None) -> None:
        """Pause a rollout, resume, approve or cancel it."""
        change = {"status": status}
        if approved_by is not None:
            change["approved_by_user_id"] = str(approved_by)

        def update() -> Query:
            query = self._tables.table("command_rollouts").update(change, returning="minimal")
            return query.eq("rollout_id", str(rollout_id))

        await self._tables.run(update, "command_rollouts", _NOTHING)

    async def unlucky(self, rollout_id: UUID, limit: int) -> list[RolloutDevice]:
        """Some of its devices that failed, or got no command."""

        def select() -> Query:
            query = self._tables.table("rollout_devices").select(columns_of(RolloutDevice))
            query = query.eq("rollout_id", str(rollout_id))
            return query.in_("state", ["failed", "refused", "skipped"]).order("state").limit(limit)

        return await self._tables.run(select, "rollout_devices", _DEVICES)

    async def add_window(self, window: NewWindow) -> None:
        """Add a window; one with this id that is there already stays as it is."""
        await self._add("maintenance_windows", "window_id", window)

    async def windows(self) -> list[WindowRow]:
        """All windows, by their id."""

        def select() -> Query:
            return self._tables.table("maintenance_windows").select(columns_of(WindowRow))

        return await self._tables.every(select, "maintenance_windows", _WINDOWS, "window_id")

    async def remove_window(self, window_id: UUID) -> None:
        """Remove a window; what it holds goes out."""

        def delete() -> Query:
            query = self._tables.table("maintenance_windows").delete(returning="minimal")
            return query.eq("window_id", str(window_id))

        await self._tables.run(delete, "maintenance_windows", _NOTHING)

    async def _add(self, table: str, key: str, new: NewRollout | NewWindow) -> None:
        values = {name: getattr(new, name) for name in new.__dataclass_fields__}
        row = {
            name: str(value) if isinstance(value, UUID) else value
            for name, value in values.items()
            if value is not None
        }

        def insert() -> Query:
            return self._tables.table(table).upsert(
                row, on_conflict=key, ignore_duplicates=True, returning="minimal"
            )

        await self._tables.run(insert, table, _NOTHING)
