"""Reading over the REST interface, with supabase-py where it has a word for it, else with plain requests."""

from typing import Any

import pytest
from postgrest.types import CountMethod

from tests.integration.devstack.rest.harness import ALICE, BOB, Rest, rows

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def read(rest: Rest, path: str, **options: Any) -> Any:
    response = await rest.request("GET", path, **options)
    assert response.is_success, response.text
    return response.json()


async def names(rest: Rest, query: str) -> list[str]:
    return [row["name"] for row in await read(rest, f"/farms?select=name&order=name&{query}")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("id=eq.2", ["Birch"]),
        ("id=neq.2", ["Alder", "Cedar"]),
        ("id=not.eq.2", ["Alder", "Cedar"]),
        ("id=gt.1&id=lte.2", ["Birch"]),
        ("id=gte.2&id=lt.3", ["Birch"]),
        ("name=like.*e*", ["Alder", "Cedar"]),
        ("name=ilike.a*", ["Alder"]),
        ("name=match.^[AB]", ["Alder", "Birch"]),
        ("name=imatch.^[ab]", ["Alder", "Birch"]),
        ("name=like(any).{A*,C*}", ["Alder", "Cedar"]),
        ("id=in.(1,3)", ["Alder", "Cedar"]),
        ("id=in.()", []),
        ('name=in.("Alder","x,y")', ["Alder"]),
        ("id=not.in.(1,3)", ["Birch"]),
        ("tags=cs.{old}", ["Alder"]),
        ("tags=cd.{old,big,new}", ["Alder", "Birch", "Cedar"]),
        ("tags=ov.{new,big}", ["Alder", "Birch"]),
        ("notes=cs." + '{"size":{"ha":7}}', ["Birch"]),
        ("notes->size->>ha=eq.12", ["Alder"]),
        ("notes->kinds->>0=eq.dairy", ["Alder"]),
        ("notes->size=is.null", ["Cedar"]),
        ("notes->size=not.is.null", ["Alder", "Birch"]),
        ("or=(id.eq.1,name.eq.Cedar)", ["Alder", "Cedar"]),
        ("or=(and(id.gt.1,id.lt.3),tags.cs.{old,big})", ["Alder", "Birch"]),
        ("not.or=(id.eq.1,id.eq.2)", ["Cedar"]),
        ("and=(id.gte.2,not.or(name.eq.Cedar,id.in.(7,8)))", ["Birch"]),
        ("id=isdistinct.2", ["Alder", "Cedar"]),
        ("limit=1&offset=1", ["Birch"]),
    ],
)
async def test_a_filter_selects_the_rows(rest: Rest, query: str, expected: list[str]) -> None:
    assert await names(rest, query) == expected


async def test_columns_come_with_aliases_casts_and_places_in_json(rest: Rest) -> None:
    found = await read(
        rest, "/farms?id=eq.1&select=id::text,title:name,notes->size->ha,kind:notes->kinds->>-1"
    )
    assert found == [{"id": "1", "title": "Alder", "ha": 12, "kind": "grain"}]


async def test_times_are_iso_8601_with_an_offset_and_numbers_keep_their_digits(rest: Rest) -> None:
    response = await rest.request("GET", "/fields?select=area,farms!fields_farm_id_fkey(founded)&id=eq.1")
    assert '"area":10.50' in response.text
    assert response.json()[0]["farms"] == {"founded": "2020-02-29T10:00:00+00:00"}


async def test_orders_take_directions_nulls_and_columns_of_the_one_they_belong_to(rest: Rest) -> None:
    async def labels(order: str) -> list[str]:
        query = f"/fields?select=label,farms!fields_farm_id_fkey(name)&order={order}"
        return [row["label"] for row in await read(rest, query)]

    assert await labels("area.desc") == ["East", "North", "South, lower"]
    assert await labels("area.desc.nullslast") == ["North", "South, lower", "East"]
    assert await labels("area.asc.nullsfirst,id") == ["East", "South, lower", "North"]
    assert await labels("farms(name).desc,id.desc") == ["East", "South, lower", "North"]


async def test_embedded_resources_follow_foreign_keys_both_ways_and_through_a_junction(rest: Rest) -> None:
    found = await read(
        rest,
        "/farms?id=lte.2&order=id&select=name,fields!fields_farm_id_fkey(label,crops(name),parent_id(label))"
        "&fields.order=id.desc&fields.crops.order=name",
    )
    oats, rye = {"name": "oats"}, {"name": "rye"}
    assert found == [
        {
            "name": "Alder",
            "fields": [
                {"label": "South, lower", "crops": [], "parent_id": {"label": "North"}},
                {"label": "North", "crops": [oats, rye], "parent_id": None},
            ],
        },
        {"name": "Birch", "fields": [{"label": "East", "crops": [rye], "parent_id": None}]},
    ]


async def test_a_foreign_key_is_named_by_hint_constraint_or_column(rest: Rest) -> None:
    for name in (
        "tenant:farms!fields_tenant",
        "tenant:farms!rented_to",
        "tenant:rented_to",
        "tenant:fields_tenant",
    ):
        assert await read(rest, f"/fields?id=eq.2&select={name}(name)") == [{"tenant": {"name": "Birch"}}]


async def test_an_inner_embed_and_a_filter_on_it_drop_rows_and_count_right(rest: Rest) -> None:
    path = "/farms?select=name,fields!fields_farm_id_fkey!inner(label)&fields.area=gt.5"
    response = await rest.request("GET", path, headers={"Prefer": "count=exact"})
    assert response.json() == [{"name": "Alder", "fields": [{"label": "North"}]}]
    assert response.headers["Content-Range"] == "0-0/1"


async def test_rows_without_an_embedded_resource_can_be_asked_for(rest: Rest) -> None:
    path = "/farms?select=name,fields!fields_farm_id_fkey()&fields=is.null"
    response = await rest.request("GET", path, headers={"Prefer": "count=exact"})
    assert response.json() == [{"name": "Cedar"}]
    assert response.headers["Content-Range"] == "0-0/1"


async def test_supabase_py_reads_embeds_ranges_and_counts(rest: Rest) -> None:
    client = await rest.client()
    found = (
        await client.table("fields")
        .select("label, farms!fields_farm_id_fkey(name)", count=CountMethod.exact)
        .or_("area.gt.100,label.eq.East")
        .order("id")
        .range(0, 9)
        .execute()
    )
    assert found.data == [{"label": "East", "farms": {"name": "Birch"}}]
    assert found.count == 1


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("exact", 1200, 1200), ("planned", 1000, 1500), ("estimated", 1000, 1500)]
)
async def test_a_count_comes_with_the_rows_it_is_of(rest: Rest, kind: str, low: int, high: int) -> None:
    response = await rest.request("GET", "/events?limit=5", headers={"Prefer": f"count={kind}"})
    shown, _, total = response.headers["Content-Range"].partition("/")
    assert (response.status_code, shown) == (206, "0-4")
    assert low <= int(total) <= high


async def test_head_answers_the_count_and_no_rows(rest: Rest) -> None:
    client = await rest.client()
    answer = await client.table("events").select("*", count=CountMethod.exact, head=True).execute()
    assert (answer.count, answer.data) == (1200, [])


async def test_no_more_than_a_thousand_rows_come_back(rest: Rest) -> None:
    assert len(await read(rest, "/events?limit=5000")) == 1000
    assert len(await read(rest, "/events?offset=900")) == 300


async def test_the_range_header_is_understood(rest: Rest) -> None:
    response = await rest.request("GET", "/events?order=id&select=id", headers={"Range": "10-11"})
    assert response.json() == [{"id": 11}, {"id": 12}]
    assert response.headers["Content-Range"] == "10-11/*"


async def test_a_range_beyond_the_rows_is_416(rest: Rest) -> None:
    beyond = await rest.request("GET", "/farms?offset=9", headers={"Prefer": "count=exact"})
    negative = await rest.request("GET", "/farms?limit=-1")
    assert (beyond.status_code, beyond.json()["code"]) == (416, "PGRST103")
    assert (negative.status_code, negative.json()["code"]) == (416, "PGRST103")


async def test_one_object_is_asked_for_by_single(rest: Rest) -> None:
    client = await rest.client()
    assert (await client.table("farms").select("name").eq("id", 1).single().execute()).data == {
        "name": "Alder"
    }
    assert await client.table("farms").select("name").eq("id", 99).maybe_single().execute() is None


async def test_each_caller_sees_the_rows_of_its_role_and_person(rest: Rest) -> None:
    alice, bob = await rest.client(rest.keys.anon_key, ALICE), await rest.client(rest.keys.anon_key, BOB)
    service = await rest.client(rest.keys.secret_key)
    assert [row["id"] for row in rows(await alice.table("farms").select("id").execute())] == [1]
    assert [row["id"] for row in rows(await bob.table("farms").select("id").order("id").execute())] == [2, 3]
    assert len(rows(await service.table("farms").select("id").execute())) == 3


async def test_keys_that_are_empty_are_left_out_if_asked(rest: Rest) -> None:
    accept = {"Accept": "application/vnd.pgrst.array+json;nulls=stripped"}
    assert await read(rest, "/fields?id=eq.3&select=label,area", headers=accept) == [{"label": "East"}]
