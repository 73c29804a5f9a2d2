"""Devices, their sites and what happened to them, as the command line reads and changes them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.fleet_rows import (
    AssignmentRow,
    DeviceRow,
    EventRow,
    ImageRow,
    Overview,
    Place,
    PlaceKind,
    TimelineRow,
)
from mqtt_service.adapters.supabase.tables import PAGE, Moment, Query, Tables, columns_of

_DEVICES = TypeAdapter(list[DeviceRow])
_EVENTS = TypeAdapter(list[EventRow])
_IMAGES = TypeAdapter(list[ImageRow])
_TIMELINE = TypeAdapter(list[TimelineRow])
_ASSIGNMENTS = TypeAdapter(list[AssignmentRow])
_PLACE = TypeAdapter(Place)
_PLACES = TypeAdapter(list[dict[str, object]])
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)
_OVERVIEW = TypeAdapter(Overview)
_NOTHING = TypeAdapter(object)

_PLACE_TABLES: dict[PlaceKind, tuple[str, str]] = {
    "site": ("sites", "site_id"),
    "program": ("pilot_programs", "program_id"),
    "company": ("companies", "company_id"),
}


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """Which devices are asked for; (): all."""

    statuses: Sequence[str] = ()
    site_ids: Sequence[UUID] = ()
    program_ids: Sequence[UUID] = ()
    company_ids: Sequence[UUID] = ()


class DeviceTable:
    """Reads devices and maps them; each call can be repeated."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    # Devices

    async def every(self, wanted: DeviceFilter = DeviceFilter()) -> list[DeviceRow]:
        """All of the devices asked for, by device_id."""

        def select() -> Query:
            query = self._select()
            for column, values in (
                ("provisioning_status", wanted.statuses),
                ("site_id", wanted.site_ids),
                ("program_id", wanted.program_ids),
                ("company_id", wanted.company_ids),
            ):
                query = query.in_(column, [str(value) for value in values]) if values else query
            return query

        return await self._tables.every(select, "devices", _DEVICES, "device_id")

    async def by_ids(self, device_ids: Sequence[UUID]) -> list[DeviceRow]:
        """These devices, in no order; one that is gone is missing."""
        return await self._tables.by_ids(self._select, "devices", _DEVICES, "device_id", device_ids)

    async def resembling(self, column: str, text: str) -> list[DeviceRow]:
        """The devices whose `column` is `text`, but for case, separators and wildcards: a superset."""
        return await self._resembling(column, _as_pattern(text))

    async def with_mac(self, digits: str) -> list[DeviceRow]:
        """The devices with this MAC (twelve hex digits), however they spell it: a superset."""
        return await self._resembling("device_mac", "%".join(re.findall("..", digits)))

    async def _resembling(self, column: str, pattern: str) -> list[DeviceRow]:
        return await self._tables.every(
            lambda: self._select().ilike(column, pattern), "devices", _DEVICES, "device_id"
        )

    async def set_wake_schedule(self, device_id: UUID, cron: str | None) -> None:
        """The device's own schedule; None: its site's."""

        def update() -> Query:
            query = self._tables.table("devices").update({"wake_schedule_cron": cron}, returning="minimal")
            return query.eq("device_id", str(device_id))

        await self._tables.run(update, "devices", _NOTHING)

    def _select(self) -> Query:
        return self._tables.table("devices").select(columns_of(DeviceRow))

    # What happened to a device

    async def events(self, device_id: UUID, limit: int) -> list[EventRow]:
        """The latest events of a device."""

        def select() -> Query:
            query = self._tables.table("device_history").select(columns_of(EventRow))
            return query.eq("device_id", str(device_id))

        return await self._tables.latest(
            select, "device_history", _EVENTS, time="created_at", key="history_id", limit=limit
        )

    async def images(self, device_id: UUID, limit: int) -> list[ImageRow]:
        """The latest pictures of a device."""

        def select() -> Query:
            query = self._tables.table("device_images").select(columns_of(ImageRow))
            return query.eq("device_id", str(device_id))

        return await self._tables.latest(
            select, "device_images", _IMAGES, time="updated_at", key="image_id", limit=limit
        )

    async def timeline(self, device_id: UUID, since: datetime, until: datetime) -> list[TimelineRow]:
        """What happened to a device from `since` up to, and not including, `until`, in order."""
        found: list[TimelineRow] = []
        while True:

            def page(offset: int = len(found)) -> Query:
                query = self._tables.table("device_timeline").select(columns_of(TimelineRow))
                query = query.eq("device_id", str(device_id)).gte("happened_at", since.isoformat())
                query = query.lt("happened_at", until.isoformat())
                for column in ("happened_at", "kind", "what", "about"):
                    query = query.order(column)
                return query.range(offset, offset + PAGE - 1)

            more = await self._tables.run(page, "device_timeline", _TIMELINE)
            if not more:
                return found
            found += more

    # Sites, programs, companies

    async def places_named(self, kind: PlaceKind, text: str) -> list[Place]:
        """The places of a kind whose name is `text`, but for case and wildcards: a superset."""
        return await self._places(kind, lambda query: query.ilike("name", _as_pattern(text)))

    async def places_by_ids(self, kind: PlaceKind, ids: Sequence[UUID]) -> list[Place]:
        """These places, in no order."""
        key = _PLACE_TABLES[kind][1]
        found: list[Place] = []
        for start in range(0, len(ids), 100):
            part = [str(one) for one in ids[start : start + 100]]

            def narrow(query: Query, part: list[str] = part) -> Query:
                return query.in_(key, part)

            found += await self._places(kind, narrow)
        return found

    async def _places(self, kind: PlaceKind, narrow: Callable[[Query], Query]) -> list[Place]:
        table, key = _PLACE_TABLES[kind]
        columns = f"place_id:{key},name" + (",timezone,wake_schedule_cron" if kind == "site" else "")
        rows = await self._tables.run(
            lambda: narrow(self._tables.table(table).select(columns)), table, _PLACES
        )
        return [_PLACE.validate_python({"kind": kind, **row, "name": row["name"] or ""}) for row in rows]

    # Mapping

    async def assignments(self, device_id: UUID) -> list[AssignmentRow]:
        """The active assignments of a device to a site: one, or none."""

        def select() -> Query:
            query = self._tables.table("device_site_assignments").select(columns_of(AssignmentRow))
            return query.eq("device_id", str(device_id)).is_("is_active", "true")

        return await self._tables.run(select, "device_site_assignments", _ASSIGNMENTS)

    async def assign(self, assignment_id: UUID, device_id: UUID, site_id: UUID) -> None:
        """Map a device; the triggers do the rest. Raises PermanentError with the reason where they refuse."""
        row = {"assignment_id": str(assignment_id), "device_id": str(device_id), "site_id": str(site_id)}

        def insert() -> Query:
            return self._tables.table("device_site_assignments").upsert(
                row, on_conflict="assignment_id", ignore_duplicates=True, returning="minimal"
            )

        await self._tables.run(insert, "device_site_assignments", _NOTHING)

    async def end_assignments(self, device_id: UUID) -> None:
        """End every active assignment of a device."""

        def update() -> Query:
            query = self._tables.table("device_site_assignments")
            query = query.update({"is_active": False}, returning="minimal")
            return query.eq("device_id", str(device_id)).is_("is_active", "true")

        await self._tables.run(update, "device_site_assignments", _NOTHING)

    # Of the whole fleet

    async def next_wake(self, cron: str, after: datetime, timezone: str) -> datetime:
        """When a schedule runs next; raises PermanentError with the reason where it does not parse."""
        parameters: dict[str, object] = {
            "p_cron_expression": cron,
            "p_from_timestamp": after.isoformat(),
            "p_timezone": timezone,
        }
        function = "fn_calculate_next_wake"
        return await self._tables.run(lambda: self._tables.rpc(function, parameters), function, _MOMENT)

    async def overview(self, window_seconds: float, slowest: int) -> Overview:
        """How the fleet does now and within the last so many seconds."""
        parameters: dict[str, object] = {"p_window_seconds": window_seconds, "p_slowest": slowest}
        function = "fn_fleet_overview"
        return await self._tables.run(lambda: self._tables.rpc(function, parameters), function, _OVERVIEW)


def _as_pattern(text: str) -> str:
    """A pattern for ilike that fits `text` and may fit more: the caller looks at what comes."""
    return re.sub(r"[%_*\\]", "_", text)
