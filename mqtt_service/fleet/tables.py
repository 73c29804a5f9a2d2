"""Commands, devices and schedules as tables on a terminal. Pure: rows in, a view out."""

from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from uuid import UUID

from rich.table import Table
from rich.text import Text

from mqtt_service.adapters.supabase.fleet_firmware import ReleaseRow
from mqtt_service.adapters.supabase.fleet_rows import CommandRow, DeviceRow
from mqtt_service.adapters.supabase.fleet_schedules import ScheduleRow
from mqtt_service.fleet.times import local, relative
from mqtt_service.fleet.words import brief, colour

_ID_SHOWN = 8


def short_id(row_id: UUID) -> str:
    """As much of an id as tells commands or schedules apart."""
    return str(row_id)[:_ID_SHOWN]


def commands_table(
    commands: Sequence[CommandRow], labels: Mapping[UUID, str], now: datetime, zone: tzinfo | None = None
) -> Table:
    """One row a command; `labels` are the devices' names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("command", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("issued", no_wrap=True)
    table.add_column("what is up", overflow="fold")
    for command in commands:
        table.add_row(
            short_id(command.command_id),
            Text(labels.get(command.device_id, "(gone)")),
            Text(command.command_type),
            Text(command.status, style=colour(command.status)),
            local(command.issued_at, zone),
            Text(brief(command, now)),
        )
    return table


def devices_table(
    devices: Sequence[DeviceRow], sites: Mapping[UUID, str], now: datetime, zone: tzinfo | None = None
) -> Table:
    """One row a device; `sites` are the sites' names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("device", "MAC", "name", "status", "site", "last heard"):
        table.add_column(column, no_wrap=True)
    table.add_column("next wake", no_wrap=True)
    table.add_column("battery", justify="right", no_wrap=True)
    table.add_column("signal", justify="right", no_wrap=True)
    for device in devices:
        table.add_row(
            Text(device.label),
            Text(device.device_mac),
            Text(device.device_name or ""),
            Text(device.provisioning_status, style="green" if device.is_active else "dim"),
            Text(sites.get(device.site_id, "") if device.site_id else ""),
            relative(device.last_seen_at, now),
            next_wake(device, now, zone),
            "" if device.battery_voltage is None else f"{device.battery_voltage:.2f} V",
            "" if device.wifi_rssi is None else f"{device.wifi_rssi} dBm",
        )
    return table


def next_wake(device: DeviceRow, now: datetime, zone: tzinfo | None) -> Text:
    """When a device wakes; red where that is over."""
    if device.next_wake_at is None:
        return Text("")
    overdue = device.is_active and device.next_wake_at < now
    return Text(local(device.next_wake_at, zone), style="red" if overdue else "")


def releases_table(releases: Sequence[ReleaseRow], zone: tzinfo | None = None) -> Table:
    """One row a firmware release."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("version", "hardware", "bytes", "sha256", "published"):
        table.add_column(column, no_wrap=True)
    table.add_column("notes")
    for row in releases:
        table.add_row(
            Text(row.version),
            Text(row.hardware or "any"),
            str(row.size_bytes),
            row.sha256[:12],
            local(row.created_at, zone) if row.created_at else "",
            Text(row.notes or ""),
        )
    return table


def schedules_table(schedules: Sequence[ScheduleRow], now: datetime) -> Table:
    """One row a recurring command."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("schedule", "name", "type", "when", "next"):
        table.add_column(column, no_wrap=True)
    table.add_column("last")
    for row in schedules:
        when = "at the site's wakes" if row.cron is None else f"{row.cron} {row.timezone or ''}".strip()
        then = "stopped" if row.enabled and row.next_run_at is None else "paused"
        last = row.last_result or ""
        if row.last_run_at is not None:
            last = f"{relative(row.last_run_at, now)}: {last}"
        table.add_row(
            short_id(row.schedule_id),
            Text(row.name),
            Text(row.command_type),
            Text(when),
            relative(row.next_run_at, now) if row.next_run_at else Text(then, style="yellow"),
            Text(last),
        )
    return table
