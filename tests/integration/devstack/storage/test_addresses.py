"""Who may open an object by its address alone: public buckets, signed addresses, tokens."""

import httpx
import pytest

from tests.integration.devstack.storage.harness import JPEG, PICTURE, Storage, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_only_public_buckets_are_open_to_everybody(storage: Storage) -> None:
    service = await storage.client()
    for bucket in ("shown", "things"):
        await service.storage.from_(bucket).upload("a.jpg", PICTURE, JPEG)
    public = await service.storage.from_("shown").get_public_url("a.jpg")
    private = await service.storage.from_("things").get_public_url("a.jpg")
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(public)).content == PICTURE
        assert refusal(await http.get(private)) == (400, "404", "Bucket not found")
    for path in ("/object/shown/a.jpg", "/object/info/public/shown/a.jpg"):
        assert (await storage.request("GET", path, key="")).status_code == 200
    assert refusal(await storage.request("GET", "/object/things/a.jpg", key="")) == (
        400,
        "404",
        "Bucket not found",
    )


async def test_a_signed_address_opens_its_object_to_whoever_has_it(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("f/a b.jpg", PICTURE, JPEG)
    address = (await bucket.create_signed_url("f/a b.jpg", 60, {"download": "x.jpg"}))["signedUrl"]
    assert address is not None
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(address)
    assert (answer.status_code, answer.content) == (200, PICTURE)
    assert "filename=x.jpg" in answer.headers["content-disposition"]
    assert "cache-control" not in answer.headers


async def test_many_addresses_are_signed_at_once_and_the_unreadable_are_named(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.jpg", PICTURE, JPEG)
    good, bad = await bucket.create_signed_urls(["a.jpg", "none.jpg"], 60)
    assert (good["path"], good["error"]) == ("a.jpg", None)
    assert (bad["path"], bad["signedUrl"]) == ("none.jpg", None)
    assert bad["error"] == "Either the object does not exist or you do not have access to it"
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(str(good["signedUrl"]))).content == PICTURE


async def test_a_token_opens_nothing_after_its_end_nor_anything_else(storage: Storage) -> None:
    bucket, keys = (await storage.client()).storage.from_("things"), storage.stack.keys
    for name in ("a.jpg", "b.jpg"):
        await bucket.upload(name, PICTURE, JPEG)
    address = str((await bucket.create_signed_url("a.jpg", 60))["signedUrl"])
    good = address.partition("?token=")[2]
    expired = keys.sign({"url": "things/a.jpg", "scope": "download"}, -1)
    other_scope = keys.sign({"url": "things/a.jpg", "scope": "upload"}, 60)

    async def get(name: str, token: str) -> httpx.Response:
        return await storage.request("GET", f"/object/sign/things/{name}?token={token}", key="")

    assert (await get("a.jpg", good)).status_code == 200
    assert refusal(await get("b.jpg", good)) == (400, "400", "InvalidSignature")
    assert refusal(await get("a.jpg", other_scope)) == (400, "400", "InvalidSignature")
    assert refusal(await get("a.jpg", expired)) == (400, "400", "InvalidJWT")
    assert (await get("a.jpg", expired)).json()["message"] == '"exp" claim timestamp check failed'
    assert refusal(await get("a.jpg", good[:-3] + "abc")) == (400, "400", "InvalidJWT")
    assert refusal(await get("a.jpg", "nonsense")) == (400, "400", "InvalidJWT")
    none = await storage.request("GET", "/object/sign/things/a.jpg", key="")
    assert refusal(none) == (400, "400", "Error")


async def test_a_signed_address_is_no_key_to_the_rest_of_the_project(storage: Storage) -> None:
    bucket = (await storage.client()).storage.from_("things")
    await bucket.upload("a.jpg", PICTURE, JPEG)
    token = str((await bucket.create_signed_url("a.jpg", 60))["signedUrl"]).partition("?token=")[2]
    assert refusal(await storage.request("GET", "/object/things/a.jpg", key=token)) == (
        400,
        "404",
        "not_found",
    )


async def test_a_token_that_does_not_hold_is_refused(storage: Storage) -> None:
    keys = storage.stack.keys
    expired = keys.user_token("a0000000-0000-4000-8000-0000000000e1", "a@example.test", seconds=-1)
    for token, words in (
        (expired, '"exp" claim timestamp check failed'),
        (keys.anon_key[:-4] + "abcd", "signature verification failed"),
        ("nonsense", "Invalid Compact JWS"),
    ):
        answer = await storage.request("GET", "/bucket", key=token)
        assert refusal(answer) == (400, "403", "Unauthorized")
        assert answer.json()["message"] == words
    assert refusal(await storage.request("GET", "/bucket", key="")) == (400, "400", "Error")


async def test_the_opaque_keys_stand_for_their_roles(storage: Storage) -> None:
    keys = storage.stack.keys
    for key, buckets in (
        (keys.secret_key, ["device-images", "firmware", "shown", "things"]),
        (keys.publishable_key, []),
    ):
        headers = {"apikey": key}
        shown = await storage.request("GET", "/bucket", key=key, headers=headers)
        assert [bucket["id"] for bucket in shown.json()] == buckets
