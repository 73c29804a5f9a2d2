"""What kind of key a text is, and whether it is of the project; pure.

Kinds and prefixes are those of Supabase's documentation, "Understanding API keys".
"""

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from mqtt_service.doctor.findings import Finding

_CURE = "set SUPABASE_SECRET_KEY to a secret key (dashboard: Project Settings, API Keys)"
_OTHER_KINDS = {
    "sb_publishable_": "is a publishable key, which may do next to nothing",
    "sbp_": "is a personal access token, which is for the management API",
}
_TOKEN_PARTS = 3
_HOSTED = (".supabase.co", ".supabase.in")


def inspect_key(key: str, url: str, now: datetime) -> Finding:
    """Judge a key by its looks; `url` is SUPABASE_URL. What is seen never holds the key."""
    if key.startswith("sb_secret_"):
        return _ok("a secret key")
    for prefix, what in _OTHER_KINDS.items():
        if key.startswith(prefix):
            return _broken(f"SUPABASE_SECRET_KEY {what}", _CURE)
    claims = _claims(key)
    if claims is None:
        return Finding("key", "warning", "SUPABASE_SECRET_KEY looks like no key of Supabase", _CURE)
    return _inspect_token(claims, url, now)


def _inspect_token(claims: Mapping[str, Any], url: str, now: datetime) -> Finding:
    role, reference, project = claims.get("role"), claims.get("ref"), _project(url)
    if role != "service_role":
        kind = "the anon key" if role == "anon" else "a token of another role"
        return _broken(f"SUPABASE_SECRET_KEY is {kind}, which may do next to nothing", _CURE)
    if project and isinstance(reference, str) and reference != project:
        return _broken(
            f"the key is of the project {reference[:40]!r}, SUPABASE_URL of {project!r}",
            "set SUPABASE_URL and SUPABASE_SECRET_KEY to those of one project",
        )
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires <= now.timestamp():
        on = datetime.fromtimestamp(expires, UTC)
        return _broken(f"the service_role key expired on {on:%Y-%m-%d}", _CURE)
    return _ok("a legacy service_role key; a secret key (sb_secret_…) can be replaced without downtime")


def _project(url: str) -> str:
    """The reference of a hosted project; empty elsewhere."""
    host = urlsplit(url).hostname or ""
    return host.partition(".")[0] if host.endswith(_HOSTED) else ""


def _claims(key: str) -> Mapping[str, Any] | None:
    parts = key.split(".")
    if len(parts) != _TOKEN_PARTS:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def _ok(seen: str) -> Finding:
    return Finding("key", "ok", seen)


def _broken(seen: str, cure: str) -> Finding:
    return Finding("key", "broken", seen, cure)
