"""Signing in with a password: sessions, their refresh tokens and their end, in the real server's words."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from supabase_auth.errors import AuthApiError

from mqtt_service.devstack.auth.routes import SEEDED_PASSWORD
from mqtt_service.devstack.auth.sessions import REUSE_SECONDS
from mqtt_service.devstack.faults import RestFault
from tests.integration.devstack.storage.harness import COMPANY_A, VIEWER_A, Storage, running_storage

pytestmark = pytest.mark.asyncio(loop_scope="module")

EMAIL = "viewer.a@example.test"
PASSWORD = {"email": EMAIL, "password": SEEDED_PASSWORD}
NEW_API = {"x-supabase-api-version": "2024-01-01"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Storage]:
    async with running_storage() as storage:
        yield storage


async def call(stack: Storage, method: str, path: str, token: str = "", **options: Any) -> httpx.Response:
    headers = {"apikey": stack.stack.keys.anon_key} | options.pop("headers", {})
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with httpx.AsyncClient(base_url=stack.stack.url, trust_env=False) as http:
        return await http.request(method, f"/auth/v1{path}", headers=headers, **options)


async def sign_in(stack: Storage) -> dict[str, Any]:
    answer = await call(stack, "POST", "/token?grant_type=password", json=PASSWORD)
    assert answer.status_code == 200
    session: dict[str, Any] = answer.json()
    return session


async def refresh(stack: Storage, token: str) -> httpx.Response:
    return await call(stack, "POST", "/token?grant_type=refresh_token", json={"refresh_token": token})


async def test_a_seeded_user_signs_in_and_sees_what_policies_let_through(stack: Storage) -> None:
    client = await stack.client(stack.stack.keys.anon_key)
    answer = await client.auth.sign_in_with_password({"email": EMAIL.upper(), "password": SEEDED_PASSWORD})
    assert answer.user is not None
    assert answer.session is not None
    assert (answer.user.id, answer.user.email, answer.session.expires_in) == (VIEWER_A, EMAIL, 3600)
    seen = await client.table("companies").select("company_id").execute()
    assert seen.data == [{"company_id": COMPANY_A}]
    await client.auth.sign_out()
    with pytest.raises(AuthApiError) as refused:
        await client.auth.sign_in_with_password({"email": EMAIL, "password": "wrong"})
    assert (refused.value.status, refused.value.code) == (400, "invalid_credentials")


@pytest.mark.parametrize(
    ("email", "password"),
    [(EMAIL, "wrong"), (EMAIL, ""), ("nobody@example.test", SEEDED_PASSWORD), ("%", SEEDED_PASSWORD)],
)
async def test_somebody_unknown_and_a_wrong_password_are_refused_alike(
    stack: Storage, email: str, password: str
) -> None:
    body = {"email": email, "password": password}
    answer = await call(stack, "POST", "/token?grant_type=password", json=body)
    assert (answer.status_code, answer.json()) == (
        400,
        {"code": 400, "error_code": "invalid_credentials", "msg": "Invalid login credentials"},
    )


async def test_who_has_a_password_of_their_own_is_not_let_in_with_the_seeds(stack: Storage) -> None:
    await stack.database.execute("update auth.users set encrypted_password = 'x' where email = %s", [EMAIL])
    try:
        answer = await call(stack, "POST", "/token?grant_type=password", json=PASSWORD)
    finally:
        await stack.database.execute("update auth.users set encrypted_password = null")
    assert answer.status_code == 400


async def test_the_token_says_who_it_is(stack: Storage) -> None:
    session = await sign_in(stack)
    claims = stack.stack.keys.claims(session["access_token"])
    assert (claims["sub"], claims["role"], claims["aud"], claims["email"]) == (
        VIEWER_A, "authenticated", "authenticated", EMAIL,
    )  # fmt: skip
    assert claims["exp"] == session["expires_at"]
    user = (await call(stack, "GET", "/user", session["access_token"])).json()
    assert user == session["user"]
    assert (user["id"], user["app_metadata"]["provider"]) == (VIEWER_A, "email")


async def test_a_session_goes_on_with_each_new_refresh_token(stack: Storage) -> None:
    first = await sign_in(stack)
    second = (await refresh(stack, first["refresh_token"])).json()
    third = (await refresh(stack, second["refresh_token"])).json()
    sessions = {
        stack.stack.keys.claims(each["access_token"])["session_id"] for each in (first, second, third)
    }
    assert len(sessions) == 1
    assert len({each["refresh_token"] for each in (first, second, third)}) == 3


async def test_two_tabs_that_refresh_at_once_get_the_same_next_token(stack: Storage) -> None:
    first = await sign_in(stack)
    answers = [(await refresh(stack, first["refresh_token"])).json() for _ in range(2)]
    assert answers[0]["refresh_token"] == answers[1]["refresh_token"]


async def test_a_refresh_token_used_again_later_ends_the_session(stack: Storage) -> None:
    first = await sign_in(stack)
    second = (await refresh(stack, first["refresh_token"])).json()
    await stack.database.execute(
        "update auth.refresh_tokens set updated_at = now() - make_interval(secs => %s) where token = %s",
        [REUSE_SECONDS + 1, first["refresh_token"]],
    )
    stolen = await refresh(stack, first["refresh_token"])
    assert (stolen.status_code, stolen.json()["error_code"]) == (400, "refresh_token_already_used")
    after = await refresh(stack, second["refresh_token"])
    assert (after.status_code, after.json()["error_code"]) == (400, "refresh_token_not_found")


@pytest.mark.parametrize(("scope", "left"), [("local", [1]), ("others", [0]), ("global", []), (None, [])])
async def test_signing_out_ends_the_sessions_that_it_names(
    stack: Storage, scope: str | None, left: list[int]
) -> None:
    sessions = [await sign_in(stack) for _ in range(2)]
    path = "/logout" + (f"?scope={scope}" if scope else "")
    answer = await call(stack, "POST", path, sessions[0]["access_token"])
    assert (answer.status_code, answer.content) == (204, b"")
    known = [(await call(stack, "GET", "/user", each["access_token"])).status_code for each in sessions]
    assert known == [200 if number in left else 403 for number in range(2)]
    fresh = [(await refresh(stack, each["refresh_token"])).status_code for each in sessions]
    assert fresh == [200 if number in left else 400 for number in range(2)]


async def test_a_token_that_does_not_hold_names_nobody(stack: Storage) -> None:
    keys = stack.stack.keys
    nobody = keys.user_token("a0000000-0000-4000-8000-00000000ffff", "x@example.test")
    for token, status, code in (
        ("", 401, "no_authorization"),
        ("nonsense", 403, "bad_jwt"),
        (keys.anon_key, 403, "bad_jwt"),
        (keys.user_token("7", "x@example.test"), 403, "bad_jwt"),
        (keys.user_token(VIEWER_A, EMAIL, seconds=-60), 403, "bad_jwt"),
        (nobody, 403, "user_not_found"),
    ):
        answer = await call(stack, "GET", "/user", token, headers=NEW_API)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["x-supabase-api-version"] == "2024-01-01"


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("/token?grant_type=password", b"{}", "validation_failed"),
        ("/token?grant_type=password", b"{", "bad_json"),
        ("/token?grant_type=password", b"[]", "bad_json"),
        ("/token?grant_type=refresh_token", b"{}", "validation_failed"),
        ("/token?grant_type=magic", b"{}", "invalid_credentials"),
    ],
)
async def test_a_request_that_says_too_little_is_refused(
    stack: Storage, path: str, content: bytes, code: str
) -> None:
    answer = await call(stack, "POST", path, content=content)
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)


async def test_the_gateway_lets_nobody_sign_in_without_a_key(stack: Storage) -> None:
    answer = await call(stack, "POST", "/token?grant_type=password", json=PASSWORD, headers={"apikey": ""})
    assert (answer.status_code, answer.json()["message"]) == (401, "No API key found in request")


async def test_nobody_reads_sessions_over_the_api(stack: Storage) -> None:
    for table in ("sessions", "refresh_tokens", "users"):
        for role in ("anon", "authenticated", "service_role"):
            privilege = "select has_any_column_privilege(%s, %s, 'select')"
            assert await stack.value(privilege, role, f"auth.{table}") is False


async def test_faults_reach_sign_in_too(stack: Storage) -> None:
    stack.stack.faults.add_rest(RestFault("/auth/v1/token", "status", status=503, times=1))
    answers = [await call(stack, "POST", "/token?grant_type=password", json=PASSWORD) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [503, 200]


async def test_a_page_of_another_origin_may_ask_and_read_the_answer(stack: Storage) -> None:
    wish = {
        "Origin": "http://dashboard.example.test",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "apikey,authorization,x-upsert,content-profile",
    }
    async with httpx.AsyncClient(base_url=stack.stack.url, trust_env=False) as http:
        for path in ("/rest/v1/devices", "/storage/v1/object/device-images/a.jpg", "/auth/v1/token"):
            may = await http.options(path, headers=wish)
            assert may.status_code == 200
            assert may.headers["access-control-allow-origin"] == "*"
            assert "PATCH" in may.headers["access-control-allow-methods"]
            assert "x-upsert" in may.headers["access-control-allow-headers"]
            answer = await http.get(path, headers={"Origin": wish["Origin"]})
            assert answer.headers["access-control-allow-origin"] == "*"
