"""What a REST request asks for, as frozen values: the outcome of reading its query string and headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Path = tuple[str, ...]  # the names of the embedded resources from the root down; () is the root


@dataclass(frozen=True)
class Step:
    """One arrow into a JSON document: `->key`, or `->>key`, whose result is text."""

    key: str | int
    as_text: bool


@dataclass(frozen=True)
class Field:
    """A column, and a place in the JSON document that it holds."""

    name: str
    steps: tuple[Step, ...] = ()

    @property
    def output_name(self) -> str:
        """The key under which a result shows it: the last name on the way."""
        keys = [step.key for step in self.steps if isinstance(step.key, str)]
        return keys[-1] if keys else self.name


@dataclass(frozen=True)
class Column:
    """A column to return; the name `*` means all."""

    field: Field
    alias: str | None = None
    cast: str | None = None


@dataclass(frozen=True)
class Embed:
    """A related table to return inside each row; `inner` drops the rows that have none."""

    name: str
    alias: str | None
    hint: str | None
    inner: bool
    items: "tuple[Column | Embed, ...]"

    @property
    def key(self) -> str:
        """The name by which the rest of the request, and the result, speak of it."""
        return self.alias or self.name


@dataclass(frozen=True)
class Condition:
    """`field operator value`; a list of values for `in`."""

    field: Field
    negated: bool
    operator: str
    value: str | tuple[str, ...]
    quantifier: Literal["any", "all"] | None = None


@dataclass(frozen=True)
class Group:
    """Conditions joined by `and` or `or`."""

    operator: Literal["and", "or"]
    negated: bool
    members: "tuple[Condition | Group, ...]"


Filter = Condition | Group


@dataclass(frozen=True)
class Order:
    """One term of an order; `relation` names the embedded resource whose column it is."""

    field: Field
    direction: Literal["asc", "desc"] | None = None
    nulls: Literal["nullsfirst", "nullslast"] | None = None
    relation: str | None = None


@dataclass(frozen=True)
class Window:
    """Which rows of a result are wanted; `limit` None means all."""

    limit: int | None = None
    offset: int = 0

    def capped(self, most: int) -> "Window":
        """Return the window with at most `most` rows."""
        return Window(most if self.limit is None else min(self.limit, most), self.offset)


@dataclass(frozen=True)
class Query:
    """A query string."""

    select: tuple[Column | Embed, ...] = (Column(Field("*")),)
    filters: tuple[tuple[Path, Filter], ...] = ()
    orders: Mapping[Path, tuple[Order, ...]] = field(default_factory=lambda: MappingProxyType({}))
    windows: Mapping[Path, Window] = field(default_factory=lambda: MappingProxyType({}))
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Preferences:
    """The header Prefer."""

    returning: Literal["representation", "minimal", "headers-only"] | None = None
    resolution: Literal["merge-duplicates", "ignore-duplicates"] | None = None
    missing: Literal["default", "null"] | None = None
    count: Literal["exact", "planned", "estimated"] | None = None
    max_affected: int | None = None


@dataclass(frozen=True)
class Shape:
    """The form of the answer's body: an array or one object, with or without keys that are null."""

    single: bool = False
    strip_nulls: bool = False

    @property
    def media_type(self) -> str:
        """The Content-Type that says so."""
        if not self.single and not self.strip_nulls:
            return "application/json; charset=utf-8"
        kind = "object" if self.single else "array"
        stripped = ";nulls=stripped" if self.strip_nulls else ""
        return f"application/vnd.pgrst.{kind}+json{stripped}; charset=utf-8"


@dataclass(frozen=True)
class RestRequest:
    """All that a request says about what it wants."""

    method: str
    query: Query
    preferences: Preferences
    shape: Shape
    body: bytes

    @property
    def window(self) -> Window:
        """Which rows of the result are wanted."""
        return self.query.windows.get((), Window())
