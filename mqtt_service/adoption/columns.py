"""Our columns: missing, as we have them, or different, and then how that is treated."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mqtt_service.adoption.database import Connection, fetch, listed
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.intended import Column, Intended
from mqtt_service.adoption.project import ColumnRow, Project
from mqtt_service.adoption.required import proposal

_NEW_KEY = "gen_random_uuid()"  # which no function writes
# What the functions write in any case, though ours may be empty or has a default.
_ALWAYS_WRITTEN = {
    "public.device_images.captured_at": "where the device had no time, it is when it was first heard of",
    "public.device_telemetry.captured_at": "where the device had no time, it is when the readings came",
}
_CAST = re.compile(r"::[a-z_][\w .\"]*(\(\d[\d, ]*\))?(\[\])?")


@dataclass(frozen=True, slots=True)
class TypeRow:
    """What Postgres calls a type that a file calls otherwise: timestamptz is timestamp with time zone."""

    written: str
    name: str | None


@dataclass(frozen=True, slots=True)
class CastRow:
    """Values of the one type can be written into columns of the other."""

    source: str
    target: str


@dataclass(frozen=True)
class Types:
    """Postgres's names of the types of our columns, and which types it turns into which as it writes."""

    names: Mapping[str, str]
    casts: frozenset[tuple[str, str]]


def inspect(project: Project) -> Iterator[Finding]:
    """Go through the tables that are there, column by column."""
    types = Types(type_names(project.connection, project.intended), _casts(project.connection))
    for table in filter(project.columns.__contains__, project.intended.tables):
        for column in project.intended.tables[table].values():
            row = project.columns[table].get(column.name)
            if row is not None:
                yield from _compared(project, column, row, types)
            elif column.definition is not None:
                text = f"will be added: {column.definition}"
                yield Finding(Aspect.COLUMNS, "column_missing", f"{table}.{column.name}", text)


def type_names(connection: Connection, intended: Intended) -> dict[str, str]:
    """Postgres's names, by the files', of the types of our columns and parameters that are there."""
    written = {column.type for columns in intended.tables.values() for column in columns.values()}
    written |= {kind for function in intended.functions for kind in (*function.types, function.returns)}
    rows = fetch(
        connection,
        TypeRow,
        "select written, to_regtype(written)::text as name from unnest(%(written)s::text[]) as w (written)"
        r" where written ~ '^(?!setof )[\w .]+(\[\])?$'",  # Postgres 15 takes others for an error
        written=sorted(written),
    )
    return {row.written: row.name for row in rows if row.name is not None}


def plain_default(default: str | None) -> str:
    """A default without its casts, which files and catalog write differently."""
    return _CAST.sub("", default or "")


def _casts(connection: Connection) -> frozenset[tuple[str, str]]:
    rows = fetch(
        connection,
        CastRow,
        "select format_type(castsource, null) as source, format_type(casttarget, null) as target"
        " from pg_cast where castcontext in ('a', 'i')",
    )
    return frozenset((row.source, row.target) for row in rows)


def _compared(project: Project, ours: Column, theirs: ColumnRow, types: Types) -> Iterator[Finding]:
    kind = types.names.get(ours.type, ours.type)
    if theirs.table_name in project.intended.written:
        yield from _Difference(project.connection, ours, theirs, kind, types.casts).finding()
    elif theirs.type != kind:
        text = f"is {theirs.type}, ours {kind}: the worker only reads it"
        yield Finding(Aspect.COLUMNS, "column_differs", f"{theirs.table_name}.{theirs.name}", text)


class _Difference:
    """What is different in a column that the worker writes: one finding, or none."""

    def __init__(
        self,
        connection: Connection,
        ours: Column,
        theirs: ColumnRow,
        kind: str,
        casts: frozenset[tuple[str, str]],
    ) -> None:
        self._connection = connection
        self._ours = ours
        self._theirs = theirs
        self._type = kind
        self._casts = casts
        self._texts: list[str] = []
        self._level = Level.NOTE
        self._sql: str | None = None

    @property
    def _subject(self) -> str:
        return f"{self._theirs.table_name}.{self._theirs.name}"

    def finding(self) -> Iterator[Finding]:
        """Compare all that can be different."""
        if self._theirs.is_generated:
            what = "is generated, so that nothing can be written into it"
            self._add(what, Level.BY_HAND, self._alter("drop expression"))
        if self._theirs.type != self._type:
            self._compare_types()
        if not self._theirs.is_generated and not self._theirs.is_identity:
            self._compare_nulls()
            self._compare_defaults()
        if self._texts:
            text = "; ".join(self._texts)
            yield Finding(Aspect.COLUMNS, "column_differs", self._subject, text, self._level, self._sql)

    def _compare_types(self) -> None:
        what = f"is {self._theirs.type}, ours {self._type}"
        if self._theirs.kind == "e":
            self._compare_words(what)
        elif self._is_writable():
            self._add(f"{what}: {_treatment(self._theirs)}")
        elif self._fills_itself():
            self._add(f"{what}: it fills itself, and the trial shows whether that will do", Level.LOOK)
        else:
            change = self._alter(f"type {self._type} using {self._theirs.name}::{self._type}")
            self._add(f"{what}, which Postgres does not turn into it: change it", Level.BY_HAND, change)

    def _compare_words(self, what: str) -> None:
        """An enum has its own words."""
        missing = [word for word in self._ours.words if word not in self._theirs.labels]
        if not missing:
            self._add(f"{what}: its own words are written")
            return
        lines = (f"alter type {self._theirs.type} add value if not exists '{word}';" for word in missing)
        then = (
            "the migrations add them, but the trial can use only those that were there before"
            if self._ours.is_widened
            else "the nearest word that it has is written, or nothing, and the log warns of it"
        )
        self._add(f"{what}, and lacks {listed(missing)}: {then}", Level.LOOK, "\n".join(lines))

    def _compare_nulls(self) -> None:
        if not self._theirs.is_required or self._ours.required:
            return
        if self._subject in _ALWAYS_WRITTEN:
            self._add(f"must not be empty, ours may: {_ALWAYS_WRITTEN[self._subject]}")
        elif self._theirs.default is not None:
            self._add("must not be empty, ours may: where nothing is known it gets its default")
        else:
            self._add(
                "must not be empty, ours may: a row about which nothing is known there is refused",
                Level.LOOK,
                proposal(self._connection, self._theirs),
            )

    def _compare_defaults(self) -> None:
        theirs, ours = self._theirs.default, self._ours.final_default or self._ours.default
        if theirs is None and ours is not None and self._theirs.is_required:
            if self._subject in _ALWAYS_WRITTEN:
                return
            level = Level.BY_HAND if ours == _NEW_KEY else Level.LOOK
            self._add(f"has no default, ours {ours}: give it one", level, self._alter(f"set default {ours}"))
        elif theirs is not None and plain_default(theirs) != plain_default(ours):
            self._add(f"has the default {theirs}, ours {ours or 'null'}: the functions write what they mean")

    def _is_writable(self) -> bool:
        base = self._theirs.base
        takes_all = base in {"text", "character varying", "character"}
        return takes_all or base == self._type or (self._type, base) in self._casts

    def _fills_itself(self) -> bool:
        """Such as a number of its own for a row; but not a key by which the worker knows rows."""
        has_own = self._theirs.is_identity or self._theirs.default is not None
        return has_own and self._ours.definition is not None and self._ours.default is not None

    def _alter(self, what: str) -> str:
        return f"alter table {self._theirs.table_name} alter column {self._theirs.name} {what};"

    def _add(self, text: str, level: Level = Level.NOTE, sql: str | None = None) -> None:
        self._texts.append(text)
        order = (Level.NOTE, Level.LOOK, Level.BY_HAND)
        self._level = max(self._level, level, key=order.index)
        self._sql = self._sql or sql


def _treatment(theirs: ColumnRow) -> str:
    """How a value of ours comes into a column of another type."""
    if theirs.kind == "d":
        return "a value that the domain's checks refuse costs that value or its row, no other"
    if "(" in theirs.type or theirs.base in {"smallint", "real"}:
        return "a value that does not fit costs that value or its row, no other"
    return {
        "text": "written as text",
        "timestamp without time zone": "written without the zone, in UTC",
        "integer": "fractions are rounded",
        "bigint": "fractions are rounded",
    }.get(theirs.base, "Postgres turns ours into it as it is written")
