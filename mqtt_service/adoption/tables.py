"""Which of our tables are there, and how large they are."""

from collections.abc import Iterator

from psycopg import sql

from mqtt_service.adoption.database import identifier, listed, value
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.project import Project, TableRow

# To count what is larger would take too long; the catalog's estimate is enough.
COUNTED_BYTES = 256 * 1024 * 1024


def inspect(project: Project) -> Iterator[Finding]:
    """Each table of ours: there with so many rows, missing, or something else by that name."""
    for name in project.intended.shared:
        table = project.tables.get(name)
        if table is None:
            yield Finding(Aspect.TABLES, "table_missing", name, "is not there: will be made")
        elif not table.is_table:
            yield Finding(
                Aspect.TABLES,
                "not_a_table",
                name,
                "is a view or a foreign table, and the migrations need a table of that name: rename it",
                Level.BY_HAND,
            )
        else:
            yield Finding(Aspect.TABLES, "table", name, f"is there, with {_rows(project, table)}")
            yield from _keys(project, name)
    if missing := [name for name in project.intended.tables if _is_missing_and_private(project, name)]:
        yield Finding(
            Aspect.TABLES,
            "private_tables_missing",
            "the schema mqtt_private",
            "will be made, which the API does not show, with the worker's own tables: "
            + listed([name.removeprefix("mqtt_private.") for name in missing], 20),
        )


def _is_missing_and_private(project: Project, name: str) -> bool:
    return name not in project.intended.shared and name not in project.tables


def _rows(project: Project, table: TableRow) -> str:
    if table.bytes > COUNTED_BYTES:
        return f"about {max(table.rows, 0)} rows"
    count = value(project.connection, sql.SQL("select count(*) from {}").format(identifier(table.name)))
    return f"{count} row{'' if count == 1 else 's'}"


def _keys(project: Project, name: str) -> Iterator[Finding]:
    """The files add no key to a table that was there before, and need to tell rows apart by it."""
    there = project.columns[name]
    for column in project.intended.tables[name].values():
        if column.definition is None and column.name not in there:
            yield _key(
                "key_missing",
                f"{name}.{column.name}",
                "is what the migrations know a row by, and is not there: rename the column that is",
                f"alter table {name} rename column <key> to {column.name};",
            )
    key = project.intended.keys.get(name)
    if key is not None and key in there and not there[key].is_unique:
        yield _key(
            "key_not_unique",
            f"{name}.{key}",
            "is what the migrations know a row by, and is not unique: remove doubles first",
            f"alter table {name} add unique ({key});",
        )


def _key(kind: str, subject: str, text: str, sql: str) -> Finding:
    return Finding(Aspect.TABLES, kind, subject, text, Level.BY_HAND, sql)
