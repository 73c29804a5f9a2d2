#!/usr/bin/env python3
"""Take the pictures of the console in docs/images: every view, light and dark, with a made-up fleet.

    .venv/bin/python scripts/console_screenshots.py [VIEW…]

The views are those of the navigation, and three pages within them; Chromium is needed as for the tests.
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
SIZE = ViewportSize(width=1120, height=680)
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
WHO = "admin.a"
SEEDED = ("AA:BB:CC:DD:EE:FF", "BB:BB:CC:DD:EE:01")
SHOWN = device_id(7)
COMPANY, SITE = "a0000000-0000-4000-8000-000000000001", "a0000000-0000-4000-8000-000000000022"
WITHIN = {
    "command": f"commands?device={SHOWN}",
    "new-command": f"commands/new?type=capture_image&device={SHOWN}",
    "device": f"devices/{SHOWN}",
}
# WebP is a third of PNG, and Chromium writes it.
_TO_WEBP = """async (png) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext('2d').drawImage(image, 0, 0);
  return canvas.toDataURL('image/webp', 0.82).split(',')[1];
}"""
_DAY_OF_ONE_DEVICE = """
update devices set last_wake_at = now() - interval '12 minutes', last_seen_at = now() - interval '12 minutes',
  next_wake_at = now() + interval '3 hours', battery_voltage = 3.91, wifi_rssi = -61
where device_id = %(device)s;
"""
_READINGS = """
insert into device_telemetry (device_id, captured_at, temperature, humidity, battery_voltage)
select %(device)s, now() - n * interval '1 hour' - interval '12 minutes',
  17 + 6 * sin(n / 4.0), 62 - 14 * sin(n / 4.0), 3.91 + n * 0.002
from generate_series(0, 23) n
"""
_WAKES = """
insert into device_wakes (device_id, at, hello, worker, pending_count)
select %(device)s, now() - n * interval '1 hour' - interval '12 minutes', true, 'mqtt-service-web-1', n %% 2
from generate_series(0, 23) n
"""
_TAGS = """
insert into device_tags (device_id, tag)
select device_id, 'greenhouse' from devices where device_name like 'Greenhouse%%'
"""
_PICTURE = """
insert into device_images
  (device_id, image_name, status, storage_path, image_size, captured_at, created_at, updated_at, completed_at)
select %(device)s, %(name)s, 'complete', %(path)s, 30000, at, at, at, at
from (select now() - %(hours)s * interval '1 hour' - interval '12 minutes' as at) t
"""
_COMMANDS = """
insert into device_commands (device_id, command_type) values (%(device)s, 'capture_image')
"""


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
    """Write a fleet of forty devices, and the day of one of them."""
    with psycopg.connect(env["SUPABASE_DB_URL"], autocommit=True) as database:
        add_fleet(database, devices=40, commands=3000)
        values = {"device": SHOWN}
        for statement in (_DAY_OF_ONE_DEVICE, _READINGS, _WAKES, _TAGS):
            database.execute(statement, values)
        key = env["SUPABASE_SERVICE_ROLE_KEY"]
        headers = {"apikey": key, "Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
        for number in range(6):
            picture = photograph(30_000, Random(number * 7 + 1))  # noqa: S311 - a simulation
            path = f"{COMPANY}/{SITE}/{SHOWN}/{number}.jpg"
            url = f"{env['SUPABASE_URL']}/storage/v1/object/device-images/{path}"
            httpx.post(url, content=picture, headers=headers).raise_for_status()
            row = {
                **values,
                "name": f"image_{9 - number:03}.jpg",
                "path": path,
                "size": 30_000,
                "hours": 4 * number,
            }
            database.execute(_PICTURE, row)
        for _ in range(3):
            database.execute(_COMMANDS, {"device": "a0000000-0000-4000-8000-000000000031"})


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
