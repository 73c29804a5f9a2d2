"""The query strings, preferences, shapes and ranges of the REST interface."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.devstack.rest.errors import ApiError
from mqtt_service.devstack.rest.parse import parse_preferences, parse_query, parse_range, parse_shape
from mqtt_service.devstack.rest.request import (
    Column,
    Condition,
    Embed,
    Field,
    Group,
    Order,
    Preferences,
    Shape,
    Step,
    Window,
)


def test_a_select_has_columns_aliases_casts_and_places_in_json() -> None:
    query = parse_query([("select", 'id, full:"first name"::text, doc->a->>0')])
    assert query.select == (
        Column(Field("id")),
        Column(Field("first name"), alias="full", cast="text"),
        Column(Field("doc", (Step("a", as_text=False), Step(0, as_text=True)))),
    )


def test_embedded_resources_nest_and_carry_alias_hint_and_kind() -> None:
    query = parse_query([("select", "*,home:sites!site_fk!inner(name,programs(*)),plain()")])
    programs = Embed("programs", None, None, inner=False, items=(Column(Field("*")),))
    assert query.select == (
        Column(Field("*")),
        Embed("sites", "home", "site_fk", inner=True, items=(Column(Field("name")), programs)),
        Embed("plain", None, None, inner=False, items=()),
    )


def test_a_hyphen_belongs_to_a_name_and_an_arrow_does_not() -> None:
    query = parse_query([("select", "wake-up->at-once")])
    assert query.select == (Column(Field("wake-up", (Step("at-once", as_text=False),))),)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("eq.a.b,c", ("eq", False, "a.b,c", None)),
        ("not.gt.5", ("gt", True, "5", None)),
        ("eq.", ("eq", False, "", None)),
        ("is.NULL", ("is", False, "null", None)),
        ("like(any).{a*,b*}", ("like", False, "{a*,b*}", "any")),
        ('in.(1,"b,\\"c",)', ("in", False, ("1", 'b,"c', ""), None)),
        ("in.()", ("in", False, (), None)),
        ("isdistinct.x", ("isdistinct", False, "x", None)),
    ],
)
def test_a_filter_has_operator_negation_value_and_quantifier(
    value: str, expected: tuple[str, bool, str, None]
) -> None:
    [(path, one)] = parse_query([("a.b.col", value)]).filters
    assert path == ("a", "b")
    assert isinstance(one, Condition)
    assert (one.operator, one.negated, one.value, one.quantifier) == expected


def test_trees_of_conditions_nest() -> None:
    [(path, tree)] = parse_query(
        [("rel.not.or", '(a.eq.1,and(b.is.null,c.in.(1,2)),d.cs.{x,y},e.eq."p,q")')]
    ).filters
    inner = Group(
        "and",
        negated=False,
        members=(
            Condition(Field("b"), negated=False, operator="is", value="null"),
            Condition(Field("c"), negated=False, operator="in", value=("1", "2")),
        ),
    )
    assert path == ("rel",)
    assert tree == Group(
        "or",
        negated=True,
        members=(
            Condition(Field("a"), negated=False, operator="eq", value="1"),
            inner,
            Condition(Field("d"), negated=False, operator="cs", value="{x,y}"),
            Condition(Field("e"), negated=False, operator="eq", value="p,q"),
        ),
    )


def test_orders_have_direction_nulls_and_the_resource_they_are_of() -> None:
    query = parse_query([("order", "a.desc.nullslast,b,site(name).asc"), ("rel.order", "c.nullsfirst")])
    assert query.orders == {
        (): (
            Order(Field("a"), "desc", "nullslast"),
            Order(Field("b")),
            Order(Field("name"), "asc", relation="site"),
        ),
        ("rel",): (Order(Field("c"), nulls="nullsfirst"),),
    }


def test_limits_and_offsets_belong_to_a_resource_and_nonsense_is_passed_over() -> None:
    query = parse_query([("limit", "5"), ("offset", "7"), ("rel.limit", "1"), ("other.limit", "many")])
    assert query.windows == {(): Window(5, 7), ("rel",): Window(1)}


def test_a_call_by_get_takes_what_is_no_filter_as_an_argument() -> None:
    query = parse_query([("a", "1"), ("b", "eq.2"), ("select", "x")], is_call=True)
    assert query.arguments == (("a", "1"),)
    assert [one.field.name for _, one in query.filters if isinstance(one, Condition)] == ["b"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("select", "a,"),
        ("select", "a(b"),
        ("select", "a::"),
        ("select", "a->"),
        ("id", "5"),
        ("id", "in.1,2"),
        ("id", "is.something"),
        ("or", "a.eq.1"),
        ("or", "(a.eq.1"),
        ("order", "a.sideways"),
        ("a..b", "eq.1"),
    ],
)
def test_what_cannot_be_read_is_pgrst100_with_the_place(key: str, value: str) -> None:
    with pytest.raises(ApiError, match="failed to parse") as refused:
        parse_query([(key, value)])
    assert (refused.value.status, refused.value.code) == (400, "PGRST100")


_GRAMMAR = st.text(alphabet=st.sampled_from('ab1_ .,:()!*->"\\{}') | st.characters(), max_size=30)


@given(
    key=st.sampled_from(["select", "order", "or", "columns", "limit", "id", "a.b"]) | _GRAMMAR, value=_GRAMMAR
)
def test_any_text_is_read_or_refused_by_code(key: str, value: str) -> None:
    assert outcome(key, value) in {"read", "PGRST100", "PGRST123", "PGRST127"}


def outcome(key: str, value: str) -> str:
    try:
        parse_query([(key, value)])
    except ApiError as error:
        return error.code
    return "read"


def test_preferences_are_read_from_several_headers_and_the_first_counts() -> None:
    found = parse_preferences(["return=representation, count=exact", "return=minimal,missing=default"])
    assert found == Preferences(returning="representation", missing="default", count="exact")


def test_the_most_rows_to_be_affected_count_only_when_strict() -> None:
    assert parse_preferences(["max-affected=3"]).max_affected is None
    assert parse_preferences(["handling=strict", "max-affected=3"]).max_affected == 3


@pytest.mark.parametrize(
    ("accept", "shape"),
    [
        ("*/*", Shape()),
        ("text/html, application/json;q=0.9", Shape()),
        ("application/vnd.pgrst.object+json", Shape(single=True)),
        ("application/vnd.pgrst.object+json;nulls=stripped", Shape(single=True, strip_nulls=True)),
        ("application/vnd.pgrst.array+json;nulls=stripped", Shape(strip_nulls=True)),
    ],
)
def test_the_accept_header_gives_the_shape(accept: str, shape: Shape) -> None:
    assert parse_shape(accept) == shape


@pytest.mark.parametrize(
    ("header", "window", "expected"),
    [
        (None, Window(5, 1), Window(5, 1)),
        ("0-9", Window(), Window(10, 0)),
        ("5-", Window(), Window(None, 5)),
        ("5-", Window(8, 0), Window(3, 5)),
        ("2-3", Window(100, 1), Window(2, 2)),
        ("bytes=1", Window(7), Window(7)),
    ],
)
def test_a_range_header_narrows_the_window(header: str | None, window: Window, expected: Window) -> None:
    assert parse_range(header, window) == expected
