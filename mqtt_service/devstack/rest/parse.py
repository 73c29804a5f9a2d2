"""Read a query string, the preferences and the wanted shape of a REST request. Pure.

Text in, frozen values out, or an ApiError. The dialect is that of PostgREST 14, less aggregate functions,
spread resources and full-text search, which are refused by name.
"""

import re
from collections.abc import Iterable
from typing import Any

from mqtt_service.devstack.rest.errors import ApiError, bad_query
from mqtt_service.devstack.rest.grammar import Reader
from mqtt_service.devstack.rest.request import (
    Field,
    Filter,
    Group,
    Order,
    Path,
    Preferences,
    Query,
    Shape,
    Window,
)

_RANGE = re.compile(r"(\d+)-(\d*)")
_ARRAYS = {"*/*", "application/*", "application/json", "application/vnd.pgrst.array+json"}
_OBJECTS = {"application/vnd.pgrst.object+json", "application/vnd.pgrst.object"}


def parse_query(pairs: Iterable[tuple[str, str]], *, is_call: bool = False) -> Query:
    """Return what the decoded pairs of a query string ask for.

    With `is_call`, for a function called by GET, a value that is no filter is an argument.
    """
    plain: dict[str, str] = {}
    filters: list[tuple[Path, Filter]] = []
    orders: dict[Path, tuple[Order, ...]] = {}
    windows: dict[Path, Window] = {}
    arguments: list[tuple[str, str]] = []
    for key, value in pairs:
        last = key.rpartition(".")[2]
        if key in {"select", "columns", "on_conflict"}:
            plain.setdefault(key, value)
        elif last in {"and", "or"}:
            filters.append(_parse_tree(key, value))
        elif last == "order":
            orders[_parse_path(key)[0]] = Reader("order", value).whole(Reader.order)
        elif last in {"limit", "offset"}:
            _set_window(windows, _parse_path(key)[0], last, value)
        elif is_call and not _is_filter(value):
            arguments.append((key, value))
        else:
            filters.append(_parse_condition(key, value))
    return Query(
        select=Reader("select parameter", plain.get("select", "*")).whole(Reader.select),
        filters=tuple(filters),
        orders=orders,
        windows=windows,
        columns=_parse_names("columns", plain["columns"]) if "columns" in plain else None,
        on_conflict=_parse_names("on_conflict", plain["on_conflict"]) if "on_conflict" in plain else (),
        arguments=tuple(arguments),
    )


def parse_preferences(headers: Iterable[str]) -> Preferences:
    """Return what the Prefer headers ask for; the first word on a subject counts."""
    words = [word.strip() for header in headers for word in header.split(",") if word.strip()]
    known: dict[str, str] = {}
    invalid = []
    for word in words:
        subject, _, value = word.partition("=")
        if not _is_preference(subject, value):
            invalid.append(word)
        else:
            known.setdefault(subject, value)
    values: dict[str, Any] = {
        "returning": known.get("return"),
        "resolution": known.get("resolution"),
        "missing": known.get("missing"),
        "count": known.get("count"),
    }
    strict = known.get("handling") == "strict"
    if strict and invalid:
        raise ApiError(
            400,
            "PGRST122",
            "Invalid preferences given with handling=strict",
            details=f"Invalid preferences: {', '.join(invalid)}",
        )
    most = int(known["max-affected"]) if strict and "max-affected" in known else None
    return Preferences(**values, max_affected=most)


def parse_shape(accept: str) -> Shape:
    """Return the form of body that the Accept header asks for. Raises ApiError (PGRST107)."""
    for wanted in accept.split(","):
        media_type, *parameters = (part.strip() for part in wanted.split(";"))
        strip_nulls = "nulls=stripped" in parameters
        if media_type in _OBJECTS:
            return Shape(single=True, strip_nulls=strip_nulls)
        if media_type in _ARRAYS:
            return Shape(strip_nulls=strip_nulls)
    raise ApiError(406, "PGRST107", f"None of these media types are available: {accept}")


def parse_range(header: str | None, window: Window) -> Window:
    """Return the part of `window` that the Range header leaves; one that makes no sense is ignored."""
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return window
    offset = max(window.offset, int(found[1]))
    ends = [] if window.limit is None else [window.offset + window.limit]
    ends += [int(found[2]) + 1] if found[2] else []
    return Window(min(ends) - offset if ends else None, offset)


def _parse_path(key: str) -> tuple[Path, Field]:
    return Reader("tree path", key).whole(Reader.tree_path)


def _parse_names(what: str, text: str) -> tuple[str, ...]:
    return Reader(f"{what} parameter", text).whole(Reader.names)


def _parse_condition(key: str, value: str) -> tuple[Path, Filter]:
    path, field = _parse_path(key)
    return path, Reader("filter", value).whole(lambda reader: reader.condition(field))


def _parse_tree(key: str, value: str) -> tuple[Path, Filter]:
    *path, operator = key.split(".")
    negation = "not." if "not" in path else ""
    tree = Reader("logic tree", f"{negation}{operator}{value}").whole(Reader.tree)
    if not isinstance(tree, Group):
        raise bad_query("logic tree", value, 1, 'expecting "("')
    return tuple(name for name in path if name != "not"), tree


def _set_window(windows: dict[Path, Window], path: Path, word: str, value: str) -> None:
    """Take a limit or an offset; what is no number is ignored, as by PostgREST."""
    if not re.fullmatch(r"-?\d+", value):
        return
    known = windows.get(path, Window())
    number = int(value)
    windows[path] = Window(number, known.offset) if word == "limit" else Window(known.limit, max(0, number))


def _is_filter(value: str) -> bool:
    try:
        Reader("filter", value).whole(lambda reader: reader.condition(Field("")))
    except ApiError:
        return False
    return True


def _is_preference(subject: str, value: str) -> bool:
    words = {
        "return": {"representation", "minimal", "headers-only"},
        "resolution": {"merge-duplicates", "ignore-duplicates"},
        "missing": {"default", "null"},
        "count": {"exact", "planned", "estimated"},
        "handling": {"strict", "lenient"},
    }
    return value in words.get(subject, ()) or (subject == "max-affected" and value.isdigit())
