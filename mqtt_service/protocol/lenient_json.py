"""What can be read of an object that is nearly JSON, as hand-written serialisers send it; linear, bounded.

Read only after a strict reader has failed. It says what was repaired, and leaves out what was cut off: a text
without its closing quote, a number or word with nothing behind it. It goes from left to right once and never
back: what it cannot read ends the reading. docs/decisions/lenient-json.md says why it is not a library.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Repair = Literal[
    "encoding",  # bytes that are no UTF-8 became U+FFFD
    "trailing_bytes",  # something stands behind the object
    "wrapped",  # the object is the first item of an array, or the text of a JSON string
    "control_character",  # one between two tokens, or raw in a text
    "nul",  # one between two tokens, or within a text: what was written may end there, and older bytes follow
    "quotes",  # 'single quotes'
    "escape",  # a backslash before what needs none
    "unquoted_key",
    "unquoted_text",
    "missing_comma",
    "trailing_comma",
    "extra_comma",
    "missing_value",  # a key with nothing behind its colon: null
    "constant",  # True, False, None, undefined: as the languages have them that write so
    "number",  # +5, 05, .5 and 5. as they are meant; nan, inf and what is too large: null
    "duplicate_key",  # the last value counts
    "cut_off",  # the message ends within the object
    "unreadable_rest",  # from some point on it is not JSON at all, or nested too deep
    "plain_text",  # a word instead of an object
    "unreadable",
    "too_large",
]


@dataclass(frozen=True, slots=True)
class Reading:
    """An object, what was repaired in it (nothing: it is JSON), and what stands behind it.

    `conflicts`: keys that one object has twice, with different values.
    """

    document: dict[str, Any]
    repairs: frozenset[Repair] = frozenset()
    conflicts: frozenset[str] = frozenset()
    rest: str = ""

    @property
    def complete(self) -> bool:
        """Whether the object was read to its closing brace."""
        return self.repairs.isdisjoint({"cut_off", "unreadable_rest"})


# RFC 8259, section 2: these four, and no other, may stand between two tokens.
JSON_BLANKS = " \t\n\r"
_BETWEEN = re.compile(r"[\x00-\x20\x7f\xa0\ufeff]*+")
_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]++|\\.)*+"|'(?:[^'\\]++|\\.)*+')
      | (?P<unclosed>["'])
      | (?P<mark>[{}\[\],:])
      | (?P<bare>[^\x00-\x20\x7f\xa0\ufeff,:{}\[\]"']++)""",
    re.DOTALL | re.VERBOSE,
)
_CONTROL = re.compile(r"[\x00-\x1f]")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})|\\(.)|"', re.DOTALL)
_INTEGER = re.compile(r"[+-]?[0-9]++")
_NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_NO_NUMBER = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None, "undefined": None}
_TEXT = json.JSONDecoder(strict=False)

_NOTHING = object()


def read_leniently(text: str, deepest: int) -> Reading | None:
    """The object that begins this text; None if none does. Nothing deeper than `deepest` is read."""
    reader = _Reader(text)
    kind = reader.look()
    if kind == "text":
        inner = _Reader(reader.take_text())
        inner.repairs |= reader.repairs
        reader, kind = inner, inner.look()
        reader.repairs.add("wrapped")
    elif kind == "[":
        reader.take()
        reader.repairs.add("wrapped")
        kind = reader.look()
    if kind != "{":
        return None
    document = reader.take_object(deepest)
    rest = "" if reader.stopped else reader.rest
    if rest.strip(JSON_BLANKS) not in ({"", "]"} if "wrapped" in reader.repairs else {""}):
        reader.repairs.add("trailing_bytes")
    return Reading(document, frozenset(reader.repairs), frozenset(reader.conflicts), rest)


class _Reader:
    """Reads values off a text. `stopped`: nothing more of it can be read; whoever asked keeps what it has."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._found: re.Match[str] | None = None
        self._began = False
        self.repairs: set[Repair] = set()
        self.conflicts: set[str] = set()
        self.stopped = False

    @property
    def rest(self) -> str:
        """What stands behind the token that was taken last."""
        return self._text[self._place :]

    def look(self) -> str:
        """The kind of the next token, which is not taken: a mark itself, text, bare, unclosed; "": none."""
        if self._found is None:
            between = _BETWEEN.match(self._text, self._place)
            if between is not None and between[0].strip(JSON_BLANKS):
                self.repairs.add("nul" if self._began and "\0" in between[0] else "control_character")
            self._place = between.end() if between is not None else self._place
            self._found = _TOKEN.match(self._text, self._place)
        if self._found is None:
            return ""
        kind = self._found.lastgroup or ""
        return self._found[0] if kind == "mark" else kind

    def take(self) -> str:
        """The next token; only after `look` has found one."""
        found, self._found = self._found, None
        if found is None:
            return ""
        self._place, self._began = found.end(), True
        return found[0]

    def take_text(self) -> str:
        """The next token, a text in quotes, without them."""
        quoted = self.take()
        if quoted[0] == "'":
            self.repairs.add("quotes")
        body = quoted[1:-1]
        if _CONTROL.search(body):
            self.repairs.add("nul" if "\0" in body.rstrip("\0") else "control_character")
        elif "\\" not in body and '"' not in body:
            return body
        unescaped: str = _TEXT.decode(f'"{_ESCAPE.sub(self._mend_escape, body)}"')
        return unescaped

    def take_object(self, depth: int) -> dict[str, Any]:
        """The object that begins here; a value behind which something stands that is no key is left out."""
        document: dict[str, Any] = {}
        key = None
        for is_apart in self._items("}"):
            key, previous = self._key(), key
            if key is None:
                if not is_apart and previous is not None:  # it may not have ended where it seems to
                    document.pop(previous, None)
                break
            value = self._value_of_key(depth - 1)
            if value is _NOTHING:
                break
            if key in document:
                self.repairs.add("duplicate_key")
                if type(document[key]) is not type(value) or document[key] != value:
                    self.conflicts.add(key)
            document[key] = value
        return document

    def _array(self, depth: int) -> list[Any]:
        items = []
        for _ in self._items("]"):
            value = self._value(depth - 1)
            if value is _NOTHING:
                break
            items.append(value)
        return items

    def _items(self, closing: str) -> Iterator[bool]:
        """Stop at the beginning of each item of the object or array that begins here.

        Yields whether it stands apart from the item before: by a comma, or since nothing comes.
        """
        self.take()
        after_comma, is_first = False, True
        while not self.stopped:
            kind = self.look()
            if kind == closing:
                self.take()
                if after_comma:
                    self.repairs.add("trailing_comma")
                return
            if kind == ",":
                self.take()
                if after_comma or is_first:
                    self.repairs.add("extra_comma")
                after_comma, is_first = True, False
                continue
            if not after_comma and not is_first and kind in {"text", "bare", "{", "["}:
                self.repairs.add("missing_comma")
            is_apart = after_comma or is_first or not kind
            after_comma = is_first = False
            yield is_apart

    def _key(self) -> str | None:
        """The key that comes next, and its colon."""
        kind, key = self.look(), None
        if kind == "text":
            key = self.take_text()
        elif kind == "bare":
            key = self.take()
            self.repairs.add("unquoted_key")
        if key is None or self.look() != ":":
            self._stop()
            return None
        self.take()
        return key

    def _value_of_key(self, depth: int) -> object:
        if self.look() in {",", "}"}:
            self.repairs.add("missing_value")
            return None
        return self._value(depth)

    def _value(self, depth: int) -> object:
        """The value that begins here; _NOTHING where none does, or where it may go on behind the end."""
        kind = self.look()
        if kind == "text":
            return self.take_text()
        if kind in {"{", "["} and depth > 0:
            return self.take_object(depth) if kind == "{" else self._array(depth)
        if kind == "bare":
            word = self.take()
            if self.look():
                return self._meaning(word)
        self._stop()
        return _NOTHING

    def _meaning(self, word: str) -> object:
        """What a value without quotes means."""
        if _NUMBER.fullmatch(word):
            return self._number(word)
        if _NO_NUMBER.fullmatch(word):
            self.repairs.add("number")
            return None
        if word.lower() in _CONSTANTS:
            if word not in {"true", "false", "null"}:
                self.repairs.add("constant")
            return _CONSTANTS[word.lower()]
        self.repairs.add("unquoted_text")
        return word

    def _number(self, word: str) -> float | None:
        if not _JSON_NUMBER.fullmatch(word):
            self.repairs.add("number")
        try:
            read = int(word) if _INTEGER.fullmatch(word) else float(word)
        except ValueError:  # more digits than Python reads
            read = math.inf
        if isinstance(read, int) or math.isfinite(read):
            return read
        self.repairs.add("number")
        return None

    def _mend_escape(self, match: re.Match[str]) -> str:
        """A backslash, or a double quote in a text in single ones, as JSON has it."""
        found, odd = match[0], match[1]
        if found == '"':
            return '\\"'
        if odd is None:
            return found
        self.repairs.add("escape")
        return odd if odd == "'" else f"\\\\{odd}"

    def _stop(self) -> None:
        self.repairs.add("cut_off" if self.look() in {"", "unclosed"} else "unreadable_rest")
        self.stopped = True
