"""Devices in the console: map one and see its welcome, say when it wakes, its pictures, and roles."""

from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.console.conftest import DEVICE_A, Console, access_token
from tests.acceptance.console.test_console_access import violations
from tests.requirements import find_program, needs

OpenPage = Callable[..., Page]
Database = psycopg.Connection[tuple[object, ...]]
WAITING = "a0000000-0000-4000-8000-000000000032"
COMPANY = "a0000000-0000-4000-8000-000000000001"
SITE = "a0000000-0000-4000-8000-000000000021"

_DRAW = """() => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [32, 24];
  canvas.getContext('2d').fillRect(4, 4, 9, 9);
  return canvas.toDataURL('image/jpeg').split(',')[1];
}"""


@pytest.fixture
def as_before(console: Console, database: Database) -> Iterator[None]:
    """What the tests map and schedule is as it was afterwards."""
    yield
    database.execute("update device_site_assignments set is_active = false where device_id = %s", [WAITING])
    database.execute(
        "update devices set provisioning_status = 'pending_mapping', company_id = null where device_id = %s",
        [WAITING],
    )
    database.execute("update devices set wake_schedule_cron = null")
    database.execute("delete from device_commands")


@pytest.mark.usefixtures("as_before")
def test_a_waiting_device_is_mapped_in_place_and_gets_its_welcome(open_page: OpenPage) -> None:
    page = open_page("admin.a", "#/devices")
    page.get_by_label("Site of DEVICE-ESP32S3-002").select_option(label="Alder North")
    page.get_by_role("button", name="Map DEVICE-ESP32S3-002").click()
    expect(page.get_by_role("heading", name="to be mapped")).to_have_count(0)
    page.get_by_role("row", name="DEVICE-ESP32S3-002").get_by_role("link").click()
    expect(page.get_by_role("link", name="Set the wake schedule")).to_be_visible()
    page.get_by_role("button", name="Unmap").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device leaves Alder North")
    page.get_by_role("button", name="Unmap it").click()
    expect(page.get_by_text("not mapped", exact=True)).to_be_visible()


@pytest.mark.usefixtures("as_before")
def test_a_schedule_is_previewed_in_the_sites_zone_refused_in_words_and_saved(
    open_page: OpenPage, database: Database
) -> None:
    page = open_page("admin.a", f"#/devices/{DEVICE_A}")
    page.get_by_role("button", name="Wake schedule").click()
    page.get_by_role("textbox", name="Cron").fill("17:30")
    expect(page.get_by_role("alert")).to_contain_text("Cron writes the minute first")
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.get_by_role("textbox", name="Cron").fill("30 17 * * *")
    runs = page.get_by_role("list", name="The next runs").get_by_role("listitem")
    expect(runs).to_have_count(10)
    expect(runs.first).to_contain_text("17:30 CE")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("its own")).to_be_visible()
    expect(page.get_by_role("link", name="Set the wake schedule")).to_be_visible()
    found = database.execute("select wake_schedule_cron from devices where device_id = %s", [DEVICE_A])
    assert found.fetchone() == ("30 17 * * *",)


def test_a_picture_appears_without_a_reload_and_opens_large(
    open_page: OpenPage, console: Console, database: Database
) -> None:
    page = open_page("viewer.a", f"#/devices/{DEVICE_A}")
    expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()
    jpeg = b64decode(page.evaluate(_DRAW))
    path = f"{COMPANY}/{SITE}/{DEVICE_A}/2026-11-28/test.jpg"
    key = console.env["SUPABASE_SERVICE_ROLE_KEY"]
    headers = {"apikey": key, "Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    url = f"{console.api}/storage/v1/object/device-images/{path}"
    assert httpx.post(url, content=jpeg, headers=headers).status_code == 200
    database.execute(
        "insert into device_images (device_id, image_name, status, storage_path, image_size, completed_at) "
        "values (%s, 'drawn.jpg', 'complete', %s, %s, now())",
        [DEVICE_A, path, len(jpeg)],
    )
    database.execute("update devices set last_seen_at = now() where device_id = %s", [DEVICE_A])
    try:
        page.get_by_role("button", name="Open drawn.jpg").click()
        large = page.get_by_role("dialog").get_by_role("img")
        expect(large).to_have_js_property("naturalWidth", 32)
        assert "picture=" in page.url
    finally:
        database.execute("delete from device_images")


@pytest.mark.usefixtures("as_before")
def test_a_viewer_is_offered_nothing_that_he_may_not_do_and_the_api_refuses_it_too(
    open_page: OpenPage, console: Console
) -> None:
    page = open_page("viewer.a", f"#/devices/{DEVICE_A}")
    expect(page.get_by_role("heading", name="Facts")).to_be_visible()
    for name in ("Wake schedule", "Move", "Unmap", "Add"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    headers = {"apikey": console.env["SUPABASE_ANON_KEY"], "Authorization": f"Bearer {access_token(page)}"}
    for function, body in {
        "fn_set_device_schedule": {"p_device_id": DEVICE_A, "p_cron": "0 6 * * *"},
        "fn_set_site_schedule": {"p_site_id": SITE, "p_cron": "0 6 * * *", "p_timezone": "UTC"},
    }.items():
        answer = httpx.post(f"{console.api}/rest/v1/rpc/{function}", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "42501")


@needs("axe-core")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_on_devices(open_page: OpenPage, scheme: str, width: int) -> None:
    page = open_page("admin.a", "#/devices", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate((Path(str(find_program("axe-core"))) / "axe.min.js").read_text(encoding="utf-8"))
    expect(page.get_by_role("table")).to_be_visible()
    found = violations(page)
    page.evaluate("(address) => { location.hash = address; }", f"#/devices/{DEVICE_A}")
    expect(page.get_by_role("heading", name="Facts")).to_be_visible()
    found += violations(page)
    page.get_by_role("button", name="Wake schedule").click()
    expect(page.get_by_role("list", name="The next runs")).to_be_visible()
    found += violations(page)
    assert not found, "\n".join(found)
