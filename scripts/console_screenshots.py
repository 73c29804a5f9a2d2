#!/usr/bin/env python3
"""Take the pictures of the console in docs/images: every view, light and dark, with a made-up fleet.

    .venv/bin/python scripts/console_screenshots.py [VIEW…]

The views are those of the navigation, and five pages within them; Chromium is needed as for the tests.
"""

import sys
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Literal

import httpx
import psycopg
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mqtt_service.simulator.scenes import photograph
from tests.acceptance.console.conftest import CHROMIUM, OPTIONS, sign_in
from tests.acceptance.console.made_up_fleet import add_fleet, device_id
from tests.acceptance.processes import dev_stack, running, worker

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZE = ViewportSize(width=1280, height=760)
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
WHO = "admin.a"
SEEDED = ("AA:BB:CC:DD:EE:FF", "BB:BB:CC:DD:EE:01")
SHOWN = device_id(7)
TAKES = "a0000000-0000-4000-8000-000000000031"  # the first of SEEDED
COMPANY = "a0000000-0000-4000-8000-000000000001"
WITHIN = {
    "command": f"commands?device={TAKES}",
    "new-command": f"commands/new?type=capture_image&device={SHOWN}",
    "device": f"devices/{SHOWN}",
    "picture": f"devices/{SHOWN}?",
    "rollout": "rollouts/f1ee7000-0000-4000-8000-00000000a101",
}
# As wide as a page of documents shows it; WebP is a third of PNG, and Chromium writes it.
_TO_WEBP = """async (png) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width * 0.75, image.height * 0.75];
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/webp', 0.82).split(',')[1];
}"""
_ROWS = Path(__file__).with_suffix(".sql").read_bytes()
_TAKE = "insert into device_commands (device_id, command_type) values (%s, 'capture_image')"


@contextmanager
def console() -> Iterator[tuple[dict[str, str], str]]:
    """The stack with a made-up fleet, and a worker; its env and the console's address."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with dev_stack(directory) as env, worker(env, directory, CONSOLE="true") as serving:
            broker = ["--host", env["MQTT_HOST"], "--port", env["MQTT_PORT"]]
            with running(["simulate", *SEEDED, *broker], {}, directory) as fleet:
                fleet.says(r"awake(.|\n)*awake")
                fill(env)
                yield env, f"{serving.url}/console/"


def fill(env: dict[str, str]) -> None:
    """Write a fleet of forty devices and what the pictures show of it; have a device take three pictures."""
    key = env["SUPABASE_SERVICE_ROLE_KEY"]
    headers = {"apikey": key, "Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    for number in range(6):
        picture = photograph(30_000, Random(number * 7 + 1))  # noqa: S311 - a simulation
        url = f"{env['SUPABASE_URL']}/storage/v1/object/device-images/{COMPANY}/{number}.jpg"
        httpx.post(url, content=picture, headers=headers).raise_for_status()
    with psycopg.connect(env["SUPABASE_DB_URL"], autocommit=True) as database:
        add_fleet(database, devices=40, commands=3000)
        with database.transaction():
            database.execute("set local session_replication_role = replica")
            database.execute(_ROWS)
        for _ in range(3):
            database.execute(_TAKE, [TAKES])


def addresses(page: Page) -> dict[str, str]:
    """Each view of the navigation by its name, and the pages within."""
    links = page.get_by_role("navigation", name="Views").get_by_role("link").all()
    paths = [(link.get_attribute("href") or "").removeprefix("#/") for link in links]
    return {path: path for path in paths} | WITHIN


def take(browser: Browser, url: str, theme: Theme, wanted: list[str]) -> None:
    """Take the pictures in one theme."""
    page = browser.new_context(viewport=SIZE, color_scheme=theme, timezone_id="Europe/Berlin").new_page()
    page.goto(url)
    sign_in(page, WHO)
    for name, address in addresses(page).items():
        if wanted and name not in wanted:
            continue
        page.evaluate("(address) => { location.hash = `#/${address}`; }", address)
        page.wait_for_selector("main h1")
        if name == "command":
            page.locator("tbody a").first.click()
            page.wait_for_selector("main .steps")
        if name == "picture":
            page.locator("button.thumb").first.click()
            page.wait_for_function("document.querySelector('img.large')?.naturalWidth > 0")
        page.wait_for_selector("main .loading", state="detached")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(600)  # numbers of rows in sight are asked for a moment later
        (IMAGES / f"console-{name}-{theme}.webp").write_bytes(webp(browser, page.screenshot()))
        print(f"console-{name}-{theme}.webp")


def webp(browser: Browser, png: bytes) -> bytes:
    """The same picture as WebP."""
    page = browser.new_page()
    encoded: str = page.evaluate(_TO_WEBP, b64encode(png).decode())
    page.close()
    return b64decode(encoded)


if __name__ == "__main__":
    with console() as (_, url), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for theme in THEMES:
            take(browser, url, theme, sys.argv[1:])
        browser.close()
