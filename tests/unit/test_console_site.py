"""The console's files as they are served: headers, config.json, what is vendored, what no file holds."""

import hashlib
import re
from pathlib import Path

import httpx
import pytest

from mqtt_service.console_site import FOLDER, ConsoleProject, console_app
from mqtt_service.endpoints import http_app
from tests.unit.test_health import WORKING

PROJECT = ConsoleProject("https://abcdefghijklmnopqrst.supabase.co", "sb_publishable_abc", "worker")
OWN = [path for path in sorted(FOLDER.rglob("*")) if path.is_file() and "vendor" not in path.parts]


async def get(path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(console_app(PROJECT))
    async with httpx.AsyncClient(transport=transport, base_url="http://laptop") as client:
        return await client.get(path, headers=headers)


def checksums() -> dict[str, str]:
    lines = (FOLDER / "vendor" / "checksums.txt").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def test_what_is_vendored_is_what_was_published() -> None:
    kept = {path.name for path in (FOLDER / "vendor").iterdir()} - {"README.md", "checksums.txt"}
    assert kept == set(checksums())
    for name, digest in checksums().items():
        assert hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest() == digest, name


async def test_a_page_may_load_its_own_files_and_talk_to_the_project_alone() -> None:
    answer = await get("/console/")
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    host = "abcdefghijklmnopqrst.supabase.co"
    assert f"connect-src 'self' https://{host} wss://{host};" in policy
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert policy.endswith("frame-ancestors 'none'")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_file_is_sent_again_only_when_it_has_changed() -> None:
    first = await get("/console/app.js")
    assert first.headers["Content-Type"].startswith("text/javascript")
    again = await get("/console/app.js", {"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await get("/console/app.js", {"If-None-Match": '"older"'})).status_code == 200


async def test_config_names_the_project_and_its_publishable_key() -> None:
    assert (await get("/console/config.json")).json() == {
        "supabase_url": PROJECT.url,
        "publishable_key": "sb_publishable_abc",
        "served_by": "worker",
    }


@pytest.mark.parametrize("path", ["/console/../config.py", "/console/%2e%2e/config.py", "/console/nothing"])
async def test_nothing_but_the_consoles_files_is_served(path: str) -> None:
    assert (await get(path)).status_code == 404


async def test_the_way_without_a_slash_leads_to_the_console() -> None:
    assert (await get("/console")).headers["Location"] == "console/"
    assert (await get("/")).headers["Location"] == "console/"


async def test_a_worker_serves_no_console_unless_it_is_told_to() -> None:
    transport = httpx.ASGITransport(http_app(lambda: WORKING))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        assert (await client.get("/console/")).status_code == 404


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_no_file_has_script_or_style_in_a_page_or_asks_another_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://\w[\w.]+", text)) - {"http://www.w3.org"}  # the name of SVG
    assert not hosts
    assert not re.search(r"<script>|<style|\son\w+=\"|innerHTML|\beval\(", text)
