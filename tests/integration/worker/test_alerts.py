"""Alerts reach a receiver on loopback: what it gets, how it can check the sender, what it may answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mqtt_service import http_server
from mqtt_service.adapters.supabase.alerts import Alert
from mqtt_service.alerts.webhook import Webhook, WebhookError, signature

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
ALERTS = [
    Alert("queue", "commands are not sent", "open", SINCE),
    Alert("pictures", "5 pictures failed", "recovered", SINCE),
]


@dataclass
class Receiver:
    """What came, as (headers, body); `status` is the answer."""

    url: str = ""
    status: int = 200
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@asynccontextmanager
async def receiving(status: int = 200) -> AsyncIterator[Receiver]:
    receiver = Receiver(status=status)

    async def take(request: Request) -> Response:
        receiver.came.append((dict(request.headers), await request.body()))
        return Response(status_code=receiver.status, headers={"Location": "/elsewhere"})

    with http_server.listening(0) as listener:
        receiver.url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        app = Starlette(routes=[Route("/hook", take, methods=["POST"])])
        task = asyncio.create_task(http_server.serve(app, listener))
        try:
            yield receiver
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_slack_and_discord_find_their_text_and_programs_the_rest() -> None:
    async with receiving() as receiver:
        await Webhook(receiver.url, None).send(ALERTS, "w1")
    [(headers, body)] = receiver.came
    document = json.loads(body)
    assert document["text"] == document["content"] == "🔴 commands are not sent\n🟢 over: 5 pictures failed"
    assert [(each["alert"], each["state"]) for each in document["alerts"]] == [
        ("queue", "open"),
        ("pictures", "recovered"),
    ]
    assert (document["worker"], headers["content-type"]) == ("w1", "application/json")
    assert "x-mqtt-service-signature" not in headers


async def test_a_receiver_can_check_who_sent_it() -> None:
    async with receiving() as receiver:
        await Webhook(receiver.url, "s3cret", clock=lambda: 1234.5).send(ALERTS, "w1")
    [(headers, body)] = receiver.came
    moment = headers["x-mqtt-service-timestamp"]
    assert moment == "1234"
    assert headers["x-mqtt-service-signature"] == f"sha256={signature('s3cret', moment, body)}"
    assert signature("another", moment, body) != signature("s3cret", moment, body)
    assert signature("s3cret", "1235", body) != signature("s3cret", moment, body)


async def test_a_text_is_short_enough_for_discord() -> None:
    many = [Alert(f"a{n}", "x" * 400, "open", SINCE) for n in range(20)]
    async with receiving() as receiver:
        await Webhook(receiver.url, None).send(many, "w1")
    [(_, body)] = receiver.came
    assert len(json.loads(body)["content"]) <= 2000
    assert len(json.loads(body)["alerts"]) == 20


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500])
async def test_any_other_answer_is_a_failure_that_does_not_name_the_url(status: int) -> None:
    async with receiving(status) as receiver:
        with pytest.raises(WebhookError, match=f"ALERT_URL answered {status}") as raised:
            await Webhook(receiver.url, None).send(ALERTS, "w1")
    assert len(receiver.came) == 1  # a redirection is not followed
    assert "127.0.0.1" not in str(raised.value)


async def test_where_nobody_listens_the_url_is_not_named_either() -> None:
    with http_server.listening(0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/secret-path"
    with pytest.raises(WebhookError) as raised:
        await Webhook(url, None).send(ALERTS, "w1")
    assert "secret-path" not in str(raised.value)
    assert raised.value.__cause__ is None
