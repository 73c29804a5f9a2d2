"""The report: what must be done comes first and last, it is legible without colour, and ends in a verdict."""

import json

import pytest

from mqtt_service.adapters.supabase.storage import BUCKET as WORKERS_BUCKET
from mqtt_service.adoption.changes import Change
from mqtt_service.adoption.database import Place
from mqtt_service.adoption.failure import Failure
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.report import Report, as_document, as_text
from mqtt_service.adoption.services import BUCKET
from mqtt_service.adoption.trial import Lock, Step, Trial

PLACE = Place("db.example.test", 5432, "postgres", "postgres", "15.8")
BY_HAND = Finding(
    Aspect.COLUMNS, "required_column", "public.devices.petri", "must not be empty", Level.BY_HAND, "alter it;"
)
LOOK = Finding(Aspect.ROWS, "commands_waiting", "public.device_commands", "has 2 pending", Level.LOOK)
NOTE = Finding(Aspect.TABLES, "table", "public.devices", "is there, with 1 row")
ADDED = tuple(
    Finding(Aspect.COLUMNS, "column_missing", f"public.devices.{name}", f"will be added: {definition}")
    for name, definition in (("mqtt_root", "text check (mqtt_root in ('a'))"), ("mqtt_id", "text"))
)
FAILURE = Failure(
    "the command is claimed",
    'relation "x" does not exist',
    "42P01",
    "function note()",
    advice="Mend it.",
    sql="alter function note();",
)


def report_of(
    *findings: Finding, trial: Trial | None = None, applied: bool = False, new: bool = False
) -> Report:
    return Report(PLACE, applied, new, findings, trial, "" if trial else "as asked for")


def lines_of(report: Report) -> list[str]:
    return [line.plain for line in as_text(report)]


def test_a_finding_by_hand_stands_first_in_its_place_and_last_with_its_statement() -> None:
    lines = lines_of(report_of(NOTE, BY_HAND, LOOK, trial=Trial()))
    about = [number for number, line in enumerate(lines) if line == "  ! devices.petri must not be empty"]
    assert len(about) == 3
    assert about[0] < lines.index("TABLES") < about[1] < lines.index("TRIAL") < about[2]
    assert lines.count("      alter it;") == 2
    assert lines[-1] == "NOT READY: 1 thing to be done by hand."


def test_a_failure_is_said_with_its_code_what_raised_it_and_what_to_do() -> None:
    trial = Trial(
        steps=(Step("the migrations are applied", "done"), Step(FAILURE.step, "failed")), failures=(FAILURE,)
    )
    lines = lines_of(report_of(trial=trial))
    at = lines.index('  ! the trial failed where the command is claimed: relation "x" does not exist (42P01)')
    assert lines[at + 1 : at + 4] == [
        "    raised in function note()",
        "    Mend it.",
        "      alter function note();",
    ]
    assert "  FAILED   the command is claimed" in lines
    assert lines[-1] == "NOT READY: the trial failed where the command is claimed."


def test_the_columns_that_a_table_gets_are_one_line() -> None:
    assert "  - devices will get: mqtt_root text, mqtt_id text" in lines_of(report_of(*ADDED))


def test_a_project_where_all_goes_well_is_ready() -> None:
    report = report_of(NOTE, LOOK, trial=Trial(), new=True)
    assert report.is_fine
    assert report.state == "new"
    assert lines_of(report)[-1] == "READY: nothing stands in the way of the migrations. 1 thing to look at."


def test_without_a_trial_the_verdict_says_so() -> None:
    lines = lines_of(report_of(NOTE))
    assert "  - left out: as asked for" in lines
    assert lines[-1].endswith("Nothing was tried, and the functions' bodies were not compared.")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("added", "  ! function public.fn() is missing"),
        ("changed", "  ! function public.fn() is not as the files have it"),
        ("removed", "  ! function public.fn() should not be there any more"),
    ],
)
def test_what_differs_after_applying_is_named(what: str, words: str) -> None:
    change = Change(what, "function", "public.fn()")  # type: ignore[arg-type] # one of its words
    report = report_of(trial=Trial(changes=(change,)), applied=True)
    assert words in lines_of(report)
    assert not report.is_fine


def test_before_applying_what_is_added_is_counted_and_what_is_changed_is_named() -> None:
    changes = (
        Change("added", "index", "a"),
        Change("added", "index", "b"),
        Change("added", "policy", "c"),
        Change("changed", "constraint", "known on public.devices"),
    )
    lines = lines_of(report_of(trial=Trial(changes=changes)))
    assert "  - the migrations add 2 indexes, 1 policy" in lines
    assert "  - constraint known on public.devices will be changed" in lines


def test_what_others_waited_for_and_which_numbers_are_gone_is_said() -> None:
    locks = (
        Lock("public.devices", "AccessExclusiveLock, ShareLock"),
        Lock("auth.users", "ShareRowExclusiveLock"),
    )
    lines = lines_of(report_of(trial=Trial(locks=locks, sequences=("public.change_seq",), seconds=0.42)))
    assert (
        "  - all was rolled back after 0.4 s, in which others waited for devices to read or write,"
        " for auth.users to write"
    ) in lines
    assert any("numbers were drawn" in line and "public.change_seq" in line for line in lines)


def test_the_document_is_the_same_for_a_program() -> None:
    report = report_of(BY_HAND, trial=Trial(steps=(Step("a", "left out", "b"),), failures=(FAILURE,)))
    document = json.loads(json.dumps(as_document(report)))
    assert (document["fine"], document["state"], document["verdict"]) == (False, "to adopt", report.verdict)
    assert document["findings"] == [
        {
            "aspect": "columns",
            "kind": "required_column",
            "subject": "public.devices.petri",
            "text": "must not be empty",
            "level": "by hand",
            "sql": "alter it;",
        }
    ]
    assert document["trial"]["steps"] == [{"name": "a", "outcome": "left out", "note": "b"}]
    assert document["trial"]["failures"][0]["sqlstate"] == "42P01"
    assert document["database"]["host"] == "db.example.test"


def test_the_bucket_that_is_looked_at_is_the_workers() -> None:
    assert BUCKET == WORKERS_BUCKET
