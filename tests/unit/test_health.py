"""The documents of /health over snapshots."""

from dataclasses import replace
from datetime import UTC, datetime

from mqtt_service.health import Snapshot, health_document, plain_document

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


def test_the_plain_document_says_nothing_of_hosts_errors_or_ids() -> None:
    told = replace(
        WORKING,
        mqtt_error="no route to broker.example", supabase_error="secret-project", realtime_error="r-e",
        edge_error="e-e", failing={"the part": "KeyError"}, refused_count=1, refused_example="c1 of d1",
    )  # fmt: skip
    text = str(plain_document(told))
    for detail in ("broker.example", "secret-project", "r-e", "e-e", "KeyError", "c1", "w1", "8883"):
        assert detail not in text
    assert plain_document(told)["status"] == "unhealthy"
