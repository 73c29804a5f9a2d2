"""A call against HTTP's edge cases; the real client library, a scripted transport."""

import httpx
import pytest
import respx

from mqtt_service.adapters.supabase.commands import CommandGateway
from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.adapters.supabase.transport import connect
from mqtt_service.errors import (
    MigrationMissingError,
    PermanentError,
    ProjectMisconfiguredError,
    SupabaseUnavailableError,
)
from tests.unit.adapters.supabase.claims import CLAIM, URL, gateway_of


async def claim(gateway: CommandGateway) -> object:
    return await gateway.claim(limit=10, lease=30, held=[])


@respx.mock
@pytest.mark.parametrize("body", ['{"n": %s}' % ("7" * 5000), "[" * 100_000 + "]" * 100_000])
async def test_an_answer_that_cannot_be_read_is_no_answer(gateway: CommandGateway, body: str) -> None:
    respx.post(CLAIM).respond(text=body)
    with pytest.raises(SupabaseUnavailableError, match="cannot be read"):
        await claim(gateway)


async def test_a_question_that_cannot_be_asked_is_refused_for_good(gateway: CommandGateway) -> None:
    with pytest.raises(PermanentError, match="cannot be asked"):
        await gateway.claim(limit=10, lease=float("nan"), held=[])


@respx.mock
async def test_503_carries_the_pause_that_the_server_asked_for(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(503, headers={"Retry-After": "7"}, json={"message": "busy"})
    with pytest.raises(SupabaseUnavailableError) as caught:
        await claim(gateway)
    assert caught.value.retry_after == 7


@respx.mock
@pytest.mark.parametrize(
    "fault",
    [
        httpx.ReadTimeout("no answer"),
        httpx.RemoteProtocolError("Server disconnected"),
        httpx.ConnectError("refused"),
    ],
)
async def test_a_lost_response_is_an_unknown_outcome_that_waiting_can_mend(
    gateway: CommandGateway, fault: httpx.HTTPError
) -> None:
    respx.post(CLAIM).mock(side_effect=fault)
    with pytest.raises(SupabaseUnavailableError, match="fn_claim_commands"):
        await claim(gateway)


async def test_a_header_that_cannot_be_sent_does_not_show_the_key() -> None:
    client = await connect(URL, "se\ncret")
    gateway = gateway_of(client)
    with pytest.raises(SupabaseUnavailableError) as caught:
        await claim(gateway)
    assert "cret" not in str(caught.value)
    await client.postgrest.aclose()


@respx.mock
@pytest.mark.parametrize("body", ['{"hello": "world"}', '{"commands": [', "[]", "null", '{"commands": 5}'])
async def test_an_answer_that_is_not_the_agreed_one_counts_as_lost(
    gateway: CommandGateway, body: str
) -> None:
    respx.post(CLAIM).respond(200, text=body)
    with pytest.raises(SupabaseUnavailableError, match="not what it should be"):
        await claim(gateway)


@respx.mock
@pytest.mark.parametrize(
    ("status", "code", "expected", "says"),
    [
        (404, "PGRST202", MigrationMissingError, "supabase/migrations"),
        (403, "42501", ProjectMisconfiguredError, "SUPABASE_SECRET_KEY"),
        (400, "22P02", PermanentError, "22P02"),
        (400, "P0001", PermanentError, "P0001"),
        (400, "AB123", PermanentError, "AB123"),
        (400, "54000", PermanentError, "54000"),
        (500, "XX000", ProjectMisconfiguredError, "XX000"),
        (400, "3F000", ProjectMisconfiguredError, "3F000"),
        (500, "57014", SupabaseUnavailableError, "57014"),
        (409, "40001", SupabaseUnavailableError, "40001"),
    ],
)
async def test_an_api_error_says_whether_waiting_helps_and_what_to_do(
    gateway: CommandGateway, status: int, code: str, expected: type[Exception], says: str
) -> None:
    respx.post(CLAIM).respond(status, json={"code": code, "message": "m", "details": None, "hint": None})
    with pytest.raises(expected, match=says):
        await claim(gateway)


@respx.mock
@pytest.mark.parametrize(
    ("code", "message", "expected", "says"),
    [
        (
            "42883",
            "function public.fn_claim_commands(text) does not exist",
            MigrationMissingError,
            "migrations",
        ),
        ("42P01", 'relation "mqtt_private.visits" does not exist', MigrationMissingError, "migrations"),
        (
            "42501",
            "permission denied for schema mqtt_private",
            ProjectMisconfiguredError,
            "SUPABASE_SECRET_KEY",
        ),
        (
            "42P01",
            'relation "audit_log" does not exist',
            ProjectMisconfiguredError,
            "project itself.*audit_log",
        ),
        (
            "42501",
            "permission denied for table audit_log",
            ProjectMisconfiguredError,
            "grant it to service_role",
        ),
        ("42883", "function note(uuid) does not exist", ProjectMisconfiguredError, "project itself"),
    ],
)
async def test_what_the_project_lacks_is_not_taken_for_a_migration_that_is_missing(
    gateway: CommandGateway, code: str, message: str, expected: type[Exception], says: str
) -> None:
    respx.post(CLAIM).respond(404, json={"code": code, "message": message, "details": None, "hint": None})
    with pytest.raises(expected, match=says):
        await claim(gateway)


@respx.mock
async def test_a_wrong_key_is_permanent_and_names_the_setting(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(401, json={"message": "Invalid API key"})
    with pytest.raises(ProjectMisconfiguredError, match="SUPABASE_SECRET_KEY"):
        await claim(gateway)


PAGE = "<!DOCTYPE html><html><title>Sign in</title></html>"


@respx.mock
@pytest.mark.parametrize("status", [200, 401, 403, 404, 405])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "TEXT/HTML"])
async def test_a_web_page_is_said_to_be_none_of_supabase(
    gateway: CommandGateway, status: int, kind: str
) -> None:
    """A captive portal, a wrong SUPABASE_URL: not a matter of migrations, nor of the key."""
    respx.post(CLAIM).respond(status, text=PAGE, headers={"Content-Type": kind})
    with pytest.raises(SupabaseUnavailableError, match="not the Supabase API: set SUPABASE_URL") as caught:
        await claim(gateway)
    assert "migrations" not in str(caught.value)


@respx.mock
@pytest.mark.parametrize("body", [PAGE, "\n <html>gateway</html>"])
async def test_so_is_a_page_that_is_not_marked_as_one(gateway: CommandGateway, body: str) -> None:
    respx.post(CLAIM).respond(200, text=body)
    with pytest.raises(SupabaseUnavailableError, match="not the Supabase API"):
        await claim(gateway)


@respx.mock
@pytest.mark.parametrize("status", [400, 403, 404])
async def test_json_of_another_service_is_said_to_be_none_of_supabase(
    gateway: CommandGateway, status: int
) -> None:
    respx.post(CLAIM).respond(status, json={"error": "not found"})
    with pytest.raises(ProjectMisconfiguredError, match="not the Supabase API: set SUPABASE_URL"):
        await claim(gateway)


@respx.mock
async def test_text_of_another_service_is_a_matter_of_the_url(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(404, text="no such page")
    with pytest.raises(ProjectMisconfiguredError, match="SUPABASE_URL"):
        await claim(gateway)


@respx.mock
async def test_json_of_another_shape_says_to_look_at_the_url_first(gateway: CommandGateway) -> None:
    respx.post(CLAIM).respond(200, json={"hello": "world"})
    with pytest.raises(
        SupabaseUnavailableError, match="SUPABASE_URL is the project's URL; then the migrations"
    ):
        await claim(gateway)


@respx.mock
async def test_a_page_for_a_picture_is_said_to_be_none_of_supabase() -> None:
    client = await connect(URL, "sb_secret_test")
    page = respx.route(url__startswith=f"{URL}/storage/").respond(200, html=PAGE)
    with pytest.raises(SupabaseUnavailableError, match="not the Supabase API"):
        await PictureStore(client).put("a.jpg", b"")
    assert page.called
    await client.postgrest.aclose()
