"""Recurring commands in the console: added, watched, changed, paused, filtered; roles, refusals, axe."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from playwright.sync_api import Locator, Page, expect
from psycopg.types.json import Jsonb

from tests.acceptance.console.conftest import DEVICE_A, Console, access_token
from tests.acceptance.console.test_console_access import violations
from tests.requirements import find_program, needs

OpenPage = Callable[..., Page]
Database = psycopg.Connection[tuple[object, ...]]
COMPANY = "a0000000-0000-4000-8000-000000000001"
SITE = "a0000000-0000-4000-8000-000000000021"
WAKES = "a0000000-0000-4000-8000-0000000000c1"
ROWS = [
    ("at each wake", {"site": SITE}, "capture_image", None, None, "2 hours", True),
    ("daily ping", {"devices": [DEVICE_A]}, "ping", "0 6 * * *", "Asia/Tokyo", None, True),
    ("old restart", {"tags": ["greenhouse"]}, "reboot", "0 3 * * *", None, None, False),
]


@pytest.fixture(autouse=True)
def schedules(database: Database) -> Iterator[None]:
    """A picture at each wake of Alder North, a ping by cron, and a paused restart; nothing afterwards."""
    for number, (name, target, *rest) in enumerate(ROWS, start=1):
        database.execute(
            "insert into command_schedules "
            "(schedule_id, company_id, name, target, command_type, cron, timezone, validity, enabled) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [f"a0000000-0000-4000-8000-0000000000c{number}", COMPANY, name, Jsonb(target), *rest],
        )
    yield
    database.execute("delete from command_schedules")
    database.execute("delete from device_commands")


def runs(page: Page) -> Locator:
    """The next times, as the page shows them."""
    return page.get_by_role("list", name="The next runs").get_by_role("listitem")


def test_a_new_schedule_queues_for_its_device_and_the_page_tells_it_without_a_reload(
    open_page: OpenPage, database: Database
) -> None:
    page = open_page("operator.a", "#/schedules/new")
    page.evaluate("window.stillTheSamePage = true")
    page.get_by_role("textbox", name="Name").fill("every minute")
    page.get_by_role("combobox", name="Command").select_option(label="Ping")
    page.get_by_role("radio", name="DEVICE-ESP32S3-001").check()
    page.get_by_role("textbox", name="Cron minute").fill("* * * * *")
    expect(runs(page)).to_have_count(10)
    expect(runs(page).first).to_contain_text("CE")  # the zone of the device's site
    page.get_by_role("button", name="Add for 1 device").click()
    expect(page.get_by_role("heading", name="every minute")).to_be_visible()
    database.execute("update command_schedules set next_run_at = now() where name = 'every minute'")
    database.execute("select mqtt_private.fn_ring('due')")
    expect(page.get_by_text("queued 1", exact=True).first).to_be_visible()
    page.get_by_role("link", name="Its commands").click()
    expect(page.get_by_role("button", name="of every minute")).to_be_visible()
    expect(page.get_by_role("row", name="Ping").first).to_contain_text("acknowledged")
    page.get_by_role("row", name="Ping").first.get_by_role("link").click()
    expect(page.get_by_role("link", name="a schedule")).to_be_visible()
    assert page.evaluate("window.stillTheSamePage")


def test_what_cannot_work_is_refused_in_words_before_it_is_saved_or_by_the_database(
    open_page: OpenPage, database: Database
) -> None:
    page = open_page("operator.a", f"#/schedules/new?type=set_wake_schedule&device={DEVICE_A}")
    page.get_by_role("textbox", name="Name").fill("wrong")
    page.get_by_role("textbox", name="Cron minute").fill("17:30")
    expect(page.get_by_role("alert")).to_contain_text("Cron writes the minute first")
    expect(page.get_by_role("button", name="Add for 1 device")).to_be_disabled()
    page.get_by_role("textbox", name="Cron minute").fill("30 17 * * *")
    page.get_by_label("Schedule (cron)").fill("17:30")
    page.get_by_role("button", name="Add for 1 device").click()
    expect(page.get_by_role("alert")).to_contain_text("does not parse")
    assert database.execute("select from command_schedules where name = 'wrong'").fetchone() is None


def test_a_stopped_schedule_is_resumed_edited_paused_and_removed_after_a_question(
    open_page: OpenPage, database: Database
) -> None:
    database.execute(
        "update command_schedules set next_run_at = null, last_result = 'stopped: mend it' "
        "where schedule_id = %s",
        [WAKES],
    )
    page = open_page("operator.a", f"#/schedules/{WAKES}")
    expect(page.get_by_text("stopped", exact=True)).to_be_visible()
    expect(page.get_by_text("stopped: mend it")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("active", exact=True)).to_be_visible()
    expect(runs(page).first).to_contain_text("CE")
    page.get_by_role("link", name="Edit").click()
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.get_by_role("textbox", name="Name").fill("pictures")
    page.get_by_label("Each command lives").fill("90")
    page.get_by_label("Unit").select_option("minutes")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="pictures")).to_be_visible()
    expect(page.get_by_text("1 h 30 min", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("paused", exact=True)).to_be_visible()
    kept = database.execute(
        "select target ->> 'site', cron, validity::text from command_schedules where schedule_id = %s",
        [WAKES],
    )
    assert kept.fetchone() == (SITE, None, "01:30:00")
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device gets no more of its commands")
    page.get_by_role("button", name="Remove it").click()
    expect(page.get_by_role("table").get_by_role("link")).to_have_text(["daily ping", "old restart"])


def test_the_list_is_filtered_by_its_address_searched_and_opened_by_keys(open_page: OpenPage) -> None:
    page = open_page("viewer.a", "#/schedules?state=paused&type=reboot")
    links = page.get_by_role("table").get_by_role("link")
    expect(links).to_have_text(["old restart"])
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(links).to_have_count(3)
    page.get_by_label("Site").select_option(label="Alder North")
    expect(links).to_have_text(["at each wake"])
    page.get_by_role("link", name="Clear").click()
    page.keyboard.press("/")
    page.keyboard.type("esp32s3-001")
    expect(links).to_have_text(["daily ping"])
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="daily ping")).to_be_visible()
    expect(runs(page).first).to_contain_text("06:00")


def api(console: Console, page: Page) -> httpx.Client:
    """The API with the session of the page, past its views."""
    headers = {"apikey": console.env["SUPABASE_ANON_KEY"], "Authorization": f"Bearer {access_token(page)}"}
    headers["Prefer"] = "return=representation"
    return httpx.Client(base_url=f"{console.api}/rest/v1", headers=headers)


@pytest.mark.parametrize(("who", "seen"), [("viewer.a", 3), ("admin.b", 0)])
def test_who_may_not_change_schedules_is_offered_nothing_and_refused_by_the_api_too(
    open_page: OpenPage, console: Console, database: Database, who: str, seen: int
) -> None:
    page = open_page(who, f"#/schedules/{WAKES}")
    shown = "at each wake" if seen else "There is no such schedule"
    expect(page.get_by_role("heading", name=shown)).to_be_visible()
    for name in ("Pause", "Edit", "Remove", "Cancel what waits"):
        expect(page.get_by_text(name, exact=True)).to_have_count(0)
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Schedules").click()
    expect(page.get_by_role("table").get_by_role("link")).to_have_count(seen)
    row = {
        "company_id": COMPANY,
        "name": "mine",
        "command_type": "ping",
        "cron": "0 6 * * *",
        "target": {"company": COMPANY},
    }
    with api(console, page) as client:
        assert len(client.get("/command_schedules").json()) == seen
        assert client.post("/command_schedules", json=row).status_code == 403
        assert client.patch("/command_schedules?name=neq.x", json={"enabled": False}).json() == []
        assert client.delete("/command_schedules?name=neq.x").json() == []
    assert database.execute("select count(*) from command_schedules where enabled").fetchone() == (2,)


@needs("axe-core")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_on_schedules(open_page: OpenPage, scheme: str, width: int) -> None:
    page = open_page("operator.a", "#/schedules", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate((Path(str(find_program("axe-core"))) / "axe.min.js").read_text(encoding="utf-8"))
    expect(page.get_by_role("table")).to_be_visible()
    found = violations(page)
    for address in (f"#/schedules/{WAKES}", f"#/schedules/{WAKES}/edit"):
        page.evaluate("(address) => { location.hash = address; }", address)
        expect(page.get_by_role("list", name="The next runs")).to_be_visible()
        found += violations(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not found, "\n".join(found)
