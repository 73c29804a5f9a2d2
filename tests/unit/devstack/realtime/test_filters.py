"""Filters of subscriptions."""

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.devstack.realtime.filters import Filter, FilterError, admits_all, parse_filters

TYPES = {"n": "int4", "price": "numeric", "name": "text", "id": "uuid", "done": "bool", "at": "timestamptz"}
ID = "a0000000-0000-4000-8000-00000000000a"


@pytest.mark.parametrize(
    ("filter_", "row", "admitted"),
    [
        ("", {}, True),
        ("n=eq.10", {"n": "10"}, True),
        ("n=gt.9", {"n": "10"}, True),
        ("n=lt.9", {"n": "10"}, False),
        ("price=eq.1.50", {"price": "1.5"}, True),
        ("name=neq.a", {"name": "b"}, True),
        ("name=neq.a", {"name": None}, False),
        ("name=neq.a", {}, False),
        ("name=eq.a.b=c", {"name": "a.b=c"}, True),
        ('name=eq."a,b"', {"name": "a,b"}, True),
        ("name=in.(a,b)", {"name": "b"}, True),
        ('name=in.("a,b",c)', {"name": "a,b"}, True),
        ("name=in.(a,b)", {"name": "c"}, False),
        ("name=in.()", {"name": "c"}, False),
        ("n=in.(1, 2)", {"n": "2"}, True),
        (f"id=eq.{ID.upper()}", {"id": ID}, True),
        ("done=eq.true", {"done": "t"}, True),
        ("at=gte.2026-03-01T10:00:00Z", {"at": "2026-03-01 11:00:00+01"}, True),
        ("at=lt.2026-03-01", {"at": "2026-02-28 23:59:59.9+00"}, True),
        ("at=lt.2026-03-01", {"at": "infinity"}, False),
        ("n=gte.1,name=eq.a", {"n": "1", "name": "a"}, True),
        ("n=gte.1,name=eq.a", {"n": "1", "name": "b"}, False),
        ("unknown=eq.1", {"unknown": "1"}, False),
    ],
)
def test_a_row_is_admitted_if_every_condition_holds(
    filter_: str, row: dict[str, str | None], admitted: bool
) -> None:
    assert admits_all(parse_filters(filter_), row, TYPES) is admitted


@pytest.mark.parametrize(
    ("filter_", "reason"),
    [
        ("undefined", 'Error parsing `filter` params: ["undefined"]'),
        ("n=5", 'Error parsing `filter` params: ["5"]'),
        ("n=foo.hey", 'Error parsing `filter` params: ["foo", "hey"]'),
        ("n=in.1,2", "Error parsing `filter` params: `in` filter value must be wrapped by parentheses"),
        (f"n=in.({','.join(['1'] * 101)})", "too many values for `in` filter. Maximum 100"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused_in_the_services_words(filter_: str, reason: str) -> None:
    with pytest.raises(FilterError) as refused:
        parse_filters(filter_)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("value", "type_name"),
    [("many", "int4"), ("NaN", "numeric"), ("a", "uuid"), ("soon", "timestamptz"), ("perhaps", "bool")],
)
def test_a_value_of_another_type_is_refused(value: str, type_name: str) -> None:
    with pytest.raises(FilterError, match="invalid input syntax"):
        Filter("column", "eq", (value,)).check(type_name)


@given(st.integers(), st.integers(), st.sampled_from(["eq", "neq", "lt", "lte", "gt", "gte"]))
def test_numbers_compare_as_numbers(actual: int, wanted: int, name: str) -> None:
    compare = {"neq": operator.ne, "lte": operator.le, "gte": operator.ge}.get(name) or getattr(
        operator, name
    )
    assert Filter("n", name, (str(wanted),)).admits(str(actual), "int8") is compare(actual, wanted)


@given(st.text())
def test_any_text_is_filters_or_a_typed_error(text: str) -> None:
    try:
        parsed = parse_filters(text)
    except FilterError:
        return
    assert all(each.operator for each in parsed)
