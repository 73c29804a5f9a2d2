"""Payloads as people write them."""

from typing import Any

import pytest

from mqtt_service.errors import UsageError
from mqtt_service.fleet.payload import read_payload


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("litres=2", 2),
        ("litres=2.5", 2.5),
        ("on=true", True),
        ("gone=null", None),
        ("image_name=image_001.jpg", "image_001.jpg"),
        ("code=007", "007"),
        ('text="30"', "30"),
        ('list=["a", 1]', ["a", 1]),
        ("cron=0 8,16 * * *", "0 8,16 * * *"),
        ("formula=a=b", "a=b"),
        ("empty=", ""),
        ("number=NaN", "NaN"),
    ],
)
def test_a_value_is_json_where_it_can_be_read_as_such_and_else_text(pair: str, value: Any) -> None:
    (found,) = read_payload([pair], None).values()
    assert found == value
    assert type(found) is type(value)


def test_an_object_is_taken_as_it_is() -> None:
    assert read_payload([], '{"litres": 2}') == {"litres": 2}
    assert read_payload([], None) == {}


@pytest.mark.parametrize(
    ("pairs", "text", "said"),
    [
        (["AA:BB"], None, "is not key=value"),
        (["=2"], None, "is not key=value"),
        (["a=1", "a=2"], None, "given twice"),
        (["a=1"], "{}", "not both"),
        ([], "[1]", "not an object"),
        ([], "{", "not JSON"),
        ([], '{"a": NaN}', "not JSON"),
    ],
)
def test_what_is_no_payload_is_refused_with_the_reason(pairs: list[str], text: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_payload(pairs, text)
