"""The migration files of this checkout."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "supabase" / "migrations"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name, and its SQL."""

    file: str
    text: str


def read_files(folder: Path = FOLDER) -> list[Migration]:
    """Return the files in the order in which they are applied."""
    return [Migration(path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.sql"))]
