"""What a key is, by its looks."""

import base64
import json
from datetime import UTC, datetime

import pytest

from mqtt_service.doctor.key import inspect_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFERENCE = "abcdefghijklmnopqrst"
URL = f"https://{REFERENCE}.supabase.co"
LATER = NOW.timestamp() + 1


def token(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{body}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("key", "url", "state", "seen"),
    [
        ("sb_secret_abc", URL, "ok", "a secret key"),
        ("sb_publishable_abc", URL, "broken", "is a publishable key"),
        ("sbp_abc", URL, "broken", "is a personal access token"),
        ("hunter2", URL, "warning", "looks like no key"),
        ("a.b.c", URL, "warning", "looks like no key"),
        ("a.\x00\x00\x00\x00.c", URL, "warning", "looks like no key"),
        (token(role="anon"), URL, "broken", "is the anon key"),
        (token(role="authenticated"), URL, "broken", "is a token of another role"),
        (token(role="service_role", ref=REFERENCE, exp=LATER), URL, "ok", "a legacy service_role key"),
        (token(role="service_role", ref="another"), URL, "broken", "is of the project 'another'"),
        (token(role="service_role", ref="dev"), "http://127.0.0.1:1", "ok", "a legacy service_role key"),
        (token(role="service_role", exp=NOW.timestamp()), URL, "broken", "expired on 2026-01-01"),
    ],
)
def test_a_key_is_known_by_its_looks(key: str, url: str, state: str, seen: str) -> None:
    finding = inspect_key(key, url, NOW)
    assert finding.state == state
    assert seen in finding.seen
    assert bool(finding.cure) == (state != "ok")
    assert key not in finding.seen + finding.cure
