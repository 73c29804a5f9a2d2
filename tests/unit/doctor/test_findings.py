"""How checks follow each other, and what becomes of their errors."""

from collections.abc import Iterable

import pytest

from mqtt_service.doctor.findings import CHECKS, Finding, Step, exit_status, from_error, walk
from mqtt_service.errors import PermanentError, SupabaseUnavailableError


def step(name: str, *findings: Finding, essential: bool = False, also: tuple[str, ...] = ()) -> Step:
    async def look() -> Iterable[Finding]:
        return findings or [Finding(name, "ok", "fine")]

    return Step([name, *also], look, essential=essential)


async def states(*steps: Step) -> dict[str, str]:
    return {finding.name: finding.state async for finding in walk(steps)}


async def test_what_depends_on_something_broken_is_skipped_with_the_reason() -> None:
    broken = Finding("project_answers", "broken", "away", "wait")
    steps = [step("project_name"), step("project_answers", broken, essential=True), step("key")]
    found = [finding async for finding in walk(steps)]
    assert [finding.state for finding in found] == ["ok", "broken", "skipped"]
    assert found[-1].seen == "not looked at: Network: project_answers is broken"


async def test_a_warning_and_what_is_not_essential_stop_nothing() -> None:
    warning = Finding("key", "warning", "odd", "look")
    broken = Finding("columns", "broken", "no default", "run: …")
    found = await states(step("key", warning, essential=True), step("columns", broken), step("clock"))
    assert found == {"key": "warning", "columns": "broken", "clock": "ok"}


async def test_an_error_of_a_check_is_its_finding_and_its_other_names_are_skipped() -> None:
    async def look() -> Iterable[Finding]:
        raise SupabaseUnavailableError("Supabase answered 503; wait")

    assert await states(Step(["ring", "row_events"], look)) == {"ring": "broken", "row_events": "skipped"}


@pytest.mark.parametrize(
    ("message", "seen", "cure"),
    [
        ("nothing listens; start the broker; check it", "nothing listens", "start the broker; check it"),
        ("refused the key (401): set it", "refused the key (401)", "set it"),
        ("it failed", "it failed", "see the message, then run this again"),
    ],
)
def test_an_errors_advice_is_the_cure(message: str, seen: str, cure: str) -> None:
    assert from_error("key", PermanentError(message)) == Finding("key", "broken", seen, cure)


@pytest.mark.parametrize(
    ("found", "status"), [(["ok"], 0), (["ok", "warning", "skipped"], 0), (["warning", "broken"], 1)]
)
def test_the_status_says_whether_something_is_broken(found: list[str], status: int) -> None:
    assert exit_status(Finding("key", state, "", "") for state in found) == status  # type: ignore[arg-type]


def test_checks_of_one_heading_stand_together() -> None:
    headings = [check.heading for check in CHECKS.values()]
    assert len(list(dict.fromkeys(headings))) == sum(
        heading != before for heading, before in zip(headings, ["", *headings], strict=False)
    )
