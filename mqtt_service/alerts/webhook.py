"""One JSON POST of alerts, which Slack and Discord understand, and which is signed."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence

import httpx

from mqtt_service.adapters.supabase.alerts import Alert
from mqtt_service.errors import RetryableError

_TIMEOUT = 10.0
# Discord takes 2000 characters of `content`; Slack far more.
_LONGEST = 1900
_HEADS = {"open": "🔴", "recovered": "🟢 over:"}


class WebhookError(RetryableError):
    """The receiver did not take the alerts; they are sent again later."""


class Webhook:
    """Posts to `url`; `secret` signs each body, None: unsigned. `clock`: seconds since 1970."""

    def __init__(self, url: str, secret: str | None, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock

    async def send(self, alerts: Sequence[Alert], worker: str) -> None:
        """Post the alerts in one request; raises WebhookError, which never names the URL: it is a secret."""
        body = json.dumps(_document(alerts, worker), ensure_ascii=False).encode()
        try:
            async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
                answer = await client.post(self._url, content=body, headers=self._headers(body))
        except httpx.HTTPError as error:
            raise WebhookError(f"ALERT_URL cannot be reached ({type(error).__name__})") from None
        if not answer.is_success:
            raise WebhookError(f"ALERT_URL answered {answer.status_code}")

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "mqtt-service"}
        if self._secret is None:
            return headers
        moment = str(int(self._clock()))
        return {
            **headers,
            "X-Mqtt-Service-Timestamp": moment,
            "X-Mqtt-Service-Signature": f"sha256={signature(self._secret, moment, body)}",
        }


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 in hex of the timestamp, a dot and the body: what a receiver computes to compare."""
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _document(alerts: Sequence[Alert], worker: str) -> dict[str, object]:
    text = "\n".join(f"{_HEADS[each.state]} {each.text}" for each in alerts)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    told = [
        {"alert": each.alert, "state": each.state, "text": each.text, "since": each.since.isoformat()}
        for each in alerts
    ]
    return {"text": text, "content": text, "worker": worker, "alerts": told}
