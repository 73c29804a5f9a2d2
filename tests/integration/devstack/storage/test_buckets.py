"""Buckets, and lists of what stands in them."""

from typing import Any

import pytest
from storage3.exceptions import StorageApiError

from tests.integration.devstack.storage.harness import JPEG, PICTURE, Storage, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_bucket_is_made_changed_shown_emptied_and_deleted(storage: Storage) -> None:
    buckets = (await storage.client()).storage
    made = await buckets.create_bucket("new", options={"file_size_limit": 100})
    assert made == {"name": "new"}
    await buckets.update_bucket("new", {"public": True, "allowed_mime_types": ["image/png"]})
    bucket = await buckets.get_bucket("new")
    assert (bucket.public, bucket.file_size_limit, bucket.allowed_mime_types) == (True, 100, ["image/png"])
    assert [each.id for each in await buckets.list_buckets()] == [
        "device-images",
        "firmware",
        "new",
        "shown",
        "things",
    ]
    await buckets.from_("new").upload("a.png", b"x", {"content-type": "image/png"})
    with pytest.raises(StorageApiError) as refused:
        await buckets.delete_bucket("new")
    assert (refused.value.status, refused.value.message) == (
        "409",
        "The bucket you tried to delete is not empty",
    )
    await buckets.empty_bucket("new")
    assert await buckets.delete_bucket("new") == {"message": "Successfully deleted"}
    with pytest.raises(StorageApiError) as gone:
        await buckets.get_bucket("new")
    assert (gone.value.status, gone.value.code) == ("404", "Bucket not found")


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/bucket", {"name": "things"}, (400, "409", "Duplicate")),
        ("POST", "/bucket", {"name": "a/b"}, (400, "400", "Invalid Input")),
        ("POST", "/bucket", {"name": " a"}, (400, "400", "Invalid Input")),
        ("POST", "/bucket", {"name": ".."}, (400, "400", "Invalid Input")),
        ("POST", "/bucket", {}, (400, "400", "Error")),
        ("POST", "/bucket", {"name": "x", "public": "yes"}, (400, "400", "Error")),
        ("POST", "/bucket", {"name": "x", "file_size_limit": "10 feet"}, (400, "400", "InvalidRequest")),
        ("POST", "/bucket", {"name": "x", "file_size_limit": "51GB"}, (400, "413", "Payload too large")),
        ("POST", "/bucket", {"name": "x", "allowed_mime_types": ["jpeg"]}, (400, "415", "invalid_mime_type")),
        ("PUT", "/bucket/none", {"public": True}, (400, "404", "Bucket not found")),
        ("PUT", "/bucket/things", {}, (400, "400", "InvalidRequest")),
        ("DELETE", "/bucket/none", None, (400, "404", "Bucket not found")),
        ("POST", "/bucket/none/empty", {}, (400, "404", "Bucket not found")),
    ],
)
async def test_a_bucket_that_cannot_be_is_refused(
    storage: Storage, method: str, path: str, body: Any, expected: tuple[int, str, str]
) -> None:
    assert refusal(await storage.request(method, path, json=body)) == expected


async def test_the_devices_bucket_is_private_and_takes_pictures_up_to_its_limit(storage: Storage) -> None:
    bucket = await (await storage.client()).storage.get_bucket("device-images")
    assert (bucket.public, bucket.file_size_limit, bucket.allowed_mime_types) == (
        False, 20 * 1024 * 1024, ["image/jpeg"],
    )  # fmt: skip


async def names_of(storage: Storage, folder: str, **options: Any) -> list[str]:
    bucket = (await storage.client()).storage.from_("things")
    return [row["name"] for row in await bucket.list(folder, options)]  # type: ignore[arg-type]


async def test_a_list_shows_one_folder_and_its_folders_without_an_id(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    for name in ("a/2.jpg", "a/1.jpg", "a/b/3.jpg", "a/b/c/4.jpg", "ab.jpg", "0.jpg"):
        await bucket.upload(name, PICTURE, JPEG)
    root = await bucket.list()
    assert [row["name"] for row in root] == ["0.jpg", "a", "ab.jpg"]
    assert [row["id"] is None for row in root] == [False, True, False]
    assert root[0]["metadata"]["size"] == len(PICTURE)
    assert await names_of(storage, "a") == ["1.jpg", "2.jpg", "b"]
    assert await names_of(storage, "a/b/") == ["3.jpg", "c"]
    assert await names_of(storage, "none") == []


async def test_a_list_is_sorted_cut_and_searched(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    for name in ("f/b.jpg", "f/B2.jpg", "f/a.jpg", "f/z/x.jpg"):
        await bucket.upload(name, PICTURE, JPEG)
    assert await names_of(storage, "f") == ["a.jpg", "b.jpg", "B2.jpg", "z"]
    descending = {"column": "name", "order": "desc"}
    assert await names_of(storage, "f", sortBy=descending) == ["z", "B2.jpg", "b.jpg", "a.jpg"]
    by_age = {"column": "created_at", "order": "asc"}
    assert await names_of(storage, "f", sortBy=by_age) == ["z", "b.jpg", "B2.jpg", "a.jpg"]
    assert await names_of(storage, "f", limit=2, offset=1) == ["b.jpg", "B2.jpg"]
    assert await names_of(storage, "f", search="b") == ["b.jpg", "B2.jpg"]


async def test_a_name_with_wildcards_is_taken_as_it_is(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    for name in ("a_b/1.jpg", "axb/2.jpg"):
        await bucket.upload(name, PICTURE, JPEG)
    assert await names_of(storage, "a_b") == ["1.jpg"]
    assert await names_of(storage, "", search="a_") == ["a_b"]
