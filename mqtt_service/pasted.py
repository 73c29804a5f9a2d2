"""Settings as people paste them: what surely does not belong to a value is taken off, and addresses are read.

Every function is pure. Messages hold no value, since a secret may be in the wrong place, but for a project's
reference, which is public, where a text has the exact form of an address.
"""

import base64
import json
import re

# White space, and what cannot be seen: no-break, zero-width and narrow spaces, word joiner, byte order mark.
_AROUND = " \t\r\n\v\f\x00\x85\xa0\u2007\u202f\u3000\u200b\u200c\u200d\u2060\ufeff"
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019")
_REFERENCE = "([a-z]{20})"
_HOST = re.compile(r"(?:(?:mqtts|ssl|tls)://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::([0-9]{1,5}))?/?")
_API_PATH = re.compile(r"(?<=[^/:])/(?:rest|auth|storage|realtime|functions|graphql)/v1/?$")
_LONGEST = 2048


def tidy(value: str) -> str:
    """`value` without blanks, line ends, invisible characters and one pair of quotes around it."""
    value = value.strip(_AROUND)
    if len(value) > 1 and value[0] + value[-1] in _QUOTES and value[0] not in value[1:-1]:
        value = value[1:-1].strip(_AROUND)
    return value


def fault_of_secret(value: str) -> str | None:
    """Why a secret may not be what was meant, or None. It is not tidied: that would be a guess."""
    if tidy(value) != value:
        return "begins and ends with quotes, or has blanks or invisible characters around it: remove them"
    return None


def is_secret_key(key: str) -> bool:
    """Whether this is a project's secret key: `sb_secret_…`, or the legacy token of `service_role`."""
    if key.startswith("sb_secret_"):
        return True
    try:
        payload = key.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return False
    return isinstance(claims, dict) and claims.get("role") == "service_role"


def split_host(value: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port` and `mqtts://host:port`; anything else is returned as it is.

    Only a scheme of TLS is taken off: any other would say to use none, or another transport.
    """
    found = _HOST.fullmatch(value) if len(value) <= _LONGEST else None
    if found is None:
        return value, None
    return found[1].strip("[]"), int(found[2]) if found[2] else None


def project_url(value: str) -> str:
    """`value` without the path of one of the project's APIs and without slashes at its end."""
    return _API_PATH.sub("", value).rstrip("/") if len(value) <= _LONGEST else value


def meant_by_url(value: str) -> str | None:
    """What SUPABASE_URL should be instead of this; None where nothing is known of it."""
    value = value[:_LONGEST]
    for pattern, what in _OTHER_ADDRESSES:
        if (found := pattern.search(value)) is not None:
            reference = next((group for group in found.groups() if group), "<project>")
            return f"is {what}; the project's URL is https://{reference}.supabase.co"
    if re.match(r"[\w.-]+\.supabase\.co\b", value):
        return "has no https:// before it"
    return None


_OTHER_ADDRESSES = [
    (
        re.compile(rf"^postgres(?:ql)?://(?:postgres\.{_REFERENCE}:)?(?:.*@db\.{_REFERENCE}\.)?"),
        "the database's address",
    ),
    (
        re.compile(
            rf"^https?://(?:(?:app|www)\.)?supabase\.(?:com|io)(?![\w.-])(?:/.*?project/{_REFERENCE}(?:/|$))?"
        ),
        "the address of Supabase's dashboard or website",
    ),
    (re.compile(rf"^https?://db\.{_REFERENCE}\.supabase\."), "the database's host"),
    (
        re.compile(rf"^https?://(?:{_REFERENCE}\.)(?:functions|storage|realtime)\.supabase\."),
        "the address of one of its APIs",
    ),
    (re.compile(rf"^wss?://(?:{_REFERENCE}\.supabase)?"), "the address of Realtime"),
]
