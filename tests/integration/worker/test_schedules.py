"""A recurring command reaches its device, although nobody but the worker's poll looks at the clock."""

import pytest

from mqtt_service.devstack.stack import Stack
from tests.integration.worker.harness import Rows, eventually, running_worker, wire

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_schedules_command_reaches_its_device_and_is_answered(stack: Stack, database: Rows) -> None:
    [device] = await database.add_active_devices(1)
    [company] = await database.all("insert into companies (name) values ('Scheduled') returning company_id")
    await database.all(
        "update devices set company_id = %s where device_id = %s",
        company["company_id"], device["device_id"],
    )  # fmt: skip
    async with running_worker(stack), wire(stack) as device_side:
        [schedule] = await database.all(
            "insert into command_schedules (name, target, command_type, cron) values"
            " ('s', jsonb_build_object('company', %s::uuid), 'ping', '0 6 * * *') returning schedule_id",
            company["company_id"],
        )
        await database.all(
            "update command_schedules set next_run_at = clock_timestamp() + interval '1 second'"
            " where schedule_id = %s",
            schedule["schedule_id"],
        )

        async def queued() -> list[dict[str, object]]:
            return await database.all(
                "select command_id from device_commands where device_id = %s", device["device_id"]
            )

        [command] = await eventually(queued, "the command queued")
        await database.becomes(command["command_id"], "sent")
        device_side.say(
            f"device/{device['device_mac']}/ack",
            {"command_ack": "acknowledged", "command_id": str(command["command_id"])},
        )
        await database.becomes(command["command_id"], "acknowledged")
        assert len(await queued()) == 1
