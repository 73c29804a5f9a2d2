"""Writing over the REST interface; each test finds the tables as new."""

import pytest
import pytest_asyncio
from postgrest import APIError
from postgrest.types import ReturnMethod
from supabase import AsyncClient

from tests.integration.devstack.rest.harness import ALICE, BOB, Rest, Row, rows

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPRESENTATION = {"Prefer": "return=representation"}


@pytest_asyncio.fixture(loop_scope="module")
async def rest(rest: Rest) -> Rest:
    await rest.reset()
    return rest


@pytest_asyncio.fixture(loop_scope="module")
async def client(rest: Rest) -> AsyncClient:
    return await rest.client()


async def farms(rest: Rest) -> dict[int, str]:
    cursor = await rest.database.execute("select id, name from public.farms")
    return {int(row[0]): str(row[1]) for row in await cursor.fetchall()}


async def test_an_inserted_row_comes_back_with_its_defaults_and_relations(client: AsyncClient) -> None:
    row = {"farm_id": 1, "area": 1.5}
    [back] = rows(await client.table("fields").insert(row).execute())
    assert back["id"] >= 100
    assert (back["label"], back["area"], back["soil"]) == ("unnamed", 1.5, None)


async def test_what_is_inserted_can_come_back_with_what_it_belongs_to(rest: Rest) -> None:
    answer = await rest.request(
        "POST",
        "/fields?select=label,farms!fields_farm_id_fkey(name)",
        json={"farm_id": 2, "label": "West"},
        headers=REPRESENTATION,
    )
    assert answer.status_code == 201
    assert answer.json() == [{"label": "West", "farms": {"name": "Birch"}}]


async def test_many_rows_with_different_keys_are_inserted_at_once(client: AsyncClient) -> None:
    new: list[Row] = [{"farm_id": 1, "label": "a"}, {"farm_id": 2, "area": 3}]
    plain = rows(await client.table("fields").insert(new).execute())
    filled = rows(await client.table("fields").insert(new, default_to_null=False).execute())
    assert [row["label"] for row in plain] == ["a", None]
    assert [row["label"] for row in filled] == ["a", "unnamed"]


async def test_many_rows_need_the_same_keys_unless_the_columns_are_named(rest: Rest) -> None:
    answer = await rest.request("POST", "/fields", json=[{"farm_id": 1}, {"label": "x"}])
    assert (answer.status_code, answer.json()["code"]) == (400, "PGRST102")
    assert answer.json()["message"] == "All object keys must match"


async def test_an_empty_object_inserts_defaults_and_an_empty_list_nothing(rest: Rest) -> None:
    await rest.database.execute("alter table public.fields alter column farm_id set default 3")
    one = await rest.request("POST", "/fields?select=farm_id", json={}, headers=REPRESENTATION)
    none = await rest.request("POST", "/fields", json=[], headers=REPRESENTATION)
    assert (one.status_code, one.json()) == (201, [{"farm_id": 3}])
    assert (none.status_code, none.json()) == (201, [])


async def test_an_upsert_merges_by_primary_key_or_by_the_columns_named(
    rest: Rest, client: AsyncClient
) -> None:
    await (
        client.table("farms")
        .upsert([{"id": 1, "name": "Ash", "owner": ALICE}, {"id": 9, "name": "Oak", "owner": BOB}])
        .execute()
    )
    assert await farms(rest) == {1: "Ash", 2: "Birch", 3: "Cedar", 9: "Oak"}
    row = {"id": 2, "name": "Birch", "owner": ALICE}
    await client.table("farms").upsert(row, on_conflict="name").execute()
    cursor = await rest.database.execute("select owner::text from public.farms where id = 2")
    assert await cursor.fetchone() == (ALICE,)


async def test_an_upsert_says_whether_it_made_something_new(rest: Rest) -> None:
    headers = {"Prefer": "resolution=merge-duplicates"}
    known = await rest.request("POST", "/crops", json={"id": 1, "name": "rye"}, headers=headers)
    new = await rest.request(
        "POST", "/crops", json=[{"id": 1, "name": "rye"}, {"id": 7, "name": "corn"}], headers=headers
    )
    assert (known.status_code, new.status_code) == (200, 201)


async def test_duplicates_can_be_left_alone(rest: Rest, client: AsyncClient) -> None:
    new: list[Row] = [{"id": 1, "name": "other", "owner": BOB}, {"id": 4, "name": "Dogwood", "owner": BOB}]
    back = rows(await client.table("farms").upsert(new, ignore_duplicates=True).execute())
    assert [row["id"] for row in back] == [4]
    assert (await farms(rest))[1] == "Alder"


async def test_an_update_changes_the_rows_of_the_filter_and_returns_them(client: AsyncClient) -> None:
    changed = await client.table("fields").update({"label": "new", "area": None}).gt("area", 5).execute()
    assert [(row["id"], row["label"], row["area"]) for row in rows(changed)] == [(1, "new", None)]


async def test_a_delete_removes_the_rows_of_the_filter_and_counts_them(rest: Rest) -> None:
    answer = await rest.request("DELETE", "/events?id=lte.30", headers={"Prefer": "count=exact"})
    assert (answer.status_code, answer.headers["Content-Range"], answer.content) == (204, "*/30", b"")


@pytest.mark.parametrize(("method", "verb"), [("PATCH", "UPDATE"), ("DELETE", "DELETE")])
async def test_a_change_of_everything_is_refused(rest: Rest, method: str, verb: str) -> None:
    answer = await rest.request(method, "/farms", json={"name": "x"})
    assert (answer.status_code, answer.json()["code"]) == (400, "21000")
    assert answer.json()["message"] == f"{verb} requires a WHERE clause"
    assert len(await farms(rest)) == 3


async def test_a_write_answers_with_nothing_the_location_or_the_rows(rest: Rest) -> None:
    minimal = await rest.request("POST", "/crops", json={"id": 3, "name": "corn"})
    located = await rest.request(
        "POST", "/crops", json={"id": 4, "name": "flax"}, headers={"Prefer": "return=headers-only"}
    )
    patched = await rest.request("PATCH", "/crops?id=eq.4", json={"name": "hemp"})
    assert (minimal.status_code, minimal.content) == (201, b"")
    assert (located.status_code, located.headers["Location"]) == (201, "/crops?id=eq.4")
    assert (patched.status_code, patched.headers["Content-Range"]) == (204, "0-0/*")


async def test_minimal_asks_for_no_right_to_read(rest: Rest) -> None:
    await rest.database.execute("grant insert on public.secrets to service_role")
    client = await rest.client()
    await client.table("secrets").insert({"id": 1}, returning=ReturnMethod.minimal).execute()
    with pytest.raises(APIError) as refused:
        await client.table("secrets").insert({"id": 2}).execute()
    assert refused.value.code == "42501"


async def test_more_than_one_row_where_one_was_asked_for_undoes_the_write(rest: Rest) -> None:
    headers = {"Accept": "application/vnd.pgrst.object+json", "Prefer": "return=representation"}
    answer = await rest.request("PATCH", "/farms?id=gt.1", json={"notes": {"x": 1}}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (406, "PGRST116")
    assert answer.json()["details"] == "The result contains 2 rows"
    cursor = await rest.database.execute("select count(*) from public.farms where notes ? 'x'")
    assert await cursor.fetchone() == (0,)


async def test_a_write_beyond_the_stated_size_is_undone(rest: Rest) -> None:
    headers = {"Prefer": "handling=strict, max-affected=10"}
    answer = await rest.request("DELETE", "/events?id=lt.100", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "PGRST124")
    cursor = await rest.database.execute("select count(*) from public.events")
    assert await cursor.fetchone() == (1200,)


async def test_policies_decide_what_a_person_may_write(rest: Rest) -> None:
    alice = await rest.client(rest.keys.publishable_key, ALICE)
    with pytest.raises(APIError) as refused:
        await alice.table("farms").insert({"id": 8, "name": "Elm", "owner": BOB}).execute()
    assert refused.value.code == "42501"
    others = await alice.table("farms").update({"name": "mine"}).eq("id", 2).execute()
    own = await alice.table("farms").update({"name": "mine"}).eq("id", 1).execute()
    assert rows(others) == []
    assert rows(own)[0]["name"] == "mine"
