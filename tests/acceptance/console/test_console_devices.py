"""Devices in the console: map one and see its welcome, say when it wakes, its pictures, and roles."""

import re
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
    database.execute("delete from device_images")
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
def test_pictures_that_the_fleet_takes_are_drawn_and_keys_go_through_them(
    open_page: OpenPage, database: Database
) -> None:
    database.execute("delete from device_images")
    page = open_page("operator.a", f"#/devices/{DEVICE_A}")
    page.get_by_role("link", name="Tell it to take one").click()
    page.get_by_role("button", name="Queue for 1 device").click()
    page.get_by_role("link", name="DEVICE-ESP32S3-001").click()
    pictures = page.get_by_role("list").filter(has=page.get_by_role("button", name="Open image_"))
    expect(pictures.get_by_role("listitem")).to_have_count(1)
    database.execute(
        "insert into device_commands (device_id, command_type) values (%s, 'capture_image')", [DEVICE_A]
    )
    expect(pictures.get_by_role("button")).to_have_count(2)
    for picture in pictures.get_by_role("button").all():
        expect(picture.locator("img")).to_have_js_property("naturalWidth", 640)
    pictures.get_by_role("button").first.click()
    large = page.get_by_role("dialog").get_by_role("img")
    expect(large).to_have_js_property("naturalHeight", 480)
    newest = large.get_attribute("src")
    page.keyboard.press("ArrowRight")
    expect(large).not_to_have_attribute("src", str(newest))
    page.keyboard.press("ArrowLeft")
    expect(large).to_have_attribute("src", str(newest))
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("picture="))
    expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.usefixtures("as_before")
def test_a_tag_is_added_leads_to_its_devices_and_is_removed(open_page: OpenPage) -> None:
    page = open_page("operator.a", f"#/devices/{DEVICE_A}")
    page.get_by_role("textbox", name="New tag").fill("greenhouse")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name="greenhouse").click()
    expect(page.get_by_role("combobox", name="Tag")).to_have_value("greenhouse")
    page.get_by_role("link", name="DEVICE-ESP32S3-001").click()
    page.get_by_role("button", name="Remove the tag greenhouse").click()
    expect(page.get_by_role("link", name="greenhouse")).to_have_count(0)


@pytest.mark.usefixtures("as_before")
def test_many_devices_are_mapped_at_once_after_a_question(open_page: OpenPage, database: Database) -> None:
    database.execute(
        "insert into devices (device_mac, device_code) values ('AA:BB:CC:DD:EE:09', 'SECOND-009')"
    )
    try:
        page = open_page("admin.a", "#/devices?state=waiting")
        expect(page.get_by_role("link", name="SECOND-009")).to_be_visible()
        page.get_by_label("Select all that are loaded").check()
        page.get_by_role("button", name="Map 2").click()
        page.get_by_role("combobox", name="Site", exact=True).last.select_option(label="Alder South")
        page.get_by_role("button", name="Map", exact=True).click()
        expect(page.get_by_role("dialog", name="Map 2 devices to Alder South?")).to_be_visible()
        page.get_by_role("button", name="Map 2 devices").click()
        expect(page.get_by_role("heading", name="No device fits these filters")).to_be_visible()
        found = database.execute(
            "select count(*) from devices d join sites s using (site_id) "
            "where s.name = 'Alder South' and is_active"
        )
        assert found.fetchone() == (2,)
    finally:
        database.execute("delete from devices where device_code = 'SECOND-009'")


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(("who", "hidden"), [("viewer.a", ("New tag", "New command")), ("operator.a", ())])
def test_who_is_no_admin_is_offered_no_wake_schedule_and_the_api_refuses_it_too(
    open_page: OpenPage, console: Console, database: Database, who: str, hidden: tuple[str, ...]
) -> None:
    page = open_page(who, f"#/devices/{DEVICE_A}")
    expect(page.get_by_role("heading", name="Facts")).to_be_visible()
    for name in ("Wake schedule", "Move", "Unmap"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    for name in hidden:
        expect(page.get_by_label(name).or_(page.get_by_role("link", name=name))).to_have_count(0)
    assert set(schedules_refused(console, page)) == {(403, "42501")}
    found = database.execute("select count(*) from devices where wake_schedule_cron is not null")
    assert found.fetchone() == (0,)


@pytest.mark.usefixtures("as_before")
def test_a_device_of_another_company_is_not_seen_and_not_changed(
    open_page: OpenPage, console: Console
) -> None:
    page = open_page("admin.b", f"#/devices/{DEVICE_A}")
    expect(page.get_by_role("heading", name="There is no such device")).to_be_visible()
    page.get_by_role("link", name="Look at all devices").click()
    expect(page.get_by_role("link", name="DEVICE-ESP32S3-003")).to_be_visible()
    expect(page.get_by_role("link", name="DEVICE-ESP32S3-001")).to_have_count(0)
    headers = headers_of(console, page)
    for table in ("devices", "device_images", "device_tags", "device_timeline", "device_telemetry"):
        address = f"{console.api}/rest/v1/{table}?device_id=eq.{DEVICE_A}"
        assert httpx.get(address, headers=headers).json() == [], table
    assert set(schedules_refused(console, page)) == {(403, "42501")}
    row = {"device_id": DEVICE_A, "tag": "mine"}
    assert httpx.post(f"{console.api}/rest/v1/device_tags", json=row, headers=headers).status_code == 403


def headers_of(console: Console, page: Page) -> dict[str, str]:
    """What the page's own requests carry."""
    return {"apikey": console.env["SUPABASE_ANON_KEY"], "Authorization": f"Bearer {access_token(page)}"}


def schedules_refused(console: Console, page: Page) -> list[tuple[int, str]]:
    """Status and code when the session changes when a device and a site of company A wake."""
    answers = [
        httpx.post(f"{console.api}/rest/v1/rpc/{function}", json=body, headers=headers_of(console, page))
        for function, body in {
            "fn_set_device_schedule": {"p_device_id": DEVICE_A, "p_cron": "0 6 * * *"},
            "fn_set_site_schedule": {"p_site_id": SITE, "p_cron": "0 6 * * *", "p_timezone": "UTC"},
        }.items()
    ]
    return [(answer.status_code, answer.json()["code"]) for answer in answers]


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
