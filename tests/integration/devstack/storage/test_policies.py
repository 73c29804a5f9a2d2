"""Policies rule Storage: what the devices' pictures let through, and what a project's own policies do."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from storage3.exceptions import StorageApiError

from tests.integration.devstack.storage.harness import (
    ADMIN_A,
    COMPANY_A,
    COMPANY_B,
    JPEG,
    PICTURE,
    UPSERT,
    VIEWER_A,
    VIEWER_B,
    Storage,
    refusal,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURE_A = f"{COMPANY_A}/site/device/2026-01-02/a.jpg"
PICTURE_B = f"{COMPANY_B}/site/device/2026-01-02/b.jpg"
UNASSIGNED = "unassigned/unassigned/device/2026-01-02/c.jpg"
ALL = [PICTURE_A, PICTURE_B, UNASSIGNED]


@pytest_asyncio.fixture(loop_scope="module")
async def pictures(storage: Storage) -> AsyncIterator[Storage]:
    """Storage with a picture of each company, and one of a device that nobody has mapped."""
    service = await storage.client()
    for name in ALL:
        await service.storage.from_("device-images").upload(name, name.encode(), JPEG)
    yield storage


async def readable(storage: Storage, user: str | None) -> list[str]:
    """Return which pictures somebody can download."""
    key = storage.stack.keys.user_token(user, "x@example.test") if user else storage.stack.keys.anon_key
    got = []
    for name in ALL:
        answer = await storage.request("GET", f"/object/device-images/{name}", key)
        if answer.status_code == 200:
            assert answer.content == name.encode()
            got.append(name)
        else:
            assert refusal(answer) == (400, "404", "not_found")
    return got


async def test_members_read_the_pictures_of_their_company_and_nobody_elses(pictures: Storage) -> None:
    for user in (VIEWER_A, ADMIN_A):
        assert await readable(pictures, user) == [PICTURE_A]
    assert await readable(pictures, VIEWER_B) == [PICTURE_B]
    assert await readable(pictures, "c0000000-0000-4000-8000-0000000000ff") == []
    assert await readable(pictures, None) == []


async def test_without_a_token_there_is_not_even_the_bucket(pictures: Storage) -> None:
    for path in (f"/object/device-images/{PICTURE_A}", f"/object/public/device-images/{PICTURE_A}"):
        assert refusal(await pictures.request("GET", path, key="")) == (400, "404", "Bucket not found")


async def test_members_sign_and_list_only_what_they_may_read(pictures: Storage) -> None:
    bucket = (await pictures.client(user=VIEWER_A)).storage.from_("device-images")
    mine, other = await bucket.create_signed_urls([PICTURE_A, PICTURE_B], 60)
    assert (mine["error"], other["signedUrl"]) == (None, None)
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(str(mine["signedUrl"]))).content == PICTURE_A.encode()
    assert [row["name"] for row in await bucket.list()] == [COMPANY_A]
    assert await bucket.list(f"{COMPANY_B}/site/device/2026-01-02") == []
    assert [await bucket.exists(name) for name in ALL] == [True, False, False]


@pytest.mark.parametrize("user", [VIEWER_A, ADMIN_A, None])
async def test_nobody_but_the_worker_writes_pictures(pictures: Storage, user: str | None) -> None:
    key = None if user else pictures.stack.keys.anon_key
    bucket = (await pictures.client(key, user)).storage.from_("device-images")
    new = f"{COMPANY_A}/new.jpg"
    before = pictures.files()

    async def refused(attempt: Any) -> tuple[str, str]:
        with pytest.raises(StorageApiError) as error:
            await attempt
        return str(error.value.status), error.value.code

    denied = ("403", "Unauthorized")
    assert await refused(bucket.upload(new, PICTURE, JPEG)) == denied
    assert await refused(bucket.upload(new, PICTURE, UPSERT)) == denied
    assert await refused(bucket.upload(PICTURE_A, PICTURE, UPSERT)) == denied
    assert await refused(bucket.update(PICTURE_A, PICTURE, JPEG)) == denied
    assert await refused(bucket.move(PICTURE_A, new)) == ("404", "not_found")
    assert await refused(bucket.copy(PICTURE_A, new)) == (denied if user else ("404", "not_found"))
    assert await bucket.remove([PICTURE_A]) == []
    assert sorted(await pictures.names("device-images")) == sorted(ALL)
    assert pictures.files() == before


async def test_nobody_but_the_service_sees_or_makes_buckets(storage: Storage) -> None:
    for key, user in ((None, ADMIN_A), (storage.stack.keys.anon_key, None)):
        buckets = (await storage.client(key, user)).storage
        assert await buckets.list_buckets() == []
        with pytest.raises(StorageApiError) as refused:
            await buckets.create_bucket("mine")
        assert (refused.value.status, refused.value.code) == ("403", "Unauthorized")
        for attempt in (buckets.get_bucket("things"), buckets.delete_bucket("shown")):
            with pytest.raises(StorageApiError) as gone:
                await attempt
            assert gone.value.status == "404"


OWN_POLICIES = """
create policy own_folder_new on storage.objects for insert to authenticated
  with check (bucket_id = 'things' and (storage.foldername(name))[1] = auth.uid()::text
    and storage.extension(name) = 'jpg' and storage.filename(name) <> 'no.jpg');
"""
MORE_POLICIES = """
create policy own_folder_read on storage.objects for select to authenticated
  using (bucket_id = 'things' and owner_id = auth.uid()::text);
create policy own_folder_change on storage.objects for update to authenticated
  using (bucket_id = 'things' and owner_id = auth.uid()::text)
  with check (bucket_id = 'things' and (storage.foldername(name))[1] = auth.uid()::text);
create policy own_folder_delete on storage.objects for delete to authenticated
  using (bucket_id = 'things' and owner_id = auth.uid()::text);
"""


async def test_each_right_is_asked_for_on_its_own(storage: Storage) -> None:
    """To create takes the right to insert; to replace also those to read and to update; as hosted."""
    bucket = (await storage.client(user=VIEWER_A)).storage.from_("things")
    other = (await storage.client(user=VIEWER_B)).storage.from_("things")
    mine = f"{VIEWER_A}/a.jpg"
    try:
        await storage.database.execute(OWN_POLICIES)
        await bucket.upload(mine, b"one", JPEG)
        for name in (f"{VIEWER_B}/a.jpg", "a.jpg", f"{VIEWER_A}/a.png", f"{VIEWER_A}/no.jpg"):
            with pytest.raises(StorageApiError, match="row-level security"):
                await bucket.upload(name, b"x", JPEG)
        with pytest.raises(StorageApiError, match="row-level security"):
            await bucket.upload(mine, b"two", UPSERT)
        with pytest.raises(StorageApiError, match="Object not found"):
            await bucket.download(mine)

        await storage.database.execute(MORE_POLICIES)
        assert await bucket.download(mine) == b"one"
        await bucket.upload(mine, b"two", UPSERT)
        assert await bucket.download(mine) == b"two"
        with pytest.raises(StorageApiError, match="row-level security"):
            await bucket.move(mine, f"{VIEWER_B}/a.jpg")
        await bucket.move(mine, f"{VIEWER_A}/b/c.jpg")
        assert await other.remove([f"{VIEWER_A}/b/c.jpg"]) == []
        assert len(await bucket.remove([f"{VIEWER_A}/b/c.jpg"])) == 1
    finally:
        for name in ("new", "read", "change", "delete"):
            await storage.database.execute(f"drop policy if exists own_folder_{name} on storage.objects")


async def test_the_parts_of_a_name_are_what_a_hosted_project_says(storage: Storage) -> None:
    query = """
        select array[
          array_to_string(storage.foldername(name), '|'), storage.filename(name), storage.extension(name)
        ]
        from (values (%s)) as names (name)
    """
    for name, parts in (
        ("a/b/c.d.jpg", ["a|b", "c.d.jpg", "jpg"]),
        ("c.jpg", ["", "c.jpg", "jpg"]),
        ("a.b/c", ["a.b", "c", "c"]),
        ("a/", ["a", "", ""]),
    ):
        assert await storage.value(query, name) == parts
