"""Commands in the console: queue and watch one, cancel, retry, bulk, long lists, strange names, faults."""

from collections.abc import Callable
from typing import LiteralString

import psycopg
import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.acceptance.console.conftest import DEVICE_A, sign_in

OpenPage = Callable[..., Page]
Database = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(autouse=True)
def no_commands(database: Database) -> None:
    """Each test begins with an empty list."""
    database.execute("delete from device_commands")


def statuses(database: Database) -> list[object]:
    return [row[0] for row in database.execute("select status from device_commands order by issue_number")]


def insert(database: Database, rows: LiteralString) -> None:
    """Rows as (command_type, status, scheduled in hours, last_error), for the device of company A."""
    database.execute(
        "insert into device_commands (device_id, command_type, status, scheduled_for, due_at, last_error) "
        "select %s, t, s, now() + make_interval(hours => h), now() + make_interval(hours => h), e "
        f"from (values {rows}) v (t, s, h, e)",
        [DEVICE_A],
    )


def test_a_queued_command_becomes_acknowledged_without_a_reload(open_page: OpenPage) -> None:
    page = open_page("operator.a", "#/commands/new")
    page.evaluate("window.stillTheSamePage = true")
    page.get_by_role("radio", name="DEVICE-ESP32S3-001").check()
    expect(page.get_by_text("1 device", exact=True)).to_be_visible()
    page.get_by_role("button", name="Queue for 1 device").click()
    expect(page.get_by_role("heading", name="Take a picture")).to_be_visible()
    expect(page.get_by_role("main").locator(".pill").first).to_have_text("✓acknowledged")
    expect(page.get_by_text("by the device")).to_be_visible()
    assert page.evaluate("window.stillTheSamePage")


def test_a_selection_is_cancelled_and_a_failed_one_tried_again(
    open_page: OpenPage, database: Database
) -> None:
    insert(
        database, "('ping', 'pending', 3, null), ('reboot', 'pending', 3, null), ('ping', 'failed', 3, 'no')"
    )
    page = open_page("operator.a", "#/commands?status=failed")
    page.get_by_role("table").get_by_role("link", name="Ping").click()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device will get it")
    page.get_by_role("dialog").get_by_role("button", name="Try again").click()
    expect(page.get_by_role("main").locator(".pill").first).to_have_text("✓acknowledged")
    page.get_by_role("main").get_by_role("link", name="Commands").click()
    page.get_by_label("Select all that are loaded").check()
    page.get_by_role("button", name="Cancel 2").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device will not get them")
    page.get_by_role("dialog").get_by_role("button", name="Cancel 2 commands").click()
    expect(page.get_by_text("2 commands cancelled.")).to_be_visible()
    expect(page.get_by_role("cell", name="cancelled")).to_have_count(2)
    assert statuses(database) == ["cancelled", "cancelled", "acknowledged"]
    page.get_by_role("row", name="Restart").get_by_role("link").click()
    page.get_by_role("button", name="Send again").click()
    page.get_by_role("dialog").get_by_role("button", name="Send again").click()
    expect(page.get_by_text("1 command queued.")).to_be_visible()
    assert len(statuses(database)) == 4


def test_a_dialog_that_is_left_changes_nothing(open_page: OpenPage, database: Database) -> None:
    insert(database, "('ping', 'pending', 3, null)")
    page = open_page("operator.a", "#/commands")
    page.get_by_role("link", name="Ping").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 device will not get it")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert statuses(database) == ["pending"]


def test_a_whole_site_is_reached_after_a_preview(open_page: OpenPage, database: Database) -> None:
    page = open_page("admin.a", "#/commands/new")
    page.get_by_role("combobox", name="Command").select_option("reboot")
    page.get_by_role("radio", name="a site").check()
    page.get_by_role("combobox", name="Site").select_option(label="Alder North")
    page.get_by_role("button", name="Queue for 1 device").click()
    page.get_by_role("dialog").get_by_role("button", name="Queue for 1 device").click()
    expect(page.get_by_role("heading", name="Restart")).to_be_visible()
    assert len(statuses(database)) == 1


def test_what_the_database_refuses_is_said_with_what_to_write(open_page: OpenPage) -> None:
    page = open_page("operator.a", "#/commands/new?type=set_wake_schedule&device=" + DEVICE_A)
    page.get_by_label("Schedule (cron)").fill("17:30")
    page.get_by_role("button", name="Queue for 1 device").click()
    expect(page.get_by_role("alert")).to_contain_text("does not parse")


def test_twenty_thousand_commands_are_listed_with_few_rows_in_the_page(
    open_page: OpenPage, database: Database
) -> None:
    with database.transaction():
        database.execute("set local session_replication_role = replica")
        database.execute(
            "insert into device_commands (device_id, command_type, status, issued_at, in_queue) "
            "select %s, 'ping', 'acknowledged', now() - make_interval(secs => n), true "
            "from generate_series(1, 20000) n",
            [DEVICE_A],
        )
    page = open_page("viewer.a", "#/commands")
    box = page.get_by_role("region", name="Commands")
    loaded = page.get_by_text("loaded")
    for pages in range(2, 8):
        box.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
        expect(loaded).to_have_text(f"{pages * 100:,} loaded")
    assert page.locator("tbody tr").count() < 60
    database.execute("delete from device_commands where device_id = %s", [DEVICE_A])


def test_a_name_with_markup_and_ten_thousand_characters_is_text_and_fits(
    open_page: OpenPage, database: Database
) -> None:
    name = "<script>window.ran = 1</script><img src=x onerror=window.ran=1>" + "x" * 10_000
    database.execute("update devices set device_name = %s where device_id = %s", [name, DEVICE_A])
    try:
        insert(database, "('ping', 'pending', 3, '<b>bold</b>')")
        page = open_page("operator.a", "#/commands", color_scheme="dark")
        page.set_viewport_size({"width": 360, "height": 740})
        expect(page.get_by_role("cell", name="<script>")).to_be_visible()
        for address in ("#/commands", "#/now", f"#/commands/new?device={DEVICE_A}"):
            page.goto(f"{page.url.partition('#')[0]}{address}")
            expect(page.get_by_text("<script>").first).to_be_visible()
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, address
        assert page.evaluate("window.ran") is None
    finally:
        database.execute("update devices set device_name = null where device_id = %s", [DEVICE_A])


def test_keys_search_move_open_and_go_back_and_an_address_keeps_its_filters(
    open_page: OpenPage, database: Database
) -> None:
    insert(database, "('ping', 'pending', 3, null), ('reboot', 'cancelled', 3, null)")
    page = open_page("operator.a", "#/commands?status=cancelled&type=reboot")
    expect(page.get_by_role("table").get_by_role("link")).to_have_text(["Restart"])
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Restart")).to_be_visible()
    page.go_back()
    page.keyboard.press("/")
    page.keyboard.type("no such device")
    expect(page.get_by_role("heading", name="No command fits these filters")).to_be_visible()
    assert "q=no+such+device" in page.url
    expect(page.get_by_role("searchbox")).to_have_value("no such device")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


def test_without_realtime_the_console_polls_and_says_so_until_it_is_back(
    open_page: OpenPage, database: Database
) -> None:
    page = open_page(None, "#/commands")
    sockets: list[WebSocketRoute] = []
    cut = False

    def carry(socket: WebSocketRoute) -> None:
        if cut:
            socket.close()
        else:
            sockets.append(socket)
            socket.connect_to_server()

    page.route_web_socket("**/realtime/**", carry)
    page.reload()
    sign_in(page, "viewer.a")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    cut = True
    for socket in sockets:
        socket.close()
    expect(page.get_by_text("Polling", exact=True)).to_be_visible()
    insert(database, "('reboot', 'pending', 3, null)")
    expect(page.get_by_role("cell", name="Restart")).to_be_visible()
    cut = False
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    insert(database, "('ping', 'pending', 3, null)")
    expect(page.get_by_role("cell", name="Ping")).to_be_visible()


def test_while_the_project_is_away_the_rows_stay_and_the_console_says_so(
    open_page: OpenPage, database: Database
) -> None:
    insert(database, "('reboot', 'pending', 3, null)")
    page = open_page("operator.a", "#/commands")
    expect(page.get_by_role("cell", name="Restart")).to_be_visible()
    page.route("**/rest/**", lambda route: route.abort())
    insert(database, "('ping', 'pending', 3, null)")
    expect(page.get_by_text("The project does not answer. What you see may be old")).to_be_visible()
    expect(page.get_by_role("cell", name="Restart")).to_be_visible()
    page.unroute("**/rest/**")
    expect(page.get_by_role("cell", name="Ping")).to_be_visible()
    expect(page.get_by_text("What you see may be old")).to_have_count(0)
