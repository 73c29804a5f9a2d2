"""The grammar inside the values of a PostgREST query string: names, selects, filters, trees, orders. Pure."""

import re
from collections.abc import Callable
from typing import Literal, NoReturn, TypeVar, cast

from mqtt_service.devstack.rest.errors import ApiError, bad_query, not_supported
from mqtt_service.devstack.rest.request import (
    Column,
    Condition,
    Embed,
    Field,
    Filter,
    Group,
    Order,
    Path,
    Step,
)

_NAME = re.compile(r"[\w $]+(?:-(?!>)[\w $]+)*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_QUOTED_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"(?=[,)]|\Z)', re.DOTALL)
_JSON_KEY = re.compile(r"[^(\-:.,>)]+(?:-(?!>)[^(\-:.,>)]+)*")
_JSON_INDEX = re.compile(r"-?\d+(?=->|::|[.,)]|\Z)")
_CAST = re.compile(r"[\w $]+")
_ELEMENT = re.compile(r"[^,)]*")
_ARRAY = re.compile(r"\{[^{}]*\}")
_ANYTHING = re.compile(r".*", re.DOTALL)
_PLAIN_OPERATOR = re.compile(r"(neq|cs|cd|ov|sl|sr|nxr|nxl|adj|isdistinct)\.")
_QUANTIFIED_OPERATOR = re.compile(r"(eq|gte|gt|lte|lt|like|ilike|match|imatch)(?:\((any|all)\))?\.")
_FULL_TEXT = re.compile(r"(?:fts|plfts|phfts|wfts)[.(]")
_IS = re.compile(r"(?:null|not_null|true|false|unknown)(?=[,)]|\Z)", re.IGNORECASE)
_AGGREGATE = re.compile(r"(?:(?:[\w$]+\.)?(?:count|sum|avg|max|min))\(\)")
_DIRECTION = re.compile(r"\.(asc|desc)(?=[.,]|\Z)")
_NULLS = re.compile(r"\.(nullsfirst|nullslast)")

_Thing = TypeVar("_Thing")


class Reader:
    """A text and a place in it; each method reads one thing of the grammar from there on.

    `what` names the text in the message of the error (PGRST100) that is raised where it cannot be read.
    """

    def __init__(self, what: str, text: str) -> None:
        self._what = what
        self._text = text
        self._at = 0

    def whole(self, rule: Callable[["Reader"], _Thing]) -> _Thing:
        """Return what `rule` reads, which must be all there is."""
        result = rule(self)
        if self._at < len(self._text):
            self._fail("expecting end of input")
        return result

    def tree_path(self) -> tuple[Path, Field]:
        """Read `embedded.resource.column->>key`."""
        names = [self._name()]
        while self._skip("."):
            names.append(self._name())
        return tuple(names[:-1]), Field(names[-1], self._steps())

    def names(self) -> tuple[str, ...]:
        """Read a list of names."""
        return self._list(Reader._name)

    def select(self) -> tuple[Column | Embed, ...]:
        """Read the list of what to return; it may be empty."""
        if self._at == len(self._text) or self._text[self._at] == ")":
            return ()
        return self._list(Reader._item)

    def order(self) -> tuple[Order, ...]:
        """Read the terms of an order."""
        return self._list(Reader._order_term)

    def condition(self, field: Field, *, nested: bool = False) -> Condition:
        """Read `not.operator.value`; `nested` in a tree, a comma or a bracket ends the value."""
        negated = self._skip("not.")
        if self._skip("in."):
            return Condition(field, negated, "in", self._elements())
        if self._skip("is."):
            return Condition(field, negated, "is", self._match(_IS, "null, not_null, true or false").lower())
        if _FULL_TEXT.match(self._text, self._at):
            raise not_supported("Full-text search")
        quantified = _QUANTIFIED_OPERATOR.match(self._text, self._at)
        found = quantified or _PLAIN_OPERATOR.match(self._text, self._at)
        if found is None:
            self._fail('expecting "not" or operator (eq, gt, ...)')
        self._at = found.end()
        quantifier = cast('Literal["any", "all"] | None', quantified[2] if quantified else None)
        value = self._nested_value() if nested else self._match(_ANYTHING, "a value")
        return Condition(field, negated, found[1], value, quantifier)

    def tree(self) -> Filter:
        """Read `and(…)`, `or(…)`, their negations, or one condition."""
        start = self._at
        negated = self._skip("not.")
        for operator in ("and", "or"):
            if self._skip(f"{operator}("):
                members = self._list(Reader.tree)
                self._expect(")")
                return Group(operator, negated, members)
        self._at = start
        field = self._field()
        self._expect(".")
        return self.condition(field, nested=True)

    def _item(self) -> Column | Embed:
        if self._text.startswith("...", self._at):
            raise not_supported("Spread embedded resources")
        if self._skip("*"):
            return Column(Field("*"))
        alias = self._alias()
        if _AGGREGATE.match(self._text, self._at):
            raise ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")
        name = self._name()
        if self._peek() in {"!", "("}:
            return self._embed(name, alias)
        steps = self._steps()
        type_name = self._match(_CAST, "a type").strip() if self._skip("::") else None
        return Column(Field(name, steps), alias, type_name)

    def _embed(self, name: str, alias: str | None) -> Embed:
        hint, inner = None, False
        while self._skip("!"):
            word = self._name()
            inner = inner or word == "inner"
            hint = hint if word in {"inner", "left"} else word
        self._expect("(")
        items = self.select()
        self._expect(")")
        return Embed(name, alias, hint, inner, items)

    def _alias(self) -> str | None:
        start = self._at
        if self._peek() == '"' or _NAME.match(self._text, start):
            name = self._name()
            if self._peek() == ":" and not self._text.startswith("::", self._at):
                self._at += 1
                return name
        self._at = start
        return None

    def _order_term(self) -> Order:
        field, relation = self._field(), None
        if self._skip("("):
            relation, field = field.name, self._field()
            self._expect(")")
        direction = _DIRECTION.match(self._text, self._at)
        self._at = direction.end() if direction else self._at
        nulls = _NULLS.match(self._text, self._at)
        self._at = nulls.end() if nulls else self._at
        return Order(
            field,
            cast('Literal["asc", "desc"] | None', direction and direction[1]),
            cast('Literal["nullsfirst", "nullslast"] | None', nulls and nulls[1]),
            relation,
        )

    def _elements(self) -> tuple[str, ...]:
        self._expect("(")
        elements = [self._element()]
        while self._skip(","):
            elements.append(self._element())
        self._expect(")")
        return () if elements == [""] else tuple(elements)

    def _element(self) -> str:
        quoted = _QUOTED_VALUE.match(self._text, self._at)
        if quoted is None:
            return self._match(_ELEMENT, "a value")
        self._at = quoted.end()
        return _unescape(quoted[1])

    def _nested_value(self) -> str:
        if _ARRAY.match(self._text, self._at):
            return self._match(_ARRAY, "an array")
        return self._element()

    def _field(self) -> Field:
        return Field(self._name(), self._steps())

    def _name(self) -> str:
        quoted = _QUOTED.match(self._text, self._at)
        if quoted is None:
            return self._match(_NAME, 'field name (* or [a..z0..9_$]) or "quoted name"').strip()
        self._at = quoted.end()
        return _unescape(quoted[1])

    def _steps(self) -> tuple[Step, ...]:
        steps = []
        while self._skip("->"):
            as_text = self._skip(">")
            index = _JSON_INDEX.match(self._text, self._at)
            quoted = _QUOTED.match(self._text, self._at)
            if index is not None:
                self._at = index.end()
                steps.append(Step(int(index[0]), as_text))
            elif quoted is not None:
                self._at = quoted.end()
                steps.append(Step(_unescape(quoted[1]), as_text))
            else:
                steps.append(Step(self._match(_JSON_KEY, "a key or an index").strip(), as_text))
        return tuple(steps)

    def _list(self, rule: Callable[["Reader"], _Thing]) -> tuple[_Thing, ...]:
        self._skip_blanks()
        things = [rule(self)]
        self._skip_blanks()
        while self._skip(","):
            self._skip_blanks()
            things.append(rule(self))
            self._skip_blanks()
        return tuple(things)

    def _match(self, pattern: re.Pattern[str], expected: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(f"expecting {expected}")
        self._at = found.end()
        return found[0]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _skip_blanks(self) -> None:
        while self._peek() in {" ", "\t"}:
            self._at += 1

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            self._fail(f'expecting "{text}"')

    def _fail(self, expected: str) -> NoReturn:
        found = f'"{self._peek()}"' if self._peek() else "end of input"
        raise bad_query(self._what, self._text, self._at + 1, f"unexpected {found} {expected}")


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
