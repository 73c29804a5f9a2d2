"""Uploads are read as browsers and the clients' libraries write them."""

import base64

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.devstack.storage.errors import StorageError
from mqtt_service.devstack.storage.upload_body import parse_upload


def as_form(
    data: bytes, fields: dict[str, str], mime_type: str = "image/jpeg"
) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a form, as httpx writes it."""
    request = httpx.Request("POST", "http://x", data=fields, files={"file": ("a b.jpg", data, mime_type)})
    return dict(request.headers), request.read()


@given(st.binary() | st.sampled_from([b"\r\n", b"--", b"\r\n--\r\n\r\n"]))
def test_a_form_gives_back_any_bytes(data: bytes) -> None:
    assert parse_upload(*as_form(data, {})).data == data


def test_a_form_says_how_long_to_keep_the_file_and_what_goes_with_it() -> None:
    upload = parse_upload(*as_form(b"x", {"cacheControl": "60", "metadata": '{"device": "ä"}'}))
    assert (upload.mime_type, upload.cache_control, upload.user_metadata) == (
        "image/jpeg", "max-age=60", {"device": "ä"},
    )  # fmt: skip


def test_a_field_names_the_type_before_the_file_does() -> None:
    assert parse_upload(*as_form(b"x", {"contentType": "image/png"})).mime_type == "image/png"


def test_a_browsers_form_whose_file_has_no_name_of_a_field_is_read() -> None:
    body = (
        b'------b\r\nContent-Disposition: form-data; name="cacheControl"\r\n\r\n3600\r\n'
        b'------b\r\nContent-Disposition: form-data; name=""; filename="blob"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n\xff\xd8\r\n\xff\xd9\r\n------b--\r\n"
    )
    upload = parse_upload({"content-type": "multipart/form-data; boundary=----b"}, body)
    assert (upload.data, upload.mime_type, upload.cache_control) == (
        b"\xff\xd8\r\n\xff\xd9", "image/jpeg", "max-age=3600",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--b\r\n\r\n"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; filename=a"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--',
        ),
    ],
)
def test_a_form_without_a_file_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(StorageError) as refused:
        parse_upload({"content-type": content_type}, body)
    assert (refused.value.http_status, refused.value.status) == (400, 400)


@given(st.binary())
def test_a_form_that_is_no_form_is_refused_and_nothing_else_happens(body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=------never"}
    with pytest.raises(StorageError):
        parse_upload(headers, body)


@pytest.mark.parametrize(
    ("header", "metadata"),
    [
        (base64.b64encode(b'{"a": 1}').decode(), {"a": 1}),
        (base64.b64encode(b"[1]").decode(), {}),
        (base64.b64encode(b"\xff").decode(), {}),
        ("no base64", {}),
        ("", {}),
    ],
)
def test_any_other_body_is_the_file(header: str, metadata: dict[str, int]) -> None:
    upload = parse_upload({"content-type": "image/png", "x-metadata": header}, b"--b\r\n")
    assert (upload.data, upload.mime_type, upload.cache_control) == (b"--b\r\n", "image/png", "no-cache")
    assert upload.user_metadata == metadata


def test_a_body_without_a_type_is_of_any_type() -> None:
    assert parse_upload({}, b"x").mime_type == "application/octet-stream"
