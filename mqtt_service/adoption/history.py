"""The migrations that the project's history names: its own, and those of ours that are on record."""

from collections.abc import Iterator
from dataclasses import dataclass

from mqtt_service.adoption.database import fetch, listed, value
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.project import Project


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A migration on record."""

    version: str
    name: str | None


def inspect(project: Project) -> Iterator[Finding]:
    """Compare the record of the official command line with our files, by version and name."""
    if value(project.connection, "select to_regclass('supabase_migrations.schema_migrations') is null"):
        yield _finding("no_history", "is not there: `supabase db push` begins one")
        return
    records = fetch(
        project.connection,
        RecordRow,
        "select version::text, to_jsonb(m) ->> 'name' as name"
        " from supabase_migrations.schema_migrations m order by 1",
    )
    ours = {name.partition("_")[0]: name for name in project.intended.files}
    same = [
        row
        for row in records
        if project.is_applied and ours.get(row.version, "").endswith(f"_{row.name}.sql")
    ]
    foreign = [row for row in records if row.version not in ours]
    taken = [row for row in records if row not in same and row not in foreign]
    if taken:
        names = listed([f"{row.version} ({row.name}, ours {ours[row.version]})" for row in taken], 3)
        yield _finding(
            "version_taken",
            f"names the project's own migrations under versions of ours: {names}. `supabase db push` would"
            " take these files for applied and leave them out: use psql or the SQL editor",
            Level.LOOK,
        )
    if foreign:
        yield _finding(
            "foreign_history",
            f"names {len(foreign)} migrations of the project's own: `supabase db push` works from its folder"
            " alone, so copy our files there and push with --include-all, or use psql",
        )
    if same:
        yield _finding("recorded", f"names {len(same)} of our {len(ours)} files")


def _finding(kind: str, text: str, level: Level = Level.NOTE) -> Finding:
    return Finding(Aspect.HISTORY, kind, "the migration history", text, level)
