"""Names, ports and the clock: what can be seen of the network without a key."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from mqtt_service import http_server
from mqtt_service.adapters.supabase import api_errors
from mqtt_service.doctor.findings import Finding
from mqtt_service.errors import ConfigurationError, SupabaseUnavailableError

_TIMEOUT = 10.0
_QUICK = 2.0
# Seconds between two clocks from which on times in logs mislead, and from which on tokens are refused.
_CLOCK_WARNING = 10.0
_CLOCK_BROKEN = 300.0


async def resolve(name: str, host: str, setting: str) -> list[Finding]:
    """Whether a host has an address; `name` is the finding's."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_TIMEOUT):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return [
            Finding(name, "broken", f"{host} does not resolve", f"correct {setting}, or this machine's DNS")
        ]
    return [Finding(name, "ok", f"{host} is {_listed([str(each[4][0]) for each in found])}")]


def _listed(addresses: Sequence[str]) -> str:
    different = list(dict.fromkeys(addresses))
    more = f" and {len(different) - 2} more" if len(different) > 2 else ""  # noqa: PLR2004 - two are shown
    return ", ".join(different[:2]) + more


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered to a look at one table: status, its clock (UTC, whole seconds), and ours then."""

    status: int
    server_time: datetime | None
    local_time: datetime


async def ask(url: str, key: str, timeout: float) -> Answer:  # noqa: ASYNC109 - of the HTTP client
    """Ask the API for no row of devices; raises SupabaseUnavailableError where no API answers."""
    async with httpx.AsyncClient(timeout=min(timeout, _TIMEOUT)) as client:
        headers = {"apikey": key, "Authorization": f"Bearer {key}"}
        query = {"select": "device_id", "limit": "0"}
        try:
            response = await client.get(f"{url}/rest/v1/devices", params=query, headers=headers)
        except httpx.HTTPError as error:
            raise SupabaseUnavailableError(
                f"{url} does not answer ({api_errors.describe(error)}); "
                "check SUPABASE_URL, this machine's network and proxy, and that the project is not paused"
            ) from error
    api_errors.refuse_page(response)
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise SupabaseUnavailableError(
            f"{url} answers {response.status_code}; wait, and see the project's state in the dashboard"
        )
    return Answer(response.status_code, _date(response.headers.get("Date")), datetime.now(UTC))


def _date(header: str | None) -> datetime | None:
    try:
        return None if header is None else parsedate_to_datetime(header).astimezone(UTC)
    except ValueError:
        return None


def compare_clocks(ahead: dict[str, float]) -> Finding:
    """By how many seconds other clocks are ahead of ours, each by what it belongs to."""
    seen = ", ".join(f"that of {whose} is {abs(by):.0f} s {_side(by)}" for whose, by in ahead.items())
    worst = max((abs(by) for by in ahead.values()), default=0.0)
    cure = "set this machine's clock by a time server (NTP)"
    if worst > _CLOCK_BROKEN:
        return Finding("clock", "broken", f"the clocks differ: {seen}", cure)
    if worst > _CLOCK_WARNING:
        return Finding("clock", "warning", f"the clocks differ: {seen}", cure)
    return Finding("clock", "ok", f"within {worst:.0f} s of {' and '.join(ahead)}")


def _side(seconds: float) -> str:
    return "ahead" if seconds > 0 else "behind"


async def http_port(port: int) -> list[Finding]:
    """Whether the worker could listen, or does already."""
    try:
        with http_server.listening(port):
            return [Finding("http_port", "ok", f"{port} is free" if port else "any free port")]
    except ConfigurationError as error:
        if await _is_a_worker(port):
            return [Finding("http_port", "ok", f"a worker listens on {port} here")]
        cure = f"set PORT to a free one, or end what listens on {port}"
        return [Finding("http_port", "broken", str(error).removeprefix("PORT: "), cure)]


async def _is_a_worker(port: int) -> bool:
    async with httpx.AsyncClient(timeout=_QUICK, trust_env=False) as client:
        try:
            document = (await client.get(f"http://127.0.0.1:{port}/health")).json()
        except (httpx.HTTPError, ValueError):
            return False
    return isinstance(document, dict) and "status" in document
