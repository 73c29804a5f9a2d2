"""/health, /ready and /metrics over snapshots."""

from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from mqtt_service.health import Snapshot, health_app, health_document

WORKING = Snapshot(
    mqtt_connected=True, mqtt_host="broker.example", mqtt_port=8883, mqtt_error=None,
    queue_running=True, poll_interval=5.0, seconds_since_poll=1.0,
    last_poll_at=datetime(2026, 1, 2, tzinfo=UTC), supabase_error=None,
    realtime_connected=True, realtime_error=None, edge_error=None, worker="w1", uptime=3600.4,
)  # fmt: skip


def test_the_document_is_the_one_of_the_service_this_ports() -> None:
    document = health_document(WORKING)
    assert document["status"] == "healthy"
    assert document["commandQueue"] == {"running": True, "pollInterval": 5000}
    assert document["uptime"] == 3600
    mqtt = document["mqtt"]
    assert isinstance(mqtt, dict)
    assert (mqtt["connected"], mqtt["host"], mqtt["port"]) == (True, "broker.example", 8883)


async def get(snapshot: Snapshot, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(health_app(lambda: snapshot))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        return await client.get(path)


@pytest.mark.parametrize(
    ("change", "verdict", "status"),
    [
        ({}, "healthy", 200),
        ({"realtime_connected": False}, "degraded", 200),
        ({"edge_error": "the edge function answered 404"}, "degraded", 200),
        ({"refused_count": 1, "refused_example": "c1 (device d1): no"}, "degraded", 200),
        ({"failing": {"provisioning": "KeyError; see the log"}}, "degraded", 200),
        ({"mqtt_connected": False}, "unhealthy", 503),
        ({"queue_running": False}, "unhealthy", 503),
        ({"seconds_since_poll": None}, "unhealthy", 503),
        ({"seconds_since_poll": 31.0}, "unhealthy", 503),
        ({"supabase_error": "no answer"}, "unhealthy", 503),
    ],
)
async def test_503_says_that_the_work_cannot_be_done(
    change: dict[str, object], verdict: str, status: int
) -> None:
    snapshot = replace(WORKING, **change)  # type: ignore[arg-type]  # the table above names fields of Snapshot
    answer = await get(snapshot, "/health")
    assert (answer.json()["status"], answer.status_code) == (verdict, status)
    assert (await get(snapshot, "/ready")).status_code == status


async def test_metrics_are_in_the_text_format_of_prometheus() -> None:
    answer = await get(WORKING, "/metrics")
    assert answer.status_code == 200
    assert "# TYPE mqtt_service_commands_total counter" in answer.text
