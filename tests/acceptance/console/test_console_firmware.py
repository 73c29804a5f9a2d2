"""Firmware in the console: publish a file, roll it out to a device that then runs it, and who may do what."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from playwright.sync_api import FilePayload, Page, Route, expect

from tests.acceptance.console.conftest import Console, access_token
from tests.acceptance.console.test_console_access import violations
from tests.requirements import find_program, needs

OpenPage = Callable[..., Page]
Database = psycopg.Connection[tuple[object, ...]]
COMPANY_A = "a0000000-0000-4000-8000-000000000001"
COMPANY_B = "b0000000-0000-4000-8000-000000000001"
IMAGE = b"\xe9 an image for an ESP32 " * 3000


@pytest.fixture(autouse=True)
def no_releases(database: Database) -> Iterator[None]:
    """Each test begins without releases, and leaves none."""
    yield
    database.execute("delete from command_rollouts")
    database.execute("delete from device_commands")
    database.execute("delete from firmware_releases")


def insert(database: Database, version: str, company: str = COMPANY_A) -> str:
    """A release whose file nobody asks for. Returns its id."""
    row = database.execute(
        "insert into firmware_releases (company_id, version, hardware, sha256, size_bytes, path, notes) "
        "values (%s, %s, 'cam-2', repeat('a', 64), 1234567, %s || '/a.bin', 'Sleeps deeper') "
        "returning release_id::text",
        [company, version, company],
    ).fetchone()
    assert row
    return str(row[0])


def choose(page: Page, name: str, content: bytes) -> None:
    file: FilePayload = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.locator("[name=file]").set_input_files(file)


def refusing(status: int) -> Callable[[Route], None]:
    """Answers as Storage does, which writes the status that it means into the body."""
    return lambda route: route.fulfill(status=400, json={"statusCode": str(status), "message": "no"})


def test_a_file_is_published_rolled_out_and_runs_on_its_device(
    open_page: OpenPage, database: Database
) -> None:
    page = open_page("admin.b", "#/firmware")
    page.get_by_role("link", name="Publish a file").click()
    choose(page, "camera-v1.4.0.bin", IMAGE)
    expect(page.locator("[name=version]")).to_have_value("1.4.0")
    page.locator("[name=notes]").fill("Sleeps deeper")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("heading", name="1.4.0")).to_be_visible()
    sha256 = hashlib.sha256(IMAGE).hexdigest()
    found = database.execute(
        "select version, sha256, size_bytes, path, notes from firmware_releases"
    ).fetchall()
    assert found == [("1.4.0", sha256, len(IMAGE), f"{COMPANY_B}/{sha256}.bin", "Sleeps deeper")]
    page.get_by_role("link", name="Roll out", exact=True).click()
    page.get_by_role("button", name="Start for 1 device").click()
    page.get_by_role("dialog").get_by_role("button", name="Start for 1 device").click()
    expect(page.get_by_role("heading", name="Firmware 1.4.0")).to_be_visible()
    expect(page.get_by_role("main").locator(".head .pill")).to_have_text("✓finished")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Firmware").click()
    expect(
        page.get_by_role("row", name="1.4.0 any").get_by_role("link", name="1", exact=True)
    ).to_be_visible()
    page.get_by_role("table", name="").first.get_by_role("link", name="1.4.0", exact=True).click()
    expect(page.get_by_role("region", name="At a glance")).to_contain_text("Verified1")
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.get_by_text("A rollout names this release, so it stays.")).to_be_visible()


def test_the_same_version_again_is_refused_and_the_same_file_changes_nothing(
    open_page: OpenPage, database: Database
) -> None:
    page = open_page("admin.a", "#/firmware/new")
    for version, content, said in (
        ("2.0", IMAGE, "2.0 is published."),
        ("v2.0.0", IMAGE + b"!", "2.0 is published already, with another file."),
        ("2.0", IMAGE, "It was published before, with the same file"),
    ):
        page.evaluate("() => { location.hash = '#/firmware/new'; }")
        choose(page, "firmware.bin", content)
        page.locator("[name=version]").fill(version)
        page.get_by_role("button", name="Publish").click()
        expect(page.get_by_text(said)).to_be_visible()
    page.get_by_label("Notes").fill("Corrected notes")
    page.get_by_role("button", name="Save notes").click()
    expect(page.get_by_text("The notes are saved.")).to_be_visible()
    assert database.execute("select version, notes from firmware_releases").fetchall() == [
        ("2.0", "Corrected notes")
    ]
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.get_by_role("heading", name="No firmware is published")).to_be_visible()
    files = "select count(*) from storage.objects where bucket_id = 'firmware' and name like %s"
    assert database.execute(files, [f"{COMPANY_A}/%"]).fetchone() == (0,)


def test_what_is_no_file_or_too_large_or_cannot_be_sent_is_said_in_words(open_page: OpenPage) -> None:
    page = open_page("admin.a", "#/firmware/new")
    choose(page, "notes.bin", b"not firmware")
    expect(page.get_by_text("It does not begin as an image for an ESP32 does.")).to_be_visible()
    page.locator("[name=version]").fill("3.0")
    choose(page, "empty.bin", b"")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("alert")).to_contain_text("The file is empty.")
    choose(page, "camera.bin", IMAGE)
    upload = "**/storage/v1/object/firmware/**"
    for status, said in {413: "larger than the project takes", 403: "Your role does not allow this."}.items():
        page.route(upload, refusing(status))
        page.get_by_role("button", name="Publish").click()
        expect(page.get_by_role("alert").filter(has_text=said)).to_be_visible()
    page.route(upload, lambda route: route.abort())
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("alert").filter(has_text="The project does not answer.")).to_be_visible()


def test_an_operator_publishes_nothing_and_another_company_sees_nothing(
    open_page: OpenPage, console: Console, database: Database
) -> None:
    release = insert(database, "1.4.0")
    path = f"{COMPANY_A}/{'b' * 64}.bin"
    row = {"company_id": COMPANY_A, "version": "9", "sha256": "b" * 64, "size_bytes": 1, "path": path}
    url = f"{console.api}/rest/v1/firmware_releases"
    for who, sees in {"operator.a": True, "admin.b": False}.items():
        page = open_page(who, f"#/firmware/{release}")
        expect(
            page.get_by_role("heading", name="1.4.0" if sees else "There is no such release")
        ).to_be_visible()
        expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
        expect(page.get_by_role("link", name="Roll out")).to_have_count(0)
        headers = {
            "apikey": console.env["SUPABASE_ANON_KEY"],
            "Authorization": f"Bearer {access_token(page)}",
        }
        upload = httpx.post(f"{console.api}/storage/v1/object/firmware/{path}", content=b"x", headers=headers)
        assert (upload.status_code, upload.json()["statusCode"]) == (400, "403")
        assert httpx.post(url, json=row, headers=headers).status_code == 403
        headers["Prefer"] = "return=representation"
        assert httpx.delete(f"{url}?release_id=eq.{release}", headers=headers).json() == []
        assert len(httpx.get(url, headers=headers).json()) == sees
    assert database.execute("select count(*) from firmware_releases").fetchone() == (1,)


def test_two_versions_are_one_for_the_console_where_they_are_for_the_database(
    open_page: OpenPage, database: Database
) -> None:
    written = [
        "1.4",
        "1.4.0",
        "v1.4.0",
        "1.04",
        "1.4.0+b7",
        "1.4.0-rc.1",
        "1.4-rc.1",
        "1.40",
        "sim-1",
        "SIM-1",
        "0",
    ]
    page = open_page(None)
    plain = page.evaluate(
        "(all) => import('./firmware_rows.js').then((rows) => all.map(rows.plainVersion))", written
    )
    one = "select coalesce(mqtt_private.fn_version_key(v), array[v])::text from unnest(%s::text[]) v"
    keys = [row[0] for row in database.execute(one, [written])]
    same = [[a == b for b in plain] for a in plain]
    assert same == [[a == b for b in keys] for a in keys]


@needs("axe-core")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_on_firmware(
    open_page: OpenPage, database: Database, scheme: str, width: int
) -> None:
    release = insert(database, "1.4.0")
    page = open_page("admin.a", "#/firmware", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate((Path(str(find_program("axe-core"))) / "axe.min.js").read_text(encoding="utf-8"))
    found = []
    for address, shown in {
        "firmware": page.get_by_role("heading", name="What devices run"),
        "firmware/new": page.locator("[name=file]"),
        f"firmware/{release}": page.get_by_role("heading", name="It was not rolled out yet"),
    }.items():
        page.evaluate("(address) => { location.hash = `#/${address}`; }", address)
        expect(shown).to_be_visible()
        found += violations(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    assert not found, "\n".join(found)
