"""What Storage lets through: names, types, sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.devstack.storage.errors import StorageError
from mqtt_service.devstack.storage.validation import (
    MAX_OBJECT_BYTES,
    check_bucket_name,
    check_key,
    check_mime_type,
    check_mime_types,
    parse_size_limit,
)


@pytest.mark.parametrize("name", ["a", "a/b.jpg", "..a/b..", "a b/(1)+,;:@&=$!*'?.jpg", "a//b", "/a", "..."])
def test_these_are_names_of_objects(name: str) -> None:
    check_key(name)


@pytest.mark.parametrize(
    "name", ["", "..", ".", "a/..", "../a", "a/./b", "a\n", "a\\b", "ä", "a%2e", "a\0", "a#b", "~"]
)
def test_these_are_not(name: str) -> None:
    with pytest.raises(StorageError) as refused:
        check_key(name)
    assert refused.value.body["message"] == f"Invalid key: {name}"


@given(st.text(alphabet="./a", max_size=8))
def test_no_name_that_is_let_through_leads_upwards(name: str) -> None:
    try:
        check_key(name)
    except StorageError:
        assert not name or {".", ".."} & set(name.split("/"))
    else:
        assert ".." not in name.split("/")


@pytest.mark.parametrize("name", ["device-images", "a b", "x" * 100])
def test_these_are_names_of_buckets(name: str) -> None:
    check_bucket_name(name)


@pytest.mark.parametrize("name", ["", "a/b", " a", "a ", "..", ".", "x" * 101, "ä"])
def test_these_are_no_names_of_buckets(name: str) -> None:
    with pytest.raises(StorageError, match="Bucket name invalid"):
        check_bucket_name(name)


@pytest.mark.parametrize(
    ("mime_type", "allowed"),
    [("image/jpeg", ["image/jpeg"]), ("image/jpeg", ["text/csv", "image/*"]), ("x", []), ("x", None)],
)
def test_a_type_that_is_allowed_passes(mime_type: str, allowed: list[str] | None) -> None:
    check_mime_type(mime_type, allowed)


@pytest.mark.parametrize("mime_type", ["image/png", "image/jpeg;x=y", "jpeg", "imagex/jpeg", ""])
def test_any_other_type_is_refused(mime_type: str) -> None:
    with pytest.raises(StorageError) as refused:
        check_mime_type(mime_type, ["image/jpeg"])
    assert (refused.value.http_status, refused.value.status) == (400, 415)


def test_a_buckets_types_are_types() -> None:
    check_mime_types(["image/jpeg", "image/*", "text/plain; charset=utf-8", "*"])
    for wrong in ("jpeg", "image/", "image/jpeg, image/png", ""):
        with pytest.raises(StorageError):
            check_mime_types([wrong])


@pytest.mark.parametrize(
    ("value", "size"),
    [(7, 7), ("7b", 7), ("1.5KB", 1500), ("20mb", 20_000_000), (MAX_OBJECT_BYTES, MAX_OBJECT_BYTES)],
)
def test_a_limit_is_a_number_or_a_number_with_a_unit(value: int | str, size: int) -> None:
    assert parse_size_limit(value) == size


@pytest.mark.parametrize(
    ("value", "status"),
    [(MAX_OBJECT_BYTES + 1, 413), ("1gb", 413), ("1", 400), ("1 mb", 400), ("-1mb", 400), ("", 400)],
)
def test_any_other_limit_is_refused(value: int | str, status: int) -> None:
    with pytest.raises(StorageError) as refused:
        parse_size_limit(value)
    assert refused.value.status == status
