"""Opens the project for one verb."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mqtt_service.adapters.supabase.firmware import FirmwareStore
from mqtt_service.adapters.supabase.fleet_commands import CommandTable
from mqtt_service.adapters.supabase.fleet_devices import DeviceTable
from mqtt_service.adapters.supabase.fleet_firmware import ConfigTable, ReleaseTable
from mqtt_service.adapters.supabase.fleet_rollouts import RolloutTable
from mqtt_service.adapters.supabase.fleet_schedules import ScheduleTable
from mqtt_service.adapters.supabase.tables import Tables
from mqtt_service.adapters.supabase.transport import connect
from mqtt_service.config import ProjectSettings


@dataclass(frozen=True, slots=True)
class Project:
    """The project's tables, and its firmware in Storage."""

    commands: CommandTable
    devices: DeviceTable
    schedules: ScheduleTable
    releases: ReleaseTable
    configs: ConfigTable
    firmware: FirmwareStore
    rollouts: RolloutTable


@asynccontextmanager
async def open_project(settings: ProjectSettings) -> AsyncIterator[Project]:
    """The project that the settings name; nothing is asked of it yet."""
    client = await connect(
        settings.supabase_url, settings.supabase_secret_key.get_secret_value(), settings.supabase_timeout
    )
    try:
        tables = Tables(client)
        yield Project(
            CommandTable(tables),
            DeviceTable(tables),
            ScheduleTable(tables),
            ReleaseTable(tables),
            ConfigTable(tables),
            FirmwareStore(client),
            RolloutTable(tables),
        )
    finally:
        await client.postgrest.aclose()
