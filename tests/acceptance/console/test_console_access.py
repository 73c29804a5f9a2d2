"""The console for people who see little, use the keyboard, or have a small screen: axe on every view."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.console.conftest import DEVICE_A
from tests.requirements import find_program, needs

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture
def command_id(console: object, database: psycopg.Connection[tuple[object, ...]]) -> Iterator[str]:
    """A command of company A that waits, and one that failed."""
    row = database.execute(
        "insert into device_commands (device_id, command_type, command_payload, scheduled_for) values "
        "(%s, 'update_config', '{\"brightness\": 3}', now() + interval '3 hours') returning command_id::text",
        [DEVICE_A],
    ).fetchone()
    assert row
    database.execute(
        "insert into device_commands (device_id, command_type, status, last_error) "
        "values (%s, 'ping', 'failed', 'no')",
        [DEVICE_A],
    )
    yield str(row[0])
    database.execute("delete from device_commands")


def violations(page: Page) -> list[str]:
    """What axe finds once everything is there: what still loads fades in."""
    page.wait_for_selector(".loading", state="detached")
    found: list[dict[str, Any]] = page.evaluate(
        "(rules) => axe.run(document, rules).then((result) => result.violations)", RULES
    )
    return [
        f"{page.url.partition('#')[2]} {one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found
        for node in one["nodes"]
    ]


@needs("axe-core")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_on_any_view(
    open_page: Callable[..., Page], command_id: str, scheme: str, width: int
) -> None:
    page = open_page(None, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    axe = (Path(str(find_program("axe-core"))) / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(axe)
    found = violations(page)
    page.get_by_label("E-mail").fill("operator.a@example.test")
    page.get_by_label("Password").fill("local-password")
    page.get_by_role("button", name="Sign in").click()
    for address, shown in {
        "now": page.get_by_role("heading", name="Machinery"),
        "commands": page.get_by_role("table"),
        f"commands/{command_id}": page.get_by_role("heading", name="Facts"),
        f"commands/new?device={DEVICE_A}": page.get_by_role("button", name="Queue for 1 device"),
    }.items():
        page.evaluate("(address) => { location.hash = `#/${address}`; }", address)
        expect(shown).to_be_visible()
        found += violations(page)
    page.evaluate("(address) => { location.hash = `#/${address}`; }", f"commands/{command_id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    found += violations(page)
    assert not found, "\n".join(found)
