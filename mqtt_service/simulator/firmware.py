"""A simulated device's firmware: it fetches what it is told to install, and looks whether it is that.

Only files of this machine are fetched: an address elsewhere is obeyed as before, without installing anything.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_FETCHING_TAKES = 30.0


async def fetch_firmware(fields: Mapping[str, Any]) -> Literal["fetched", "elsewhere", "broken"]:
    """What became of the file that an update_firmware names; broken: it is not there, or another one."""
    url = str(fields.get("firmware_url"))
    if urlsplit(url).hostname not in _LOOPBACK:
        return "elsewhere"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_FETCHING_TAKES) as client:
            answer = (await client.get(url)).raise_for_status()
    except httpx.HTTPError:
        return "broken"
    wanted, size = fields.get("sha256"), fields.get("size")
    is_right = wanted in {None, hashlib.sha256(answer.content).hexdigest()}
    return "fetched" if is_right and size in {None, len(answer.content)} else "broken"
