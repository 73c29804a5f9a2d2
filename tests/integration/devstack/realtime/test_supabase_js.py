"""A dashboard in JavaScript, with the official client library, against the whole stack."""

from pathlib import Path

import psycopg
import pytest

from mqtt_service.devstack.stack import running_stack
from tests.integration.devstack.realtime.harness import DEVICE_A
from tests.integration.devstack.supabase_js_harness import OPERATOR_A, dashboard, next_line, node_modules
from tests.requirements import needs


@needs("node")
async def test_a_dashboard_queues_a_command_and_watches_it_to_its_acknowledgement(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    async with (
        running_stack(data_dir=tmp_path / "stack") as stack,
        await psycopg.AsyncConnection.connect(stack.db_url, autocommit=True) as database,
        dashboard(stack, tmp_path / "dashboard", node_modules(pytestconfig)) as lines,
    ):
        queued = (await next_line(lines))["queued"]
        command_id = queued["command_id"]
        assert (queued["status"], queued["created_by_user_id"]) == ("pending", OPERATOR_A)
        assert await next_line(lines) == {"watching": command_id}
        for status in ("sent", "acknowledged"):
            await database.execute(
                "update public.device_commands set status = %s where command_id = %s",
                (status, command_id),
            )
            old = {"command_id": command_id}
            assert await next_line(lines) == {"status": status, "retry_count": 0, "old": old}
        assert await next_line(lines) == {"done": True}


@needs("node")
async def test_a_back_end_hears_rings_and_a_dashboard_is_refused(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    modules = node_modules(pytestconfig)
    async with (
        running_stack(data_dir=tmp_path / "stack") as stack,
        await psycopg.AsyncConnection.connect(stack.db_url, autocommit=True) as database,
        dashboard(stack, tmp_path / "scripts", modules, "hear_a_ring.mjs") as lines,
    ):
        refused = (await next_line(lines))["refused"]
        assert "You do not have permissions to read from this Channel topic: mqtt-service:commands" in refused
        assert await next_line(lines) == {"joined": "mqtt-service:commands"}
        await database.execute(
            "insert into public.device_commands (device_id, command_type)"
            " select %s, 'ping' from generate_series(1, 3)",
            (DEVICE_A,),
        )
        heard = (await next_line(lines))["heard"]
        key = heard["meta"]["id"]
        assert heard == {"type": "broadcast", "event": "due", "payload": {"id": key}, "meta": {"id": key}}
        assert await next_line(lines) == {"done": True}
