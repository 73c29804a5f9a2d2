"""Numbers in the console: what is counted, where each number leads, filters, and who counts what."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.console.conftest import DEVICE_A
from tests.acceptance.console.test_console_access import violations
from tests.requirements import find_program, needs

OpenPage = Callable[..., Page]
SITE = "a0000000-0000-4000-8000-000000000021"


@pytest.fixture
def counted(database: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    """Of today and each of two days before: three pings, answered after 2 s, and one reboot that expired."""
    database.execute("delete from device_commands")
    with database.transaction():
        database.execute("set local session_replication_role = replica")
        database.execute(
            "insert into device_commands "
            "(device_id, command_type, status, issued_at, delivered_at, acknowledged_at, in_queue) "
            "select %s, kind, status, at, at, case kind when 'ping' then at + interval '2 s' end, true "
            "from (values ('ping', 'acknowledged'), ('ping', 'acknowledged'), ('ping', 'acknowledged'), "
            "  ('reboot', 'expired')) c (kind, status) "
            "cross join (select now() - make_interval(days => n, secs => 1) as at "
            "  from generate_series(0, 2) n) d",
            [DEVICE_A],
        )
    yield
    database.execute("delete from device_commands")


def value_of(page: Page, name: str) -> str:
    """The number of a tile."""
    tile = page.get_by_role("region", name="In all").get_by_role("link", name=name)
    return tile.locator(".value").inner_text()


@pytest.mark.usefixtures("counted")
def test_each_number_leads_to_the_commands_that_it_counts(open_page: OpenPage) -> None:
    page = open_page("viewer.a", "#/numbers")
    expect(page.get_by_role("region", name="In all")).to_be_visible()
    names = ("Commands", "Done", "Lost", "Success", "Answer after", "Slow answers")
    assert [value_of(page, name) for name in names] == ["12", "9", "3", "75 %", "2 s", "2 s"]
    expect(page.get_by_role("img", name="Success: from 75 % to 75 %")).to_be_visible()
    for region, row, column, loaded in (
        ("By type", "Restart", "3", "3 loaded"),
        ("By site", "Alder North", "9", "9 loaded"),
        ("By day", "", "4", "4 loaded"),
    ):
        table = page.get_by_role("region", name=region, exact=True).get_by_role("row", name=row).nth(-1)
        table.get_by_role("link", name=column, exact=True).first.click()
        expect(page.get_by_role("heading", name="Commands", exact=True)).to_be_visible()
        expect(page.get_by_text("loaded")).to_have_text(loaded)
        page.go_back()
    page.get_by_role("link", name="Lost").first.click()
    expect(page.get_by_text("loaded")).to_have_text("3 loaded")
    page.get_by_title("Show any time").click()
    expect(page.get_by_title("Show any time")).to_have_count(0)


@pytest.mark.usefixtures("counted")
def test_filters_stay_in_the_address_and_nothing_says_what_to_do(open_page: OpenPage) -> None:
    page = open_page("viewer.a", f"#/numbers?type=reboot&site={SITE}&span=30d")
    expect(page.get_by_role("region", name="By type", exact=True).get_by_role("row")).to_have_count(2)
    assert value_of(page, "Done") == "0"
    page.get_by_role("link", name="today").click()
    expect(page.get_by_role("region", name="By day", exact=True).get_by_role("row")).to_have_count(2)
    page.get_by_role("combobox", name="Type").select_option("update_firmware")
    expect(page.get_by_role("heading", name="No commands in this time")).to_be_visible()
    assert page.url.endswith(f"type=update_firmware&site={SITE}&span=1d")
    page.get_by_role("link", name="Count every type, site and device").click()
    expect(page.get_by_role("region", name="By type", exact=True)).to_contain_text("Ping")


@pytest.mark.usefixtures("counted")
def test_the_numbers_of_another_company_are_notcounted(open_page: OpenPage) -> None:
    page = open_page("admin.b", "#/numbers")
    expect(page.get_by_role("heading", name="No commands in this time")).to_be_visible()


@pytest.mark.usefixtures("counted")
@needs("axe-core")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_on_numbers(open_page: OpenPage, scheme: str, width: int) -> None:
    page = open_page("operator.a", "#/numbers", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate((Path(str(find_program("axe-core"))) / "axe.min.js").read_text(encoding="utf-8"))
    expect(page.get_by_role("region", name="By site", exact=True)).to_be_visible()
    found = violations(page)
    assert not found, "\n".join(found)
