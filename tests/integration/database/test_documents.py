"""The SQL in the documents runs, one statement after the other, on the database of the embedded stack."""

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
