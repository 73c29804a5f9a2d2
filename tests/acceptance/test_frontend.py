"""What a dashboard of the Node service does: both snippets, with supabase-js, a worker and a device."""

from pathlib import Path

import pytest

from mqtt_service.devstack.stack import running_stack
from tests.integration.devstack.supabase_js_harness import dashboard, next_line, node_modules
from tests.integration.worker.harness import eventually, running_worker, wire
from tests.requirements import needs


@needs("node")
async def test_a_dashboard_queues_a_command_and_sees_the_devices_answer(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    async with (
        running_stack(data_dir=tmp_path / "stack") as stack,
        running_worker(stack),
        wire(stack) as device,
        dashboard(stack, tmp_path / "dashboard", node_modules(pytestconfig)) as lines,
    ):
        command_id = (await next_line(lines))["queued"]["command_id"]
        # The device answers only once the dashboard watches, as a person's does: the page is open already.
        seen = await next_line(lines)
        assert seen == {"watching": command_id}
        (command,) = await eventually(lambda: device.heard, "the command")
        assert command[1]["capture_image"] is True
        assert command[1]["command_id"] == command_id
        device.say("device/AA:BB:CC:DD:EE:FF/ack", {"command_id": command_id, "command_ack": "acknowledged"})
        statuses = []
        while "done" not in seen:
            seen = await next_line(lines)
            statuses.append(seen.get("status"))
    # Before the last two, `pending` may be seen once more: the row was leased to the worker.
    assert statuses[-2:] == ["acknowledged", None]
    assert set(statuses) <= {"pending", "sent", "acknowledged", None}
