"""Firmware releases and devices' configuration, as the command line reads and changes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.tables import Moment, Query, Tables, columns_of


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A row of `firmware_releases`; `hardware` None: for any. `path` is in the bucket `firmware`."""

    release_id: UUID
    company_id: UUID
    version: str
    hardware: str | None
    sha256: str
    size_bytes: int
    path: str
    notes: str | None
    created_at: Moment | None = None


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """What a device is to have, and what it has confirmed; `config_due`: some of it goes out on waking."""

    device_id: UUID
    desired_config: dict[str, Any] | None
    desired_config_version: int
    desired_config_at: Moment | None
    reported_config: dict[str, Any] | None
    reported_config_version: int
    reported_config_at: Moment | None
    config_unconfirmed: list[str]
    config_error: str | None
    config_due: bool


@dataclass(frozen=True, slots=True)
class Configured:
    """How many devices a configuration was set for, and for how many of them it is another than before."""

    matched: int
    changed: int


_RELEASES = TypeAdapter(list[ReleaseRow])
_CONFIGS = TypeAdapter(list[ConfigRow])
_CONFIGURED = TypeAdapter(Configured)
_COMPANIES = TypeAdapter(list[dict[str, UUID]])
_NOTHING = TypeAdapter(object)


class ReleaseTable:
    """Each call can be repeated; what the database refuses is PermanentError in its own words."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, release: ReleaseRow) -> None:
        """Publish a release whose file is there; one with this id that is there already stays as it is."""
        row = {column: getattr(release, column) for column in columns_of(ReleaseRow).split(",")}
        row |= {"release_id": str(release.release_id), "company_id": str(release.company_id)}
        del row["created_at"]

        def insert() -> Query:
            return self._tables.table("firmware_releases").upsert(
                row, on_conflict="release_id", ignore_duplicates=True, returning="minimal"
            )

        await self._tables.run(insert, "firmware_releases", _NOTHING)

    async def every(self) -> list[ReleaseRow]:
        """All releases, by their id."""

        def select() -> Query:
            return self._tables.table("firmware_releases").select(columns_of(ReleaseRow))

        return await self._tables.every(select, "firmware_releases", _RELEASES, "release_id")

    async def remove(self, release_id: UUID) -> None:
        """Remove a release; what waits for it fails."""

        def delete() -> Query:
            query = self._tables.table("firmware_releases").delete(returning="minimal")
            return query.eq("release_id", str(release_id))

        await self._tables.run(delete, "firmware_releases", _NOTHING)

    async def some_companies(self) -> list[UUID]:
        """The ids of at most two companies."""

        def select() -> Query:
            return self._tables.table("companies").select("company_id").limit(2)

        found = await self._tables.run(select, "companies", _COMPANIES)
        return [row["company_id"] for row in found]


class ConfigTable:
    """The configuration of devices; each call can be repeated."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def of_device(self, device_id: UUID) -> ConfigRow | None:
        """What a device is to have, and has; None where it is gone."""

        def select() -> Query:
            query = self._tables.table("devices").select(columns_of(ConfigRow))
            return query.eq("device_id", str(device_id))

        found = await self._tables.run(select, "devices", _CONFIGS)
        return found[0] if found else None

    async def desire(
        self, target: Mapping[str, Any], config: Mapping[str, Any], *, replace: bool
    ) -> Configured:
        """Set keys of the desired configuration of all devices that fit, or with `replace` all of it."""
        function = "fn_set_desired_config"
        parameters: dict[str, object] = {
            "p_config": dict(config),
            "p_target": dict(target),
            "p_replace": replace,
        }
        return await self._tables.run(lambda: self._tables.rpc(function, parameters), function, _CONFIGURED)
