"""Rows for the tests of the fleet's pure parts: a moment, a command and a device, and changes to them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from mqtt_service.adapters.supabase.fleet_rows import CommandRow, DeviceRow

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WORKER = "mqtt-service-web-1:3f9a01bc"


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def later(**span: float) -> datetime:
    return NOW + timedelta(**span)


_COMMAND = CommandRow(
    command_id=UUID("0f9c2c1e-6f0b-4d36-9a53-0d8f7f7a2b11"),
    device_id=UUID(int=1),
    command_type="capture_image",
    command_payload={},
    status="pending",
    priority=0,
    issued_at=ago(minutes=5),
    scheduled_for=None,
    expires_at=None,
    delivered_at=None,
    acknowledged_at=None,
    retry_count=0,
    redelivery_count=0,
    no_listener=False,
    last_error=None,
    response=None,
    due_at=ago(seconds=2),
    held_until=None,
    in_queue=True,
    lease_worker=None,
    lease_until=None,
    attempt=0,
)
_DEVICE = DeviceRow(
    device_id=UUID(int=1),
    device_mac="AA:BB:CC:DD:EE:FF",
    device_code="DEVICE-ESP32S3-001",
    device_name="North gate",
    provisioning_status="active",
    is_active=True,
    company_id=UUID(int=4),
    program_id=UUID(int=3),
    site_id=UUID(int=2),
    wake_schedule_cron=None,
    next_wake_at=later(hours=4),
    last_wake_at=ago(hours=4),
    last_seen_at=ago(hours=4),
    firmware_version="1.4.2",
    battery_voltage=3.91,
    wifi_rssi=-61,
)


def command(**changes: Any) -> CommandRow:
    return replace(_COMMAND, **changes)


def device(**changes: Any) -> DeviceRow:
    return replace(_DEVICE, **changes)
