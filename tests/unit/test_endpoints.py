"""The HTTP endpoints over snapshots: what each answers, and to whom."""

import base64
from dataclasses import replace

import httpx
import pytest

from mqtt_service.endpoints import http_app
from mqtt_service.health import Snapshot
from tests.unit.test_health import WORKING

TOKEN = "correct-horse"


async def get(
    path: str, snapshot: Snapshot = WORKING, token: str | None = None, authorization: str = ""
) -> httpx.Response:
    transport = httpx.ASGITransport(http_app(lambda: snapshot, token))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        return await client.get(path, headers={"Authorization": authorization} if authorization else {})


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


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
    answer = await get("/health", snapshot)
    assert (answer.json()["status"], answer.status_code) == (verdict, status)
    assert (await get("/ready", snapshot)).status_code == status


async def test_metrics_are_in_the_text_format_of_prometheus() -> None:
    answer = await get("/metrics")
    assert answer.status_code == 200
    assert "# TYPE mqtt_service_commands_total counter" in answer.text


@pytest.mark.parametrize(
    ("authorization", "knows"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (basic("prometheus", TOKEN), True),
        (basic("", TOKEN), True),
        (basic("a", f"{TOKEN}:"), False),
        (basic(TOKEN, ""), False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer", False),
        ("Basic !!!", False),
        (f"Token {TOKEN}", False),
        (TOKEN, False),
        ("", False),
    ],
)
async def test_with_a_token_set_details_and_metrics_need_it(authorization: str, knows: bool) -> None:
    health = await get("/health", token=TOKEN, authorization=authorization)
    assert (health.status_code, "host" in health.json()["mqtt"]) == (200, knows)
    metrics = await get("/metrics", token=TOKEN, authorization=authorization)
    assert metrics.status_code == (200 if knows else 401)
    assert knows == ("mqtt_service_commands_total" in metrics.text)
    assert knows != ("Bearer" in metrics.headers.get("www-authenticate", ""))


async def test_the_status_is_for_everybody() -> None:
    gone = replace(WORKING, mqtt_connected=False)
    assert (await get("/health", gone, TOKEN)).status_code == 503
    assert (await get("/ready", gone, TOKEN)).status_code == 503
    assert (await get("/ready", token=TOKEN)).json() == {"ready": True}


async def test_a_visitor_finds_the_endpoints() -> None:
    home = await get("/", token=TOKEN)
    assert "is healthy" in home.text
    for path in ("health", "ready", "metrics", "docs"):
        assert f'href="{path}"' in home.text
    docs = await get("/docs", token=TOKEN)
    assert "/metrics" in docs.text
    assert "need the token" in docs.text
    assert "need the token" not in (await get("/docs")).text
    for page in (home, docs):
        assert "broker.example" not in page.text
        assert TOKEN not in page.text


async def test_nothing_is_kept_by_a_cache() -> None:
    for path in ("/", "/docs", "/health", "/ready", "/metrics"):
        assert (await get(path)).headers["cache-control"] == "no-store"
