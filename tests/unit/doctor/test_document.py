"""docs/doctor.md names every finding, with its question, in the order of the report."""

import re
from pathlib import Path

from mqtt_service.doctor.findings import CHECKS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_table_of_findings_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", section("Findings and cures"), re.MULTILINE)
    assert [(name, question) for name, question, _ in rows] == [
        (name, check.question) for name, check in CHECKS.items()
    ]
    assert all(len(cure) > 10 for _, _, cure in rows)


def test_common_issues_lead_to_findings() -> None:
    named = re.findall(
        r"`(\w+)`", " ".join(re.findall(r"\| ([^|]+) \|$", section("Common issues"), re.MULTILINE))
    )
    assert len(named) > 10
    assert set(named) <= set(CHECKS)
