"""The console with a large fleet: every view is drawn, scrolled and filtered with few rows in the page.

MQTT_SERVICE_LONG_DRILLS=1 has 2,000 devices and 100,000 commands. `pytest -s` says how long each view takes.
"""

import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.console.made_up_fleet import add_fleet, device_id, remove_fleet
from tests.acceptance.console.test_console_small_screens import WIDTH, fits

LONG = os.environ.get("MQTT_SERVICE_LONG_DRILLS") == "1"
DEVICES, COMMANDS, SITES = (2000, 100_000, 20) if LONG else (200, 2000, 5)
MOST_ROWS = 120  # of a table in the document

# Milliseconds from a change of the address until the selector is there and nothing loads.
_TIME = """([address, selector]) => new Promise((resolve) => {
  const begun = performance.now();
  const look = () => {
    const found = document.querySelector(`main ${selector}`);
    if (found && !document.querySelector('main .loading')) resolve(Math.round(performance.now() - begun));
    else requestAnimationFrame(look);
  };
  location.hash = address;
  setTimeout(look, 30); // the old view may fit the selector
})"""
# The longest time between two frames while the table is scrolled by 60 screens, as fast as it can draw.
_SCROLL = """(box) => new Promise((resolve) => {
  let [frames, longest, before] = [0, 0, performance.now()];
  const step = (now) => {
    longest = Math.max(longest, now - before);
    before = now;
    box.scrollTop += box.clientHeight;
    if (++frames === 60) resolve(Math.round(longest));
    else requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
_ROWS = "tbody tr:not(.space)"
VIEWS = {
    "now": ("#/now", ".tiles"),
    "commands": ("#/commands", _ROWS),
    "commands, failed": ("#/commands?status=lost", _ROWS),
    "commands, of a site": ("#/commands?site=a0000000-0000-4000-8000-000000000021", _ROWS),
    "commands, rejected": ("#/commands?status=rejected&type=reboot", ".empty, tbody"),
    "commands, a name": ("#/commands?q=pond+2", _ROWS),
    "devices": ("#/devices", _ROWS),
    "devices, a firmware": ("#/devices?firmware=1.3.2", _ROWS),
    "device": (f"#/devices/{device_id(7)}", ".lanes"),
    "schedules": ("#/schedules", f"{_ROWS}, .empty"),
    "rollouts": ("#/rollouts", f"{_ROWS}, .empty"),
    "firmware": ("#/firmware", ".versions"),
    "numbers, 7 days": ("#/numbers", ".numbers"),
    "numbers, 30 days": ("#/numbers?span=30d", ".numbers"),
    "new command": ("#/commands/new", "form"),
}

NARROW = list(VIEWS) if LONG else ["commands", "devices", "device"]  # looked at with 360 px too


@pytest.fixture
def fleet(database: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    database.execute("delete from device_commands")
    add_fleet(database, devices=DEVICES, commands=COMMANDS, sites=SITES)
    yield
    remove_fleet(database)


@pytest.mark.usefixtures("fleet")
def test_every_view_holds_a_large_fleet(open_page: Callable[..., Page]) -> None:
    page = open_page("admin.a", "#/now")
    page.reload()
    expect(page.get_by_role("region", name="At a glance")).to_be_visible()
    paint = page.evaluate("Math.round(performance.getEntriesByName('first-contentful-paint')[0].startTime)")
    took = {name: page.evaluate(_TIME, list(view)) for name, view in VIEWS.items()}
    frames = {}
    for label, address in (("Commands", "#/commands"), ("Devices", "#/devices")):
        page.evaluate("(address) => { location.hash = address; }", address)
        box = page.get_by_role("region", name=label, exact=True)
        expect(box.locator(_ROWS).first).to_be_visible()
        frames[label] = box.evaluate(_SCROLL)
        assert box.locator("tr").count() < MOST_ROWS
    page.get_by_role("searchbox").fill("pond 2")
    expect(page.locator("td.name").first).to_contain_text("Pond 2")
    page.set_viewport_size({"width": WIDTH, "height": 740})
    for name in NARROW:
        page.evaluate(_TIME, list(VIEWS[name]))
        fits(page, name)
    report({"first paint": paint, **took, **{f"longest frame of {name}": ms for name, ms in frames.items()}})


def report(milliseconds: dict[str, int]) -> None:
    """Show what was measured (`pytest -s`, and with the output of a test that fails)."""
    print("".join(f"\n{ms:6} ms  {name}" for name, ms in milliseconds.items()))  # noqa: T201 - what it measures
