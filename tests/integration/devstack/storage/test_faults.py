"""What tests may ask Storage to do wrong, and what is on disk after clients and servers that gave up."""

import asyncio
from pathlib import Path

import httpx
import pytest

from mqtt_service.devstack.faults import RestFault, RestKind
from tests.integration.devstack.realtime.harness import DEADLINE_SECONDS
from tests.integration.devstack.storage.harness import JPEG, PICTURE, Storage, running_storage

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPLOAD = "/storage/v1/object/things"


async def upload(storage: Storage, name: str, data: bytes = PICTURE) -> httpx.Response:
    return await storage.request("POST", f"/object/things/{name}", content=data, headers=dict(JPEG))


async def test_an_upload_can_be_answered_503_with_retry_after(storage: Storage) -> None:
    storage.stack.faults.add_rest(RestFault(UPLOAD, "status", status=503, retry_after=2, times=1))
    large = b"x" * 20_000_000  # far more than the sockets hold: the answer must not cut the client off
    refused = await upload(storage, "a.jpg", large)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert await storage.names("things") == []
    assert (await upload(storage, "a.jpg")).status_code == 200


@pytest.mark.parametrize(("kind", "kept"), [("lose_response", ["a.jpg"]), ("close", [])])
async def test_a_connection_can_be_closed_after_the_upload_or_before(
    storage: Storage, kind: RestKind, kept: list[str]
) -> None:
    storage.stack.faults.add_rest(RestFault(UPLOAD, kind, times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        await upload(storage, "a.jpg")
    assert await storage.names("things") == kept
    assert storage.files() == await storage.versions()


async def test_an_upload_can_be_answered_with_half_a_document(storage: Storage) -> None:
    storage.stack.faults.add_rest(RestFault(UPLOAD, "malformed", times=1))
    answer = await upload(storage, "a.jpg")
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()
    assert await storage.names("things") == ["a.jpg"]


async def test_an_upload_can_hang_until_the_faults_are_cleared(storage: Storage) -> None:
    storage.stack.faults.add_rest(RestFault(UPLOAD, "hang"))
    hanging = asyncio.create_task(upload(storage, "a.jpg"))
    with pytest.raises(httpx.ReadTimeout):
        await storage.request("POST", "/object/things/b.jpg", content=b"x", timeout=0.3)
    assert not hanging.done()
    storage.stack.faults.clear()
    with pytest.raises(httpx.RemoteProtocolError):
        await hanging
    assert await storage.names("things") == []


async def test_downloads_and_other_buckets_fail_only_when_they_match(storage: Storage) -> None:
    await upload(storage, "a.jpg")
    storage.stack.faults.add_rest(RestFault("/object/things/b", "status", status=500))
    assert (await storage.request("GET", "/object/things/a.jpg")).content == PICTURE
    assert (await storage.request("GET", "/object/things/b.jpg")).status_code == 500


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(storage: Storage) -> None:
    host, port = storage.stack.url.removeprefix("http://").split(":")
    head = (
        f"POST {UPLOAD}/a.jpg HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
        f"Authorization: Bearer {storage.stack.keys.service_role_key}\r\nContent-Length: 1000000\r\n\r\n"
    )
    for cut in (b"", PICTURE):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + cut)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await reader.read()  # until the server has let go
        writer.close()
        await writer.wait_closed()
    assert await storage.names("things") == []
    assert storage.files() == set()


async def test_refused_uploads_leave_no_file(storage: Storage) -> None:
    await upload(storage, "a.jpg")
    before = storage.files()
    await upload(storage, "a.jpg")
    await storage.request("POST", "/object/things/b.jpg", storage.stack.keys.anon_key, content=PICTURE)
    await storage.request(
        "POST", "/object/device-images/b.jpg", content=b"x" * 21_000_000, headers=dict(JPEG)
    )
    assert storage.files() == before


async def test_a_row_that_the_database_refuses_leaves_no_file(storage: Storage) -> None:
    await storage.database.execute(
        "create function public.fn_refuse() returns trigger language plpgsql as"
        " $$ begin raise check_violation; end $$;"
        " create trigger refuse before insert on storage.objects"
        " for each row when (new.version <> '1') execute function public.fn_refuse()"
    )
    try:
        answer = await upload(storage, "a.jpg")
    finally:
        await storage.database.execute("drop function public.fn_refuse cascade")
    assert answer.json()["error"] == "DatabaseError"
    assert await storage.names("things") == []
    assert storage.files() == set()


async def test_objects_outlive_a_restart_and_what_a_crash_left_does_not(tmp_path: Path) -> None:
    async with running_storage(tmp_path) as storage:
        bucket = (await storage.client()).storage.from_("device-images")
        await bucket.upload("a.jpg", PICTURE, JPEG)
        kept = storage.files()
        for name in ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000000.part"):
            (storage.stack.data_dir / "storage" / name).write_bytes(b"half")
    async with running_storage(tmp_path) as storage:
        assert storage.files() == kept
        assert await (await storage.client()).storage.from_("device-images").download("a.jpg") == PICTURE


async def test_an_object_whose_file_is_gone_is_not_found(storage: Storage) -> None:
    await upload(storage, "a.jpg")
    for name in storage.files():
        (storage.stack.data_dir / "storage" / name).unlink()
    answer = await storage.request("GET", "/object/things/a.jpg")
    assert (answer.status_code, answer.json()["statusCode"]) == (400, "404")
