"""What the documents say of the database: their SQL runs there, and each table has its bound."""

import re
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "supabase" / "README.md"]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[str]:
    return BLOCK.findall(document.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "document",
    [document for document in DOCUMENTS if blocks(document)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_sql_of_a_document_runs(document: Path, seeded: psycopg.Connection) -> None:
    for block in blocks(document):
        seeded.execute(block.encode())


def test_each_table_of_ours_is_listed_with_what_bounds_it(seeded: psycopg.Connection) -> None:
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    [listed] = re.findall(r"^\| table \| what bounds it \|\n\|.*\n((?:\|.*\n)+)", document, re.MULTILINE)
    tables = seeded.execute(
        "select schemaname || '.' || tablename from pg_tables where schemaname in ('public', 'mqtt_private')"
    ).fetchall()
    assert set(re.findall(r"`((?:public|mqtt_private)\.\w+)`", listed)) == {name for (name,) in tables}
