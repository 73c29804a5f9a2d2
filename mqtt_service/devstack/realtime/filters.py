"""A subscription's `filter`, such as `status=eq.failed` or `site_id=in.(a,b)`: pure.

Several, separated by commas, must all hold. Null matches no filter, and neither does a column that a change
does not carry. The texts of errors are the real service's.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from mqtt_service.errors import RemoteProtocolError

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_MAX_IN_VALUES = 100
_NUMBERS = ("int2", "int4", "int8", "oid", "float4", "float8", "numeric")
_TIMES = ("timestamp", "timestamptz", "date")


class FilterError(RemoteProtocolError):
    """A filter that cannot be used; the message is what the subscriber is told."""


@dataclass(frozen=True)
class Filter:
    """One condition: `column`, one of the operators eq neq lt lte gt gte in, and what to compare with."""

    column: str
    operator: str
    values: tuple[str, ...]

    def check(self, type_name: str) -> None:
        """Raise FilterError unless each value can be read as `type_name` (as in pg_type.typname)."""
        for value in self.values:
            _read(value, type_name)

    def admits(self, text: str | None, type_name: str) -> bool:
        """Return whether a column's value, as Postgres writes it, satisfies the condition."""
        if text is None:
            return False
        try:
            actual = _read(text, type_name)
        except FilterError:
            return False  # infinity and its like, which compare with nothing here
        if self.operator == "in":
            return any(actual == _read(value, type_name) for value in self.values)
        return _COMPARISONS[self.operator](actual, _read(self.values[0], type_name))


def admits_all(filters: tuple[Filter, ...], row: Mapping[str, str | None], types: Mapping[str, str]) -> bool:
    """Return whether `row` satisfies every filter; `types` gives the type name of each column."""
    return all(
        each.column in types and each.admits(row.get(each.column), types[each.column]) for each in filters
    )


def parse_filters(text: str) -> tuple[Filter, ...]:
    """Read a `filter` string; empty is no filter. Raises FilterError."""
    if not text.strip():
        return ()
    return tuple(_parse_one(part.strip()) for part in _split(text.strip()))


def _parse_one(text: str) -> Filter:
    column, equals, condition = text.partition("=")
    name, dot, value = condition.partition(".")
    if not equals:
        raise _unreadable([text])
    if not dot:
        raise _unreadable([condition])
    if name == "in":
        return Filter(column, name, _parse_list(value))
    if name not in _COMPARISONS:
        raise _unreadable([name, value])
    return Filter(column, name, (_unquote(value),))


def _parse_list(text: str) -> tuple[str, ...]:
    if not (text.startswith("(") and text.endswith(")")):
        raise FilterError("Error parsing `filter` params: `in` filter value must be wrapped by parentheses")
    inner = text[1:-1]
    values = tuple(_unquote(value.strip()) for value in _split(inner)) if inner.strip() else ()
    if len(values) > _MAX_IN_VALUES:
        raise FilterError(f"too many values for `in` filter. Maximum {_MAX_IN_VALUES}")
    return values


def _unreadable(parts: list[str]) -> FilterError:
    shown = ", ".join(f'"{part}"' for part in parts)
    return FilterError(f"Error parsing `filter` params: [{shown}]")


_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|\([^()]*\)|,|[^",(]+|.', re.DOTALL)


def _split(text: str) -> list[str]:
    """Split at the commas that are neither quoted nor in parentheses."""
    parts = [""]
    for piece in _PIECE.findall(text):
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _unquote(text: str) -> str:
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    return text


def _read(text: str, type_name: str) -> Decimal | datetime | UUID | bool | str:
    """Return what compares as Postgres compares values of the type; text compares by code point."""
    try:
        if type_name in _NUMBERS:
            return _number(text)
        if type_name in _TIMES:
            return _instant(text)
        if type_name == "uuid":
            return UUID(text)
        if type_name == "bool":
            return _BOOLEANS[text.lower()]
    except (ValueError, InvalidOperation, KeyError) as error:
        raise FilterError(f'invalid input syntax for type {type_name}: "{text}"') from error
    return text


_BOOLEANS = {"t": True, "true": True, "f": False, "false": False}


def _number(text: str) -> Decimal:
    number = Decimal(text)
    if number.is_nan():
        raise ValueError("NaN has no order")
    return number


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
