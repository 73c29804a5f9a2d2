"""What to do about an error that the trial met."""

import re

from mqtt_service.adoption.database import Connection, in_public, value
from mqtt_service.adoption.project import Project
from mqtt_service.adoption.raised import Raised, Source
from mqtt_service.adoption.required import proposal

_QUIETER = "check again at a quieter moment."
_ADVICE = {
    "22001": "The column is too short for what the worker writes: widen it.",
    "22003": "The column is too narrow for what the worker writes: widen it.",
    "22P02": "The column's type does not know the worker's word: add it, or change the column to text.",
    "23502": "Give the column a default, or let it be empty.",
    "23503": "The row that it refers to is not there.",
    "23505": "The unique constraint allows no such row beside those that are there: widen or drop it.",
    "23514": "Widen the check, so that it lets the worker's rows through.",
    "40P01": f"Another transaction was in the way: {_QUIETER}",
    "42501": "Grant it to service_role, as which the worker acts.",
    "42804": "Change the column to the type that the worker writes.",
    "55P04": "A word that an enum gets can be used only once that is committed, so the trial ends here: add"
    " it first, as the finding on that column says, and check again.",
    "55P03": f"Another transaction holds a lock: {_QUIETER}",
    "57014": f"It took longer than the trial may, so give it more (--trial-seconds), or {_QUIETER}",
    "P0001": "The function refuses the row on purpose: let it pass what the worker writes.",
}
_OTHERWISE = "Put this right, and check again."

# Undefined table, function, object, column.
_UNRESOLVED_STATES = frozenset({"42P01", "42883", "42704", "42703"})
_UNRESOLVED = re.compile(r'^(?:relation|type|function|operator|schema) "?([\w.]+)')
_DENIED = re.compile(r'^permission denied for (table|view|sequence|function|schema) "?([\w.]+)')
_OWNER = re.compile(r"^must be owner of ")
_RIGHTS = {"sequence": "usage", "function": "execute", "schema": "usage"}

Advice = tuple[str, str | None]


def advise(project: Project, raised: Raised, source: Source | None) -> Advice:
    """Return what to do, and the statement that does it where one is known. `source` is the project's own."""
    if raised.sqlstate in _UNRESOLVED_STATES and source is not None:
        return _about_a_name(project.connection, raised, source)
    if raised.sqlstate == "42501":
        return _about_a_permission(raised)
    if raised.sqlstate == "23502":
        column = project.columns.get(raised.table or "", {}).get(raised.column or "")
        return _ADVICE["23502"], proposal(project.connection, column) if column else None
    known = _ADVICE.get(raised.sqlstate or "")
    return " ".join(filter(None, (known, raised.hint))) or _OTHERWISE, None


def _about_a_name(connection: Connection, raised: Raised, source: Source) -> Advice:
    """A function names something that is not there, or not on the path on which it looks."""
    match = _UNRESOLVED.match(raised.message)
    if match is None or source.path is not None or not _is_in_public(connection, match[1]):
        return "What the function names is not there: make it, or mend the function.", None
    return (
        "The function names it without its schema, and has no search_path of its own.",
        f"alter function {source.signature} set search_path = public, extensions;",
    )


def _is_in_public(connection: Connection, name: str) -> bool:
    return bool(
        value(
            connection,
            "select to_regclass(%(name)s) is not null or to_regtype(%(name)s) is not null or exists ("
            "select from pg_proc where pronamespace = 'public'::regnamespace and proname = %(bare)s)",
            name=in_public(name),
            bare=name.rpartition(".")[2],
        )
    )


def _about_a_permission(raised: Raised) -> Advice:
    if _OWNER.match(raised.message):
        return "Connect as the role that owns it, on hosted projects postgres.", None
    match = _DENIED.match(raised.message)
    if match is None or match[1] == "function":
        return _ADVICE["42501"], None
    kind, name = match.groups()
    rights = _RIGHTS.get(kind, "select, insert, update, delete")
    target = name if kind == "schema" else in_public(name)
    return _ADVICE[
        "42501"
    ], f"grant {rights} on {'table' if kind == 'view' else kind} {target} to service_role;"
