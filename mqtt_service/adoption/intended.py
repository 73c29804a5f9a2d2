"""What the migration files want to be there: tables, columns and functions, read from the SQL itself. Pure.

Only the files' own way of writing is understood: calls of `create_table` and of `allow_values`,
`alter table … add column if not exists`, `create function` and `drop function`, names with their schema. A
test compares this with the catalog of a fresh database.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mqtt_service.migrations import Migration


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ours, in the words of the files.

    `required`: NOT NULL where the files make the table. `default`: as the column is added; `final_default`:
    as the files change it afterwards. `definition`: what they add to a table that lacks the column; None:
    they do not add it. `words`: what it must be able to hold; `is_widened`: the files see to it
    that a column which was there before can.
    """

    name: str
    type: str
    required: bool
    default: str | None
    definition: str | None
    words: tuple[str, ...] = ()
    is_widened: bool = False
    final_default: str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function; `name` "" where it has none."""

    name: str
    type: str
    has_default: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A function of ours; `name` has the schema. `drops_first`: a changed result does not stop the files."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: str
    drops_first: bool = False

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its parameters, in the words of the files."""
        return tuple(parameter.type for parameter in self.parameters)


@dataclass(frozen=True, slots=True)
class Intended:
    """All that the files want to be there, by names with the schema.

    `files`: their own names. `keys`: the column that a table which was there before must have. `written`: the
    tables that our functions insert into. `dropped`: functions that the files remove, each by its name and
    the types of its parameters. `text`: all of it without comments.
    """

    files: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Column]]
    keys: Mapping[str, str]
    functions: tuple[Function, ...]
    dropped: frozenset[tuple[str, tuple[str, ...]]]
    written: frozenset[str]
    text: str

    @property
    def shared(self) -> tuple[str, ...]:
        """The tables that a project can have had before: those in the schema public."""
        return tuple(name for name in self.tables if name.startswith("public."))


_STRING = r"'(?:[^']|'')*'"
# None of these begins with \b: where a pattern begins with plain letters, Python finds them 20 times faster.
_COMMENTS = re.compile(rf"({_STRING})|--[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKENS = re.compile(rf"{_STRING}|[()\[\],;]", re.DOTALL)
_NAME = r"([a-z_]\w*\.[a-z_]\w*)"
_TABLE = re.compile(
    rf"create_table\(\s*'{_NAME}',\s*(?:null|'(\w+)'),\s*(?:\$\$(.*?)\$\$|({_STRING}))\s*\)", re.DOTALL
)
_ALTER = re.compile(rf"alter table (?:if exists )?(?:only )?{_NAME}(?=\s)")
_ADD = re.compile(r"add column if not exists (\w+)\s+(.+)", re.DOTALL)
_SET_DEFAULT = re.compile(rf"alter table {_NAME} alter column (\w+) set default ([^;]+);")
_CREATE_FUNCTION = re.compile(rf"create (?:or replace )?(?:function|procedure) {_NAME}\s*(?=\()")
_DROP_FUNCTION = re.compile(rf"drop function (?:if exists )?{_NAME}\s*(?=\()")
_RETURNS = re.compile(
    r"\s*returns\s+(.+?)\s+"
    r"(?:language|as|immutable|stable|volatile|strict|security|set|parallel|cost|rows)\b",
    re.DOTALL,
)
_INSERT = re.compile(rf"insert into {_NAME}")
_WRITE_ROW = re.compile(r"fn_write_row\(\s*'(\w+)'")  # which makes the statement as it runs
_TABLE_CONSTRAINT = re.compile(r"(?:constraint|primary key|unique|check|foreign key|exclude|like)\b")
_END_OF_TYPE = re.compile(
    r"\b(?:not null|null|default|check|references|unique|primary key|generated|constraint|collate)\b"
)
_DEFAULT = re.compile(
    rf"\bdefault\s+((?:{_STRING}|[^'])+?)"
    r"(?=\s+(?:not null|null|check|references|unique|primary key|constraint)\b|\s*$)",
    re.DOTALL,
)
_WORDS = re.compile(r"check \(\s*(\w+) in \(([^)]*)\)", re.DOTALL)
# The words that a check which was there before is widened by.
_ALLOWED = re.compile(rf"allow_values\(\s*'{_NAME}',\s*'(\w+)',\s*'\{{([^}}]*)\}}'\s*\)")


def read_intended(files: Sequence[Migration]) -> Intended:
    """Read the files, in the order in which they are applied."""
    text = "\n".join(_COMMENTS.sub(lambda match: match[1] or " ", each.text) for each in files)
    functions, dropped = _functions(text)
    return Intended(
        tuple(each.file for each in files),
        _tables(text),
        {match[1]: match[2] for match in _TABLE.finditer(text) if match[2]},
        functions,
        dropped,
        frozenset(match[1] for match in _INSERT.finditer(text))
        | frozenset(f"public.{match[1]}" for match in _WRITE_ROW.finditer(text)),
        text,
    )


def _tables(text: str) -> dict[str, dict[str, Column]]:
    made: dict[str, dict[str, Column]] = {}
    added: dict[str, dict[str, Column]] = {}
    for match in _TABLE.finditer(text):
        items = _split(match[3] or match[4][1:-1].replace("''", "'"))
        made[match[1]] = {
            column.name: column
            for item in items
            if not _TABLE_CONSTRAINT.match(item)
            for column in [_column(*item.split(None, 1), is_added=False)]
        }
    for match in _ALTER.finditer(text):
        for item in _split(_until_semicolon(text, match.end())):
            if add := _ADD.fullmatch(item):
                added.setdefault(match[1], {})[add[1]] = _column(add[1], add[2], is_added=True)
    words = _allowed_words(text)
    defaults = {(match[1], match[2]): match[3] for match in _SET_DEFAULT.finditer(text)}
    return {
        table: {
            column.name: replace(
                _widened(column, words.get((table, column.name), ())),
                final_default=defaults.get((table, column.name)),
            )
            for column in _merged(columns, added.get(table, {}))
        }
        for table, columns in made.items()
    }


def _merged(made: Mapping[str, Column], added: Mapping[str, Column]) -> Iterator[Column]:
    """A fresh table has a column as it was made; one that was there before gets it as it is added."""
    for name, column in made.items():
        yield replace(column, definition=added[name].definition) if name in added else column
    yield from (column for name, column in added.items() if name not in made)


def _allowed_words(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The words that the files let a text column hold beside those of its check."""
    allowed: dict[tuple[str, str], tuple[str, ...]] = {}
    for table, column, words in _ALLOWED.findall(text):
        key = (table, column)
        allowed[key] = allowed.get(key, ()) + tuple(words.split(","))
    return allowed


def _widened(column: Column, words: Sequence[str]) -> Column:
    return replace(column, words=tuple(dict.fromkeys((*column.words, *words))), is_widened=bool(words))


def _column(name: str, rest: str, *, is_added: bool) -> Column:
    plain = " ".join(rest.split())
    end = _END_OF_TYPE.search(plain)
    options = plain[end.start() :] if end else ""
    default = _DEFAULT.search(options)
    words = _WORDS.search(options)
    return Column(
        name,
        plain[: end.start()].strip() if end else plain,
        bool(
            re.search(
                r"\bnot null\b|\bprimary key\b|\bgenerated (?:always|by default) as identity\b", options
            )
        ),
        default[1].strip() if default else None,
        plain if is_added else None,
        tuple(re.findall(r"'([^']*)'", words[2])) if words and words[1] == name else (),
    )


def _functions(text: str) -> tuple[tuple[Function, ...], frozenset[tuple[str, tuple[str, ...]]]]:
    """What is left when all files were applied, and what they remove."""
    events = [(match.start(), match, True) for match in _CREATE_FUNCTION.finditer(text)]
    events += [(match.start(), match, False) for match in _DROP_FUNCTION.finditer(text)]
    there: dict[tuple[str, tuple[str, ...]], Function] = {}
    dropped: set[tuple[str, tuple[str, ...]]] = set()
    for _, match, creates in sorted(events, key=lambda event: event[0]):
        arguments = _enclosed(text, match.end())
        if not creates:
            key = (match[1], tuple(_parameter(item).type for item in _split(arguments)))
            there.pop(key, None)
            dropped.add(key)
            continue
        parameters = [_parameter(item) for item in _split(arguments) if not item.startswith("out ")]
        returns = _RETURNS.match(text, match.end() + len(arguments) + 2)
        key = (match[1], tuple(parameter.type for parameter in parameters))
        there[key] = Function(
            match[1], tuple(parameters), " ".join(returns[1].split()) if returns else "", key in dropped
        )
    return tuple(there.values()), frozenset(dropped - there.keys())


def _parameter(item: str) -> Parameter:
    """`p_limit int default 200`, or the type alone."""
    declared = re.split(r"\s+default\s+|\s*:?=\s*", " ".join(item.split()), maxsplit=1)
    words = re.sub(r"^(?:in|inout|variadic) ", "", declared[0])
    name, _, kind = words.partition(" ")
    if not kind or words in {"double precision", "timestamp with time zone"}:
        name, kind = "", words
    return Parameter(name, kind, len(declared) > 1)


def _enclosed(text: str, at: int) -> str:
    """What stands between the parenthesis at `at` and the one that closes it."""
    depth = 0
    for token in _TOKENS.finditer(text, at):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return text[at + 1 : token.start()]
    raise ValueError("a parenthesis is not closed")


def _until_semicolon(text: str, at: int) -> str:
    for token in _TOKENS.finditer(text, at):
        if token[0] == ";":
            return text[at : token.start()]
    raise ValueError("a statement has no end")


def _split(text: str) -> list[str]:
    """The items of a list, at those commas that stand in no parentheses."""
    return [item for item in (piece.strip() for piece in _pieces(text)) if item]


def _pieces(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for token in _TOKENS.finditer(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token[0], 0)
        if token[0] == "," and depth == 0:
            yield text[start : token.start()]
            start = token.end()
    yield text[start:]
