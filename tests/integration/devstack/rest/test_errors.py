"""What the REST interface refuses, in PostgREST's codes and statuses, and the faults it can be asked for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from mqtt_service.devstack.faults import RestFault
from mqtt_service.devstack.keys import JwtKeys
from tests.integration.devstack.rest.harness import ALICE, Rest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def rest(rest: Rest) -> AsyncIterator[Rest]:
    yield rest
    rest.faults.clear()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "PGRST205"),
        ("GET", "/farms?select=nothing", None, 400, "42703"),
        ("GET", "/farms?nothing=eq.1", None, 400, "42703"),
        ("GET", "/farms?id=1", None, 400, "PGRST100"),
        ("GET", "/farms?select=id,,name", None, 400, "PGRST100"),
        ("GET", "/farms?or=(id.eq.1", None, 400, "PGRST100"),
        ("GET", "/farms?order=id.up", None, 400, "PGRST100"),
        ("GET", "/farms?id=eq.one", None, 400, "22P02"),
        ("GET", "/farms?select=id.sum()", None, 400, "PGRST123"),
        ("GET", "/farms?name=fts.x", None, 400, "PGRST127"),
        ("GET", "/farms?crops.id=eq.1", None, 400, "PGRST108"),
        ("GET", "/farms?select=*,crops(*)", None, 400, "PGRST200"),
        ("GET", "/farms?select=*,fields(*)", None, 300, "PGRST201"),
        ("GET", "/farms?select=id,fields!rented_to(id)&fields=eq.1", None, 400, "PGRST120"),
        ("GET", "/farms?select=id,fields!rented_to(id)&order=fields(id)", None, 400, "PGRST118"),
        ("PUT", "/farms?id=eq.1", {}, 405, "PGRST117"),
        ("GET", "/", None, 404, "PGRST126"),
        ("POST", "/farms", {"nothing": 1}, 400, "PGRST204"),
        ("POST", "/farms", {"id": 1, "name": "x", "owner": ALICE}, 409, "23505"),
        ("POST", "/fields", {"farm_id": 99}, 409, "23503"),
        ("DELETE", "/farms?id=eq.1", None, 409, "23503"),
        ("POST", "/farms", {"id": 8, "name": "", "owner": ALICE}, 400, "23514"),
        ("POST", "/farms", {"id": 8}, 400, "23502"),
        ("POST", "/fields", {"farm_id": 1, "soil": "gold"}, 400, "22P02"),
        ("GET", "/secrets", None, 403, "42501"),
        ("POST", "/rpc/nothing", {"a": 1}, 404, "PGRST202"),
        ("POST", "/rpc/add", {"a": 1, "c": 2}, 404, "PGRST202"),
        ("POST", "/rpc/add", {"b": 1}, 404, "PGRST202"),
        ("POST", "/rpc/fail", {"p_code": "P0001"}, 400, "P0001"),
        ("POST", "/rpc/fail", {"p_code": "40001"}, 500, "40001"),
        ("POST", "/rpc/fail", {"p_code": "40P01"}, 500, "40P01"),
        ("POST", "/rpc/fail", {"p_code": "55P03"}, 500, "55P03"),
        ("POST", "/rpc/fail", {"p_code": "PT418"}, 418, "PT418"),
        ("POST", "/rpc/fail", {"p_code": "57014"}, 500, "57014"),
    ],
)
async def test_a_refusal_has_postgrests_status_and_code(
    rest: Rest, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = await rest.request(method, path, json=body)
    error = answer.json()
    assert (answer.status_code, error["code"]) == (status, code), error
    assert set(error) == {"code", "details", "hint", "message"}


async def test_an_error_says_what_the_database_said(rest: Rest) -> None:
    error = (await rest.request("POST", "/rpc/fail", json={"p_code": "P0001"})).json()
    assert error == {"code": "P0001", "message": "no luck", "details": "the details", "hint": "the hint"}


async def test_a_name_that_is_nearly_right_gets_a_hint(rest: Rest) -> None:
    error = (await rest.request("GET", "/farm")).json()
    assert error["message"] == "Could not find the table 'public.farm' in the schema cache"
    assert error["hint"] == "Perhaps you meant the table 'public.farms'"


@pytest.mark.parametrize("path", ["/farms", "/rpc/add?a=1"])
async def test_who_is_not_signed_in_and_has_no_right_gets_401_and_others_403(rest: Rest, path: str) -> None:
    nobody = await rest.request("GET", path, rest.keys.anon_key)
    assert (nobody.status_code, nobody.json()["code"]) == (401, "42501")
    somebody = await rest.request(
        "GET",
        path.replace("farms", "crops"),
        rest.keys.anon_key,
        headers={"Authorization": f"Bearer {rest.keys.user_token(ALICE, 'a@example.test')}"},
    )
    assert (somebody.status_code, somebody.json()["code"]) == (403, "42501")


async def test_the_gateway_lets_nobody_through_without_a_key(rest: Rest) -> None:
    async with httpx.AsyncClient(base_url=rest.url, trust_env=False) as http:
        none = await http.get("/rest/v1/crops")
        wrong = await http.get("/rest/v1/crops", headers={"apikey": "sb_secret_guess"})
        in_url = await http.get("/rest/v1/crops", params={"apikey": rest.keys.anon_key})
    assert (none.status_code, none.json()["message"]) == (401, "No API key found in request")
    assert (wrong.status_code, wrong.json()["message"]) == (401, "Invalid API key")
    assert in_url.status_code == 200


@pytest.mark.parametrize(
    ("token", "code", "words"),
    [
        ("nonsense", "PGRST301", "Expected 3 parts in JWT; got 1"),
        (
            JwtKeys.generate().user_token(ALICE, "a@example.test"),
            "PGRST301",
            "No suitable key or wrong key type",
        ),
        (None, "PGRST303", "JWT expired"),
    ],
)
async def test_a_token_that_does_not_hold_is_refused(
    rest: Rest, token: str | None, code: str, words: str
) -> None:
    token = token or rest.keys.user_token(ALICE, "a@example.test", seconds=-60)
    answer = await rest.request("GET", "/crops", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (401, code, words)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_only_the_schema_public_is_there(rest: Rest) -> None:
    answer = await rest.request("GET", "/users", headers={"Accept-Profile": "auth"})
    assert (answer.status_code, answer.json()["code"]) == (406, "PGRST106")


async def test_a_media_type_that_is_not_made_here_is_refused(rest: Rest) -> None:
    answer = await rest.request("GET", "/farms", headers={"Accept": "text/csv"})
    assert (answer.status_code, answer.json()["code"]) == (406, "PGRST107")


async def test_a_body_that_is_no_json_is_refused(rest: Rest) -> None:
    for path in ("/farms", "/rpc/add"):
        answer = await rest.request(
            "POST", path, content=b'{"id":', headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "PGRST102")


async def test_preferences_nobody_knows_are_refused_when_strict(rest: Rest) -> None:
    lenient = await rest.request("GET", "/crops", headers={"Prefer": "colour=red"})
    strict = await rest.request("GET", "/crops", headers={"Prefer": "handling=strict, colour=red"})
    assert lenient.status_code == 200
    assert (strict.status_code, strict.json()["code"]) == (400, "PGRST122")


async def test_quotes_in_names_and_values_stay_what_they_are(rest: Rest) -> None:
    value = await rest.request("GET", "/farms", params={"name": "eq.'; drop table farms; --\\"})
    name = await rest.request("GET", "/farms", params={'"x"; drop table farms"': "eq.1"})
    cast = await rest.request("GET", "/farms", params={"select": "id::int); drop table farms"})
    assert (value.status_code, value.json()) == (200, [])
    assert {name.status_code, cast.status_code} == {400}
    assert (await rest.request("GET", "/farms?id=eq.1")).status_code == 200


async def test_a_connection_that_the_server_closed_costs_one_request(rest: Rest) -> None:
    await rest.request("GET", "/crops")
    await rest.database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'"
    )
    async with asyncio.timeout(15):
        first = await rest.request("GET", "/crops")
        while (await rest.request("GET", "/crops")).status_code != 200:
            pass
    assert (first.status_code, first.json()["code"]) == (503, "PGRST001")


async def test_a_fault_answers_503_with_retry_after_as_often_as_asked(rest: Rest) -> None:
    rest.faults.add_rest(RestFault("rpc/add", "status", status=503, retry_after=2, times=2))
    answers = [await rest.request("POST", "/rpc/add", json={"a": 1}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["Retry-After"] == "2"


async def test_a_lost_response_has_been_committed(rest: Rest) -> None:
    rest.faults.add_rest(RestFault("rpc/log_event", "lose_response", times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        await rest.request("POST", "/rpc/log_event", json={"p_id": 7001})
    cursor = await rest.database.execute("select count(*) from public.events where id = 7001")
    assert await cursor.fetchone() == (1,)


async def test_a_closed_connection_has_done_nothing(rest: Rest) -> None:
    rest.faults.add_rest(RestFault("rpc/log_event", "close", times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        await rest.request("POST", "/rpc/log_event", json={"p_id": 7002})
    cursor = await rest.database.execute("select count(*) from public.events where id = 7002")
    assert await cursor.fetchone() == (0,)


async def test_a_malformed_answer_is_no_json(rest: Rest) -> None:
    rest.faults.add_rest(RestFault("/crops", "malformed", times=1))
    answer = await rest.request("GET", "/crops")
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()


async def test_a_request_hangs_until_the_faults_are_cleared(rest: Rest) -> None:
    rest.faults.add_rest(RestFault("/crops", "hang"))
    hanging = asyncio.create_task(rest.request("GET", "/crops"))
    with pytest.raises(httpx.ReadTimeout):
        await rest.request("GET", "/crops", timeout=0.3)
    assert not hanging.done()
    rest.faults.clear()
    with pytest.raises(httpx.RemoteProtocolError):
        await hanging
    assert (await rest.request("GET", "/crops")).status_code == 200


async def test_faults_are_set_and_cleared_over_http(rest: Rest) -> None:
    async with httpx.AsyncClient(base_url=rest.url, trust_env=False) as http:
        rule = {"match": "crops", "kind": "status", "status": 500}
        await http.post("/devstack/v1/faults", json={"rest": [rule], "realtime": {"drop": True}})
        failed = await rest.request("GET", "/crops")
        shown = (await http.get("/devstack/v1/faults")).json()
        refused = await http.post("/devstack/v1/faults", json={"rest": [{"match": "x", "kind": "explode"}]})
        cleared = (await http.delete("/devstack/v1/faults")).json()
    assert failed.status_code == 500
    assert (shown["rest"][0]["kind"], shown["realtime"]["drop"]) == ("status", True)
    assert (refused.status_code, "write one of" in refused.json()["message"]) == (400, True)
    assert (cleared["rest"], cleared["realtime"]["drop"]) == ([], False)
