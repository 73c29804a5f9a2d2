"""The console on a telephone: no view, menu or dialog is wider than 360 px."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.console.conftest import DEVICE_A

WIDTH = 360
_WIDER = """(width) => [...document.querySelectorAll('body *')]
  .map((one) => [one, Math.round(one.getBoundingClientRect().right)])
  .filter(([one, right]) => right > width && one.checkVisibility())
  .slice(0, 5).map(([one, right]) => `${one.tagName}.${one.className} ${right}`)"""


@pytest.fixture
def command_id(database: psycopg.Connection[tuple[object, ...]]) -> Iterator[str]:
    """A command with a long error, of a device with a long name, readings and a picture that failed."""
    name, error = "Gate of the north-western greenhouse " * 3, "no" * 200
    database.execute("update devices set device_name = %s where device_id = %s", [name, DEVICE_A])
    row = database.execute(
        "insert into device_commands (device_id, command_type, status, last_error) "
        "values (%s, 'ping', 'failed', %s) returning command_id::text",
        [DEVICE_A, error],
    ).fetchone()
    assert row
    database.execute(
        "insert into device_telemetry (device_id, captured_at, temperature) "
        "select %s, now() - n * interval '1 hour', 20 + n from generate_series(1, 5) n",
        [DEVICE_A],
    )
    database.execute(
        "insert into device_images (device_id, image_name, status, last_error) values (%s, %s, 'failed', %s)",
        [DEVICE_A, "x" * 200, error],
    )
    yield str(row[0])
    database.execute("update devices set device_name = null where device_id = %s", [DEVICE_A])
    for table in ("device_telemetry", "device_images", "device_commands"):
        database.execute(f"delete from {table}")


def fits(page: Page, what: str) -> None:
    width = page.evaluate("document.documentElement.scrollWidth")
    main = page.evaluate("document.getElementById('main').scrollWidth")
    assert max(width, main) <= WIDTH, (what, width, main, page.evaluate(_WIDER, WIDTH))


def test_every_view_fits(open_page: Callable[..., Page], command_id: str) -> None:
    page = open_page("admin.a", is_mobile=True)
    page.set_viewport_size({"width": WIDTH, "height": 740})
    links = page.get_by_role("navigation", name="Views").get_by_role("link").all()
    views = [link.get_attribute("href") for link in links]
    assert len(views) >= 4
    own = (f"#/commands/{command_id}", "#/commands/new", f"#/devices/{DEVICE_A}", "#/devices?state=waiting")
    for address in (*views, *own):
        page.evaluate("(address) => { location.hash = address; }", address)
        expect(page.get_by_role("main").get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("main").get_by_text("Loading…")).to_have_count(0)
        fits(page, str(address))
    page.get_by_text("admin.a@example.test").click()
    expect(page.get_by_role("button", name="Sign out everywhere")).to_be_visible()
    fits(page, "the menu")
    page.get_by_role("button", name="Keys").click()
    fits(page, "the keys")
