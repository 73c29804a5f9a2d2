"""What the migrations create, read out of their text: a test can tell whether anything is created twice."""

import re
from collections.abc import Iterator
from pathlib import Path

Found = tuple[str, str]  # kind and name

_PATTERNS = {
    "schema": r"create schema (?:if not exists )?([\w.]+)",
    "type": r"create type ([\w.]+)",
    "table": r"create table (?:if not exists )?([\w.]+)|create_table\(\s*'([\w.]+)'",
    "index": r"create (?:unique )?index (?:if not exists )?(\w+)|add_unique_index\(\s*'(\w+)'",
    "publication": r"create publication (\w+)",
    "comment": r"comment on ([\w.]+ [\w.]+)",
}
_ON_A_TABLE = {
    "trigger": r"create (?:or replace |constraint )*trigger (\w+)[^;]*? on ([\w.]+)",
    "policy": r"create policy (\w+)\s+on ([\w.]+)",
}


def created_in(file: Path) -> Iterator[Found]:
    """Every object that this file creates, replaces or adds, as often as it does.

    A function is named with the types of its parameters; a trigger, a policy and a column with their table.
    What stands in a `drop` is not counted: the new object takes the place of the dropped one.
    """
    text = re.sub(r"--[^\n]*", "", file.read_text(encoding="utf-8"))
    for kind, pattern in _PATTERNS.items():
        for match in re.finditer(pattern, text):
            yield kind, next(name for name in match.groups() if name)
    for kind, pattern in _ON_A_TABLE.items():
        for match in re.finditer(pattern, text):
            yield kind, f"{match[1]} on {match[2]}"
    for match in re.finditer(r"create (?:or replace )?(?:function|procedure) ([\w.]+)\(", text):
        yield "function", f"{match[1]}({', '.join(_parameter_types(_until_closed(text, match.end())))})"
    for statement in re.finditer(r"alter table ([\w.]+)((?:[^;']|'[^']*')*);", text):
        for column in re.findall(r"add column (?:if not exists )?(\w+)", statement[2]):
            yield "column", f"{statement[1]}.{column}"


def columns_of_new_tables(file: Path) -> Iterator[str]:
    """The columns that a new table has at once; one that was there before gets them by `add column`."""
    text = re.sub(r"--[^\n]*", "", file.read_text(encoding="utf-8"))
    tables = r"create_table\(\s*'([\w.]+)',\s*(?:null|'\w+'),\s*(?:'((?:[^']|'')*)'|\$\$(.*?)\$\$)\s*\)"
    for table, short, long in re.findall(tables, text, re.DOTALL):
        for definition in _split(short or long):
            yield f"{table}.{definition.split()[0]}"
    for match in re.finditer(r"create table if not exists ([\w.]+) \(", text):
        for definition in _split(_until_closed(text, match.end())):
            yield f"{match[1]}.{definition.split()[0]}"


def _until_closed(text: str, start: int) -> str:
    """The text from `start` to the bracket that closes the one before it."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    raise ValueError("a bracket is not closed")


def _parameter_types(parameters: str) -> list[str]:
    """The types by which Postgres tells functions of one name apart."""
    types = []
    for parameter in _split(parameters):
        words = re.sub(r"\s+default\s.*", "", parameter, flags=re.DOTALL).split()
        if words[0] != "out":
            types.append(" ".join(words[2:] if words[0] == "variadic" else words[1:]))
    return types


def _split(text: str) -> list[str]:
    """What stands between the commas, but for those in brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
