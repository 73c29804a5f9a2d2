"""The console for viewers, operators and admins of two companies: what each sees, and what each cannot do."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.console.conftest import DEVICE_A, DEVICE_B, Console, access_token, sign_in

OWN = {"a": ("DEVICE-ESP32S3-001", DEVICE_A), "b": ("DEVICE-ESP32S3-003", DEVICE_B)}
OpenPage = Callable[..., Page]


def queue_by_api(console: Console, page: Page, device_id: str) -> int:
    """The status of an insert with the session of the page, past its forms."""
    token = access_token(page)
    headers = {"apikey": console.env["SUPABASE_ANON_KEY"], "Authorization": f"Bearer {token}"}
    row = {"device_id": device_id, "command_type": "ping"}
    return httpx.post(f"{console.api}/rest/v1/device_commands", json=row, headers=headers).status_code


@pytest.mark.parametrize("company", ["a", "b"])
@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_each_role_sees_its_company_alone_and_is_offered_what_it_may_do(
    open_page: OpenPage, console: Console, role: str, company: str
) -> None:
    may = role != "viewer"
    (code, own), (other_code, other) = OWN[company], OWN["b" if company == "a" else "a"]
    page = open_page(f"{role}.{company}", "#/commands/new")
    if may:
        expect(page.get_by_role("radiogroup", name="Devices")).to_contain_text(code)
        expect(page.get_by_text(other_code)).to_have_count(0)
    else:
        expect(page.get_by_role("heading", name="Your role does not queue commands")).to_be_visible()
    page.get_by_role("link", name="Now").click()
    expect(page.get_by_role("region", name="At a glance")).to_contain_text("of 1 active device")
    expect(page.get_by_role("link", name="New command")).to_have_count(1 if may else 0)
    assert queue_by_api(console, page, own) == (201 if may else 403)
    assert queue_by_api(console, page, other) == 403


def test_a_wrong_password_is_said_in_words_and_signing_out_ends_the_session(
    open_page: OpenPage, console: Console
) -> None:
    page = open_page(None)
    page.get_by_label("E-mail").fill("viewer.a@example.test")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not fit together")
    sign_in(page, "viewer.a")
    token = access_token(page)
    page.get_by_text("viewer.a@example.test").click()
    page.get_by_role("button", name="Sign out everywhere").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.evaluate("localStorage.getItem('mqtt-console-session')") is None
    headers = {"apikey": console.env["SUPABASE_ANON_KEY"], "Authorization": f"Bearer {token}"}
    assert httpx.get(f"{console.api}/auth/v1/user", headers=headers).status_code == 403
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
