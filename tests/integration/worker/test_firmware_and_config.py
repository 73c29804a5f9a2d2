"""Firmware and configuration go the whole way: rows, Storage, the wire, a device, and its word on waking."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from mqtt_service.adapters.supabase.firmware import FirmwareStore
from mqtt_service.adapters.supabase.transport import connect
from mqtt_service.devstack.stack import Stack
from mqtt_service.errors import SupabaseUnavailableError
from mqtt_service.queue import publishing
from mqtt_service.simulator.device import DeviceOptions, SimulatedDevice
from tests.integration.worker.harness import COMPANY, Rows, eventually, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILE = b"firmware" * 1000


async def publish(stack: Stack, database: Rows, version: str, *, stored: bool = True) -> UUID:
    """A release; its file is in Storage."""
    path = f"{COMPANY}/{uuid4()}.bin"
    if stored:
        client = await connect(stack.url, stack.keys.service_role_key)
        await FirmwareStore(client).put(path, FILE)
        await client.postgrest.aclose()
    row = await database.one(
        "insert into firmware_releases (company_id, version, sha256, size_bytes, path)"
        " values (%s, %s, %s, %s, %s) returning release_id",
        COMPANY, version, hashlib.sha256(FILE).hexdigest(), len(FILE), path,
    )  # fmt: skip
    release_id: UUID = row["release_id"]
    return release_id


async def update(database: Rows, device: dict[str, Any], release_id: UUID) -> UUID:
    row = await database.one(
        "insert into device_commands (device_id, command_type, release_id)"
        " values (%s, 'update_firmware', %s) returning command_id",
        device["device_id"], release_id,
    )  # fmt: skip
    command_id: UUID = row["command_id"]
    return command_id


@asynccontextmanager
async def simulated(stack: Stack, device: dict[str, Any], **options: Any) -> AsyncIterator[SimulatedDevice]:
    made = DeviceOptions(device["device_mac"], firmware_version="1.3.0", **options)
    async with SimulatedDevice(made, stack.mqtt_host, stack.mqtt_port, rng=Random(1)) as running:
        yield running


async def test_a_release_is_fetched_installed_and_verified_or_named(stack: Stack, database: Rows) -> None:
    good, bad = await database.add_active_devices(2)
    release_id = await publish(stack, database, "1.4.0")
    async with (
        running_worker(stack),
        simulated(stack, good) as installs,
        simulated(stack, bad, rolls_back=True) as rolls_back,
    ):
        taken, lost = [await update(database, device, release_id) for device in (good, bad)]
        await eventually(lambda: installs.firmware_version == "1.4.0", "the firmware installed")

        async def verified() -> bool:
            return (await database.command(taken))["verified_at"] is not None

        await eventually(verified, "the version said at the next HELLO")
        row = await database.becomes(lost, "acknowledged")
        assert row["verified_at"] is None
        await database.all(
            "update device_commands set acknowledged_at = acknowledged_at - interval '1 min'"
            " where command_id = %s",
            lost,
        )
        await rolls_back.send_heartbeat()
        row = await database.becomes(lost, "failed")
    assert row["last_error"] == "the device came back with version 1.3.0, not 1.4.0"
    assert (installs.complaints, rolls_back.complaints) == ([], [])
    [sent] = [each.fields for each in installs.received if each.command_type == "update_firmware"]
    assert sent["firmware_url"].startswith(stack.url)
    assert set(sent) == {"device_id", "command_id", "firmware_url", "version", "sha256", "size"}


async def test_while_storage_is_away_firmware_waits_uncounted_and_the_rest_goes_on(
    stack: Stack, database: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, calls = FirmwareStore.sign, 0

    async def at_first_away(self: FirmwareStore, path: str, seconds: float) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise SupabaseUnavailableError("Storage is away")
        return await sign(self, path, seconds)

    monkeypatch.setattr(FirmwareStore, "sign", at_first_away)
    monkeypatch.setattr(publishing, "_POSTPONED_FOR", 0.3)
    one, other = await database.add_active_devices(2)
    release_id = await publish(stack, database, "1.5.0")
    async with running_worker(stack), simulated(stack, one) as device:
        command = await update(database, one, release_id)
        rest = await database.queue(other["device_id"], "reboot")
        await database.becomes(rest, "sent")
        await eventually(lambda: device.firmware_version == "1.5.0", "the firmware installed")
    row = await database.command(command)
    assert (row["retry_count"], row["attempt"], calls) == (0, 2, 2)


async def test_a_release_without_its_file_fails_and_says_what_to_do(stack: Stack, database: Rows) -> None:
    [device] = await database.add_active_devices(1)
    release_id = await publish(stack, database, "1.6.0", stored=False)
    async with running_worker(stack, max_retries=1):
        command = await update(database, device, release_id)
        row = await database.becomes(command, "failed")
    assert "publish the release again" in row["last_error"]


async def test_a_configuration_that_changed_while_the_device_slept_is_one_message(
    stack: Stack, database: Rows
) -> None:
    [device] = await database.add_active_devices(1)
    for interval in range(5):
        await database.all(
            "update devices set desired_config = %s where device_id = %s",
            json.dumps({"interval": interval, "led": {"colour": "red"}}), device["device_id"],
        )  # fmt: skip

    async def in_step() -> bool:
        row = await database.one("select * from devices where device_id = %s", device["device_id"])
        return bool(row["reported_config"] == row["desired_config"])

    async with running_worker(stack), simulated(stack, device) as awake:
        await eventually(in_step, "the device's answer in its row")
        assert awake.config == {"interval": 4, "led": {"colour": "red"}}
        await database.all(
            "update devices set desired_config = desired_config || '{\"interval\": 9}' where device_id = %s",
            device["device_id"],
        )
        await awake.send_heartbeat()
        await eventually(in_step, "the second answer")
        sent = [each.fields for each in awake.received if each.command_type == "update_config"]
    assert [{k: v for k, v in one.items() if not k.endswith("_id")} for one in sent] == [
        {"interval": 4, "led": {"colour": "red"}},
        {"interval": 9},
    ]
