"""Rollouts in the console: start one and see it finished, hold it, approve it, and who may do what."""

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
COMPANY = "a0000000-0000-4000-8000-000000000001"
SITE = "a0000000-0000-4000-8000-000000000021"


@pytest.fixture(autouse=True)
def no_rollouts(database: Database) -> Iterator[None]:
    """Each test begins with an empty list, and leaves one."""
    yield
    database.execute("delete from command_rollouts")
    database.execute("delete from device_commands")


def insert(database: Database, status: str, *, name: str = "pings") -> str:
    """A rollout of company A that a back end made: a ping for its site. Returns its id.

    One that is running is continuous, so that it does not finish.
    """
    with database.transaction():
        row = database.execute(
            "insert into command_rollouts (name, target, command_type, needs_approval, continuous) "
            "values (%s, jsonb_build_object('site', %s::text), 'ping', %s, %s) returning rollout_id::text",
            [name, SITE, status == "awaiting_approval", status == "running"],
        ).fetchone()
        assert row
        if status in {"paused", "stopped"}:
            result = "stopped: 3 of 10 that ended have failed" if status == "stopped" else None
            database.execute(
                "update command_rollouts set status = %s, last_result = %s where rollout_id = %s",
                [status, result, row[0]],
            )
    return str(row[0])


def status_of(database: Database, rollout_id: str) -> object:
    row = database.execute(
        "select status from command_rollouts where rollout_id = %s", [rollout_id]
    ).fetchone()
    return row and row[0]


def test_a_rollout_made_here_reaches_its_device_and_is_seen_finished_without_a_reload(
    open_page: OpenPage,
) -> None:
    page = open_page("admin.a", "#/rollouts")
    page.evaluate("window.stillTheSamePage = true")
    page.get_by_role("link", name="Start the first").click()
    page.get_by_role("combobox", name="Command").select_option("update_config")
    page.get_by_role("textbox", name="Name", exact=True).first.fill("interval")
    page.get_by_role("textbox", name="Value", exact=True).first.fill("300")
    page.get_by_role("textbox", name="Name what people call it").fill("New <i>interval</i>")
    page.get_by_role("radio", name="a site").check()
    page.get_by_role("combobox", name="Site").select_option(label="Alder North")
    page.get_by_label("Devices a minute").fill("5")
    page.get_by_role("button", name="Start for 1 device").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device will get it, 5 a minute")
    page.get_by_role("dialog").get_by_role("button", name="Start for 1 device").click()
    expect(page.get_by_role("heading", name="New <i>interval</i>")).to_be_visible()
    expect(page.get_by_role("main").locator(".head .pill")).to_have_text("✓finished")
    expect(page.get_by_role("img", name="1 of 1 device succeeded")).to_be_visible()
    expect(page.get_by_text("1 succeeded.")).to_be_visible()
    row = page.get_by_role("row", name="DEVICE-ESP32S3-001")
    expect(row).to_contain_text("succeeded")
    row.get_by_role("link", name="Open the command").click()
    expect(page.get_by_role("heading", name="Change settings")).to_be_visible()
    page.get_by_role("link", name="the one it belongs to").click()
    page.get_by_role("row", name="DEVICE-ESP32S3-001").get_by_role(
        "link", name="DEVICE-ESP32S3-001", exact=True
    ).click()
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    assert page.evaluate("window.stillTheSamePage")


def test_an_operator_holds_and_cancels_and_the_database_refuses_him_the_rest(
    open_page: OpenPage, console: Console, database: Database
) -> None:
    running, rollout = insert(database, "running"), insert(database, "paused")
    page = open_page("operator.a", f"#/rollouts/{running}")
    buttons, pill = (
        page.get_by_role("main").get_by_role("button"),
        page.get_by_role("main").locator(".head .pill"),
    )
    expect(buttons).to_have_text(["Pause", "Cancel"])
    buttons.get_by_text("Pause").click()
    expect(pill).to_have_text("‖paused")
    expect(page.get_by_text("It is paused: no more devices are released")).to_be_visible()
    expect(buttons).to_have_text(["Cancel"])
    headers = headers_of(console, page)
    url = f"{console.api}/rest/v1/command_rollouts"
    resumed = httpx.patch(f"{url}?rollout_id=eq.{running}", json={"status": "running"}, headers=headers)
    assert (resumed.status_code, resumed.json()["code"]) == (403, "42501")
    started = httpx.post(url, json=row_of("by an operator"), headers=headers)
    assert (started.status_code, started.json()["code"]) == (403, "42501")
    page.evaluate("(address) => { location.hash = address; }", f"#/rollouts/{rollout}")
    expect(page.get_by_text("by a back end")).to_be_visible()
    buttons.get_by_text("Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device will not get the command")
    page.get_by_role("button", name="Cancel the rollout").click()
    expect(pill).to_have_text("–cancelled")
    expect(buttons).to_have_count(0)
    assert (status_of(database, running), status_of(database, rollout)) == ("paused", "cancelled")


def test_an_admin_resumes_what_has_stopped_changes_its_speed_and_approves_what_waits(
    open_page: OpenPage, database: Database
) -> None:
    stopped = insert(database, "stopped")
    waiting = insert(database, "awaiting_approval", name="to be approved")
    page = open_page("admin.a", "#/rollouts?status=stopped")
    page.get_by_role("table").get_by_role("link", name="pings").click()
    expect(page.get_by_text("Stopped: 3 of 10 that ended have failed.")).to_be_visible()
    page.get_by_role("button", name="Change speed").click()
    page.get_by_label("Stops above (% failed)").fill("25")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_text("stops above 25 %")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("dialog")).to_contain_text(
        "1 device that waits will get the command, 50 a minute"
    )
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    pill = page.get_by_role("main").locator(".head .pill")
    expect(pill).to_have_text("✓finished")
    assert status_of(database, stopped) == "finished"
    page.evaluate("(address) => { location.hash = address; }", f"#/rollouts/{waiting}")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device will get the command")
    page.get_by_role("button", name="Start for 1 device").click()
    expect(pill).to_have_text("✓finished")
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.get_by_role("row", name="pings")).to_be_visible()
    expect(page.get_by_role("row", name="to be approved")).to_have_count(0)


def test_a_viewer_looks_and_another_company_sees_nothing(
    open_page: OpenPage, console: Console, database: Database
) -> None:
    rollout = insert(database, "paused")
    page = open_page("viewer.a", "#/rollouts")
    expect(page.get_by_role("link", name="New rollout")).to_have_count(0)
    page.get_by_role("table").get_by_role("link", name="pings").click()
    expect(page.get_by_text("It is paused")).to_be_visible()
    expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
    url = f"{console.api}/rest/v1/command_rollouts"
    headers = headers_of(console, page) | {"Prefer": "return=representation"}
    assert (
        httpx.patch(f"{url}?rollout_id=eq.{rollout}", json={"status": "cancelled"}, headers=headers).json()
        == []
    )
    page = open_page("admin.b", f"#/rollouts/{rollout}")
    expect(page.get_by_role("heading", name="There is no such rollout")).to_be_visible()
    page.get_by_role("link", name="Look at all rollouts").click()
    expect(page.get_by_role("heading", name="No rollouts yet")).to_be_visible()
    headers = headers_of(console, page) | {"Prefer": "return=representation"}
    for table in ("command_rollouts", "rollout_progress", "rollout_devices"):
        assert httpx.get(f"{console.api}/rest/v1/{table}", headers=headers).json() == []
    assert (
        httpx.patch(f"{url}?rollout_id=eq.{rollout}", json={"status": "running"}, headers=headers).json()
        == []
    )
    assert httpx.post(url, json=row_of("for another company"), headers=headers).status_code >= 400
    assert status_of(database, rollout) == "paused"


def row_of(name: str) -> dict[str, object]:
    return {"name": name, "target": {"site": SITE}, "command_type": "ping", "company_id": COMPANY}


def headers_of(console: Console, page: Page) -> dict[str, str]:
    return {"apikey": console.env["SUPABASE_ANON_KEY"], "Authorization": f"Bearer {access_token(page)}"}


def test_a_large_rollout_shows_its_devices_by_state_page_by_page(
    open_page: OpenPage, database: Database
) -> None:
    rollout = insert(database, "paused")
    with database.transaction():
        database.execute(
            "insert into rollout_devices (rollout_id, device_id, state, reason) "
            "select %s, gen_random_uuid(), case when n <= 150 then 'failed' else 'succeeded' end, "
            "case when n <= 150 then 'no battery' end from generate_series(1, 1000) n",
            [rollout],
        )
        database.execute(
            "update rollout_counts set total = 2000, succeeded = 850, failed = 150 where rollout_id = %s",
            [rollout],
        )
    page = open_page("viewer.a", f"#/rollouts/{rollout}?state=failed")
    expect(page.get_by_role("img", name="850 of 2,000 devices succeeded, 150 failed")).to_be_visible()
    expect(page.get_by_text("150 of 1,000 (15 %)")).to_be_visible()
    box = page.get_by_role("region", name="Devices")
    expect(box.get_by_role("row", name="no battery").first).to_be_visible()
    box.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    expect(box.get_by_text("further ones follow")).to_be_visible()
    box.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    expect(box.get_by_text("150 devices, no more")).to_be_visible()
    page.get_by_role("navigation", name="Devices by state").get_by_role("link", name="succeeded").click()
    expect(box.get_by_role("row", name="succeeded").first).to_be_visible()


@needs("axe-core")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_on_rollouts(
    open_page: OpenPage, database: Database, scheme: str, width: int
) -> None:
    rollout = insert(database, "stopped", name="n" * 100)
    database.execute(
        "insert into rollout_devices (rollout_id, device_id, state, reason) values (%s, %s, 'failed', 'no')",
        [rollout, DEVICE_A],
    )
    page = open_page("admin.a", "#/rollouts", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate((Path(str(find_program("axe-core"))) / "axe.min.js").read_text(encoding="utf-8"))
    found = []
    for address, shown in {
        "rollouts": page.get_by_role("table"),
        "rollouts/new": page.get_by_role("button", name="Start for 1 device"),
        f"rollouts/{rollout}": page.get_by_role("table"),
    }.items():
        page.evaluate("(address) => { location.hash = `#/${address}`; }", address)
        expect(shown).to_be_visible()
        found += violations(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    page.get_by_role("button", name="Change speed").click()
    expect(page.get_by_label("Devices a minute")).to_be_visible()
    found += violations(page)
    assert not found, "\n".join(found)
