"""Why a step of the trial failed: what raised the error, where that stands, and what to do about it."""

import re
from dataclasses import dataclass

from mqtt_service.adoption.advice import advise
from mqtt_service.adoption.database import in_public, listed
from mqtt_service.adoption.project import Project
from mqtt_service.adoption.raised import Raised, Source, find_source


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of a step. `raised_by` in words; `advice` says what to do, `sql` how, where that is known.

    `sqlstate` is None where our functions passed the error's words on, without its code.
    """

    step: str
    message: str
    sqlstate: str | None = None
    raised_by: str | None = None
    table: str | None = None
    column: str | None = None
    constraint: str | None = None
    function: str | None = None
    triggers: tuple[str, ...] = ()
    advice: str = ""
    sql: str | None = None
    context: str | None = None


_WRITTEN = re.compile(r"\b(?:insert into|update|delete from)\s+(?:only\s+)?([\w.]+)")


def explain(project: Project, step: str, raised: Raised) -> Failure:
    """Look up what raised the error; the transaction must be usable again."""
    source = find_source(project.connection, raised)
    is_ours = source is not None and _is_ours(project, source)
    advice, sql = advise(project, raised, None if is_ours else source)
    return Failure(
        step,
        raised.message,
        raised.sqlstate,
        _raised_by(raised, source, is_ours=is_ours),
        raised.table,
        raised.column,
        raised.constraint,
        source.signature if source else None,
        tuple(source.triggers) if source else (),
        advice,
        sql,
        raised.context or None,
    )


def _is_ours(project: Project, source: Source) -> bool:
    name = source.signature.partition("(")[0]
    return source.schema == "mqtt_private" or any(each.name == name for each in project.intended.functions)


def _raised_by(raised: Raised, source: Source | None, *, is_ours: bool) -> str | None:
    parts = []
    if source is not None:
        name = source.signature.removeprefix("public.")
        written = _WRITTEN.search(raised.query)
        parts.append(f"the worker's function {name}" if is_ours else f"function {name}")
        if is_ours and written:
            parts.append(f"which writes {in_public(written[1]).removeprefix('public.')}")
        if source.triggers:
            tables = listed([table.removeprefix("public.") for table in source.tables])
            parts.append(f"called by trigger {' or '.join(source.triggers)} on {tables}")
    if raised.table:
        place = raised.table.removeprefix("public.")
        what = f"constraint {raised.constraint} of " if raised.constraint else "table "
        parts.append(f"column {place}.{raised.column}" if raised.column else f"{what}{place}")
    return ", ".join(parts) or None
