"""Calling functions over the REST interface."""

import asyncio
from typing import cast

import httpx
import pytest
from postgrest import APIError
from supabase import Client, ClientOptions, create_client

from tests.integration.devstack.rest.harness import Rest, Row, rows

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_arguments_have_names_and_defaults(rest: Rest) -> None:
    client = await rest.client()
    assert (await client.rpc("add", {"a": 1}).execute()).data == 11
    assert (await client.rpc("add", {"b": 2, "a": 1}).execute()).data == 3
    assert (await client.rpc("add", {"a": 1, "b": 2}, get=True).execute()).data == 3


async def test_overloads_are_told_apart_by_the_names_of_the_arguments(rest: Rest) -> None:
    client = await rest.client()
    assert (await client.rpc("describe", {"p_name": "x", "p_loud": True}).execute()).data == "X"
    described = (await client.rpc("describe", {"p_id": 7}).execute()).data
    assert described == {"id": 7, "role": "service_role", "method": "POST"}


async def test_overloads_that_fit_alike_are_refused(rest: Rest) -> None:
    answer = await rest.request("POST", "/rpc/twins", json={"x": 1})
    assert (answer.status_code, answer.json()["code"]) == (300, "PGRST203")


async def test_rows_of_a_table_take_filters_orders_limits_and_embeds(rest: Rest) -> None:
    client = await rest.client()
    call = client.rpc("farms_named", {"p_pattern": "e"}).select("name,fields!fields_farm_id_fkey(label)")
    found = (await call.lt("id", 3).order("name").limit(1).execute()).data
    assert found == [{"name": "Alder", "fields": [{"label": "North"}, {"label": "South, lower"}]}]


async def test_each_kind_of_result_has_its_form(rest: Rest) -> None:
    async def call(path: str) -> object:
        return (await rest.request("GET", f"/rpc/{path}")).json()

    assert await call("one_farm?p_id=2&select=name") == {"name": "Birch"}
    assert await call("squares?p_count=2") == [{"n": 1, "square": 1}, {"n": 2, "square": 4}]
    assert await call("squares?p_count=5&square=gt.9&order=n.desc") == [
        {"n": 5, "square": 25},
        {"n": 4, "square": 16},
    ]
    assert await call("numbers?p_count=3") == [1, 2, 3]
    assert await call("total?numbers=1&numbers=2") == 3


async def test_a_function_of_one_unnamed_document_takes_the_whole_body(rest: Rest) -> None:
    answer = await rest.request("POST", "/rpc/echo", json={"any": ["thing", 1.50]})
    assert answer.json() == {"any": ["thing", 1.5]}


async def test_void_answers_204_and_has_happened(rest: Rest) -> None:
    answer = await rest.request("POST", "/rpc/log_event", json={"p_id": 5000})
    assert (answer.status_code, answer.content) == (204, b"")
    cursor = await rest.database.execute("select count(*) from public.events where id = 5000")
    assert await cursor.fetchone() == (1,)


async def test_one_object_is_asked_for_by_single(rest: Rest) -> None:
    client = await rest.client()
    one = await client.rpc("farms_named", {"p_pattern": "Birch"}).single().execute()
    assert cast("Row", one.data)["id"] == 2
    with pytest.raises(APIError) as refused:
        await client.rpc("farms_named", {"p_pattern": "."}).single().execute()
    assert (refused.value.code, refused.value.details) == ("PGRST116", "The result contains 3 rows")


async def test_a_result_is_cut_after_the_function_has_run(rest: Rest) -> None:
    client = await rest.client()
    taken = rows(await client.rpc("take_events", {"p_count": 1100}).execute())
    cursor = await rest.database.execute("select count(*) from public.events where id <= 1100")
    left = await cursor.fetchone()
    await rest.reset()
    assert len(taken) == 1000
    assert left == (0,)


async def test_get_may_not_change_anything(rest: Rest) -> None:
    answer = await rest.request("GET", "/rpc/log_event?p_id=1")
    assert (answer.status_code, answer.json()["code"]) == (405, "25006")


async def test_other_methods_are_refused(rest: Rest) -> None:
    answer = await rest.request("DELETE", "/rpc/add")
    assert (answer.status_code, answer.json()["code"]) == (405, "PGRST101")


async def test_a_function_made_after_the_first_request_is_found(rest: Rest) -> None:
    assert (await rest.request("GET", "/rpc/fresh")).status_code == 404
    await rest.database.execute("create function public.fresh() returns int language sql as 'select 5'")
    assert (await rest.request("GET", "/rpc/fresh")).json() == 5


async def test_a_function_that_changed_is_read_again_when_told(rest: Rest) -> None:
    await rest.database.execute(
        "create or replace function public.shape() returns int language sql as 'select 5'"
    )
    assert (await rest.request("GET", "/rpc/shape")).json() == 5
    await rest.database.execute("drop function public.shape()")
    await rest.database.execute("create function public.shape() returns setof int language sql as 'select 5'")
    await rest.database.execute("notify pgrst, 'reload schema'")
    assert (await rest.request("GET", "/rpc/shape")).json() == [5]


async def test_the_synchronous_client_works_too(rest: Rest) -> None:
    def talk() -> tuple[object, object]:
        with httpx.Client(trust_env=False) as http:
            options = ClientOptions(httpx_client=http, auto_refresh_token=False)
            client: Client = create_client(rest.url, rest.keys.service_role_key, options)
            added = client.rpc("add", {"a": 1, "b": 2}).execute().data
            return added, client.table("farms").select("name").eq("id", 1).execute().data

    assert await asyncio.to_thread(talk) == (3, [{"name": "Alder"}])
