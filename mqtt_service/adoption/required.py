"""Columns that must not be empty, and of which we know nothing: the worker's rows do not fill them."""

import re
from collections.abc import Iterator

import psycopg
from psycopg import sql

from mqtt_service.adoption.database import Connection
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.intended import Intended
from mqtt_service.adoption.project import ColumnRow, Project

_DEFAULTS = {
    **dict.fromkeys(("text", "character varying", "character", "citext", "public.citext"), "''"),
    **dict.fromkeys(("smallint", "integer", "bigint", "numeric", "real", "double precision"), "0"),
    **dict.fromkeys(("timestamp with time zone", "timestamp without time zone"), "now()"),
    **dict.fromkeys(("json", "jsonb"), "'{}'"),
    "uuid": "gen_random_uuid()",
    "boolean": "false",
    "date": "current_date",
}
_UNIQUE_DEFAULTS = {"uuid": "gen_random_uuid()", "text": "gen_random_uuid()::text"}


def inspect(project: Project) -> Iterator[Finding]:
    """Name them, in the tables that the worker writes, with what to run."""
    for table in project.shared:
        if table in project.intended.written:
            for row in project.columns[table].values():
                if row.name not in project.intended.tables[table] and _must_be_written(row):
                    yield _finding(project, row)


def proposal(connection: Connection, row: ColumnRow) -> str:
    """What lets rows do without this column: a default that its type takes, or that it may be empty."""
    default = _fitting_default(row)
    change = "drop not null"
    if default is not None and _is_accepted(connection, default, row.type):
        change = f"set default {default}"
    return f"alter table {row.table_name} alter column {row.name} {change};"


def _must_be_written(row: ColumnRow) -> bool:
    return row.is_required and row.default is None and not row.is_identity and not row.is_generated


def _finding(project: Project, row: ColumnRow) -> Finding:
    subject = f"{row.table_name}.{row.name}"
    if _is_mentioned(project.intended, row.name):
        text = "must not be empty and has no default, and the functions write it"
        return Finding(Aspect.COLUMNS, "required_column_known", subject, text)
    return Finding(
        Aspect.COLUMNS,
        "required_column",
        subject,
        "must not be empty, has no default, and is unknown to the worker, whose rows the table then refuses:"
        " give it a default, such as",
        Level.BY_HAND,
        proposal(project.connection, row),
    )


def _is_mentioned(intended: Intended, name: str) -> bool:
    """Whether the files know a column that they do not add, such as one of the Node service, by this name.

    A word that is common, or names another column of ours, proves nothing.
    """
    ours = {column for columns in intended.tables.values() for column in columns}
    return "_" in name and name not in ours and bool(re.search(rf"\b{re.escape(name)}\b", intended.text))


def _fitting_default(row: ColumnRow) -> str | None:
    """None where no constant can do, as in a column that refers to another table."""
    if row.is_reference:
        return None
    if row.is_unique:
        return _UNIQUE_DEFAULTS.get(row.base)
    if row.labels:
        return "'" + row.labels[0].replace("'", "''") + "'"
    return "'{}'" if row.base.endswith("[]") else _DEFAULTS.get(row.base)


def _is_accepted(connection: Connection, default: str, kind: str) -> bool:
    """Whether the type takes this value, with the checks of a domain."""
    try:
        with connection.transaction():
            connection.execute(sql.SQL("select cast({} as {})").format(sql.SQL(default), sql.SQL(kind)))
    except psycopg.Error:
        return False
    return True
