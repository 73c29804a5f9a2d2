"""Objects through supabase-py and plain HTTP, and what is refused in the words of the real server."""

import asyncio
from typing import Any

import pytest
from storage3.exceptions import StorageApiError

from tests.integration.devstack.storage.harness import JPEG, PICTURE, UPSERT, Storage, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "data", [PICTURE, b"", b"\r\n", b"x" * 1_000_000], ids=["jpeg", "none", "line", "large"]
)
@pytest.mark.parametrize("name", ["a.jpg", "folder/with space/a (1).jpg"])
async def test_what_is_uploaded_comes_back_byte_for_byte(storage: Storage, name: str, data: bytes) -> None:
    bucket = (await storage.client()).storage.from_("things")
    kept = await bucket.upload(name, data, {**JPEG, "metadata": {"device": "7"}})
    assert (kept.path, kept.full_path) == (name, f"things/{name}")
    assert await bucket.download(name) == data
    info = await bucket.info(name)
    assert (info["name"], info["size"], info["content_type"], info["metadata"]) == (
        name, len(data), "image/jpeg", {"device": "7"},
    )  # fmt: skip


async def test_a_body_that_is_no_form_is_the_file_itself(storage: Storage) -> None:
    headers = {"Content-Type": "image/jpeg", "Cache-Control": "max-age=60", "x-metadata": "eyJhIjogMX0="}
    answer = await storage.request("POST", "/object/things/raw.jpg", content=PICTURE, headers=headers)
    assert answer.json()["Key"] == "things/raw.jpg"
    got = await storage.request("GET", "/object/authenticated/things/raw.jpg")
    assert (got.content, got.headers["content-type"], got.headers["cache-control"]) == (
        PICTURE, "image/jpeg", "max-age=60",
    )  # fmt: skip
    info = (await storage.request("GET", "/object/info/things/raw.jpg")).json()
    assert info["metadata"] == {"a": 1}


async def test_a_name_that_is_taken_is_refused_unless_the_upload_says_upsert(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.jpg", b"one", JPEG)
    with pytest.raises(StorageApiError) as refused:
        await bucket.upload("a.jpg", b"two", JPEG)
    assert (refused.value.status, refused.value.code) == ("409", "Duplicate")
    assert refused.value.message == "The resource already exists"
    assert await bucket.download("a.jpg") == b"one"
    await bucket.upload("a.jpg", b"three", UPSERT)
    assert await bucket.download("a.jpg") == b"three"
    plain = await storage.request("POST", "/object/things/a.jpg", content=b"four", headers=JPEG)
    assert refusal(plain) == (400, "409", "Duplicate")


async def test_an_update_takes_the_place_of_the_object_and_leaves_one_file(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.jpg", b"one", JPEG)
    before = await bucket.info("a.jpg")
    await bucket.update("a.jpg", b"two", JPEG)
    after = await bucket.info("a.jpg")
    assert await bucket.download("a.jpg") == b"two"
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
    assert after["etag"] != before["etag"]
    assert storage.files() == {after["version"]}


async def test_what_is_read_while_it_is_replaced_is_always_whole(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    pictures = [bytes([number]) * 200_000 for number in range(8)]
    await bucket.upload("a.jpg", pictures[0], JPEG)
    reading = [asyncio.create_task(bucket.download("a.jpg")) for _ in range(12)]
    await asyncio.gather(*(bucket.upload("a.jpg", picture, UPSERT) for picture in pictures))
    assert {await read for read in reading} <= set(pictures)
    assert await bucket.download("a.jpg") in pictures


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "a/./b.jpg", "..", "ä.jpg", "a\\b.jpg", "a%.jpg"]
)
async def test_a_name_that_leads_elsewhere_is_refused(storage: Storage, name: str) -> None:
    path = "/object/things/" + "".join(f"%{byte:02X}" for byte in name.encode())
    for method in ("POST", "PUT", "GET"):
        answer = await storage.request(method, path, content=b"x" if method != "GET" else None, headers=JPEG)
        assert refusal(answer) == (400, "400", "InvalidKey")
        assert answer.json()["message"] == f"Invalid key: {name}"
    for verb in ("move", "copy"):
        body = {"bucketId": "things", "sourceKey": "a.jpg", "destinationKey": name}
        assert refusal(await storage.request("POST", f"/object/{verb}", json=body)) == (
            400,
            "400",
            "InvalidKey",
        )


async def test_a_bucket_takes_no_more_bytes_and_no_other_types_than_it_says(storage: Storage) -> None:
    service = await storage.client()
    await service.storage.create_bucket(
        "narrow", options={"file_size_limit": 10, "allowed_mime_types": ["image/*", "text/csv"]}
    )
    bucket = service.storage.from_("narrow")
    await bucket.upload("a.png", b"0123456789", {"content-type": "image/png"})
    await bucket.upload("a.csv", b"0123456789", {"content-type": "text/csv"})
    with pytest.raises(StorageApiError) as large:
        await bucket.upload("b.png", b"01234567890", {"content-type": "image/png"})
    assert (large.value.status, large.value.code) == ("413", "Payload too large")
    with pytest.raises(StorageApiError) as wrong:
        await bucket.upload("b.txt", b"x", {"content-type": "text/plain"})
    assert (wrong.value.status, wrong.value.code) == ("415", "invalid_mime_type")
    assert wrong.value.message == "mime type text/plain is not supported"
    assert await storage.names("narrow") == ["a.csv", "a.png"]
    await service.storage.empty_bucket("narrow")
    await service.storage.delete_bucket("narrow")


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/object/things/none.jpg", None, (400, "404", "not_found")),
        ("GET", "/object/none/a.jpg", None, (400, "404", "Bucket not found")),
        ("POST", "/object/none/a.jpg", {}, (400, "404", "Bucket not found")),
        ("GET", "/object/info/things/none.jpg", None, (400, "404", "not_found")),
        ("POST", "/object/sign/things/none.jpg", {"expiresIn": 60}, (400, "404", "not_found")),
        ("POST", "/object/sign/things/none.jpg", {}, (400, "400", "Error")),
        ("POST", "/object/sign/things/none.jpg", {"expiresIn": 0}, (400, "400", "Error")),
        ("POST", "/object/sign/things", {"expiresIn": 60, "paths": []}, (400, "400", "Error")),
        ("POST", "/object/list/things", {}, (400, "400", "Error")),
        ("POST", "/object/list/things", {"prefix": "", "limit": 0}, (400, "400", "Error")),
        ("POST", "/object/list/things", {"prefix": "", "sortBy": {"column": "id"}}, (400, "400", "Error")),
        ("POST", "/object/list/things", [], (400, "400", "Error")),
        ("DELETE", "/object/things/none.jpg", None, (400, "404", "not_found")),
        ("DELETE", "/object/things", {"prefixes": []}, (400, "400", "Error")),
        (
            "POST",
            "/object/move",
            {"bucketId": "things", "sourceKey": "none.jpg", "destinationKey": "b.jpg"},
            (400, "404", "not_found"),
        ),
    ],
)
async def test_what_is_not_there_or_not_said_is_refused(
    storage: Storage, method: str, path: str, body: Any, expected: tuple[int, str, str]
) -> None:
    assert refusal(await storage.request(method, path, json=body)) == expected


async def test_a_form_without_a_file_is_refused(storage: Storage) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (b"", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--\r\n"):
        answer = await storage.request("POST", "/object/things/a.jpg", content=content, headers=headers)
        assert refusal(answer) == (400, "400", "InvalidRequest")


async def test_an_object_exists_or_not(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.jpg", PICTURE, JPEG)
    assert (await bucket.exists("a.jpg"), await bucket.exists("b.jpg")) == (True, False)
    there = await storage.request("HEAD", "/object/things/a.jpg")
    gone = await storage.request("HEAD", "/object/things/b.jpg")
    assert (there.status_code, there.headers["content-length"], there.content) == (
        200,
        str(len(PICTURE)),
        b"",
    )
    assert (gone.status_code, gone.content) == (400, b"")


async def test_a_picture_that_a_browser_has_already_is_not_sent_again(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.jpg", PICTURE, JPEG)
    tag = (await storage.request("GET", "/object/things/a.jpg")).headers["etag"]
    again = await storage.request("GET", "/object/things/a.jpg", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


async def test_a_page_is_shown_as_text_and_a_download_has_a_name(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.html", b"<script>", {"content-type": "text/html"})
    answer = await storage.request("GET", "/object/things/a.html?download=b c.html")
    assert answer.headers["content-type"].startswith("text/plain")
    assert (
        answer.headers["content-disposition"]
        == "attachment; filename=b%20c.html; filename*=UTF-8''b%20c.html"
    )


async def test_removed_objects_are_gone_and_so_are_their_files(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        await bucket.upload(name, PICTURE, JPEG)
    removed = await bucket.remove(["a.jpg", "b.jpg", "none.jpg"])
    assert sorted(row["name"] for row in removed) == ["a.jpg", "b.jpg"]
    assert await storage.names("things") == ["c.jpg"]
    assert len(storage.files()) == 1
    one = await storage.request("DELETE", "/object/things/c.jpg")
    assert one.json() == {"message": "Successfully deleted"}
    assert storage.files() == set()


async def test_a_moved_object_has_its_new_name_alone(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.jpg", PICTURE, JPEG)
    moved = await bucket.move("a.jpg", "f/b.jpg")
    assert (moved["message"], moved["Key"]) == ("Successfully moved", "f/b.jpg")
    assert await bucket.download("f/b.jpg") == PICTURE
    assert await storage.names("things") == ["f/b.jpg"]


async def test_a_copy_is_a_file_of_its_own_in_any_bucket(storage: Storage) -> None:
    service = await storage.client()
    bucket = service.storage.from_("things")
    await bucket.upload("a.jpg", PICTURE, {**JPEG, "metadata": {"device": "7"}})
    copied = await bucket.copy("a.jpg", "b.jpg")
    assert (copied["Key"], copied["name"]) == ("things/b.jpg", "b.jpg")
    body = {
        "bucketId": "things",
        "sourceKey": "a.jpg",
        "destinationBucket": "shown",
        "destinationKey": "c.jpg",
    }
    assert (await storage.request("POST", "/object/copy", json=body)).json()["Key"] == "shown/c.jpg"
    await bucket.remove(["a.jpg"])
    assert await bucket.download("b.jpg") == PICTURE
    assert await service.storage.from_("shown").download("c.jpg") == PICTURE
    assert (await bucket.info("b.jpg"))["metadata"] == {"device": "7"}


@pytest.mark.parametrize("verb", ["move", "copy"])
async def test_nothing_is_moved_or_copied_over_another_object(storage: Storage, verb: str) -> None:
    bucket = (await storage.client()).storage.from_("things")
    for name in ("a.jpg", "b.jpg"):
        await bucket.upload(name, name.encode(), JPEG)
    with pytest.raises(StorageApiError) as refused:
        await getattr(bucket, verb)("a.jpg", "b.jpg")
    assert (refused.value.status, refused.value.code) == ("409", "Duplicate")
    assert (await bucket.download("a.jpg"), await bucket.download("b.jpg")) == (b"a.jpg", b"b.jpg")
