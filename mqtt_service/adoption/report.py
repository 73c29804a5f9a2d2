"""What a check found, as a person reads it and as one JSON object. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from rich.text import Text

from mqtt_service import __version__
from mqtt_service.adoption.changes import Change
from mqtt_service.adoption.database import Place, listed
from mqtt_service.adoption.failure import Failure
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.trial import Trial

State = Literal["new", "to adopt", "applied", "not as these files have it"]

_MARKS = {Level.BY_HAND: "!", Level.LOOK: "?", Level.NOTE: "-"}
_STYLES = {Level.BY_HAND: "bold red", Level.LOOK: "yellow", Level.NOTE: ""}
_OUTCOMES = {"done": ("ok", "green"), "failed": ("FAILED", "bold red"), "left out": ("left out", "yellow")}

# What these say of a database to which the migrations were applied is that it lacks something of them.
_LACKS = frozenset(
    {"table_missing", "private_tables_missing", "column_missing", "functions_missing", "not_published",
     "publication_missing", "bucket_missing"}
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All that was found. `trial` is None where it was left out; `no_trial` says why then."""

    place: Place
    is_applied: bool
    is_new: bool
    findings: tuple[Finding, ...]
    trial: Trial | None
    no_trial: str = ""

    @property
    def state(self) -> State:
        """How the database stands to the files."""
        if self.is_applied:
            return "not as these files have it" if self._differs() else "applied"
        return "new" if self.is_new else "to adopt"

    @property
    def by_hand(self) -> list[Finding]:
        """What a person must see to first."""
        return [finding for finding in self.findings if finding.level is Level.BY_HAND]

    @property
    def failures(self) -> Sequence[Failure]:
        """What of the trial failed."""
        return self.trial.failures if self.trial else ()

    @property
    def is_fine(self) -> bool:
        """Whether nothing must be done but, at most, to apply the migrations for the first time."""
        return not self.by_hand and not self.failures and self.state != "not as these files have it"

    @property
    def verdict(self) -> str:
        """The last line."""
        if self.by_hand or self.failures:
            things = [f"{_count(len(self.by_hand), 'thing')} to be done by hand"] if self.by_hand else []
            things += [f"the trial failed where {self.failures[0].step}"] if self.failures else []
            return f"NOT READY: {' and '.join(things)}."
        if self.state == "not as these files have it":
            return "NOT IN PLACE: apply the migrations again; the list above says what differs."
        look = sum(each.level is Level.LOOK for each in self.findings)
        rest = f" {_count(look, 'thing')} to look at." if look else ""
        if self.trial is None:
            rest += " Nothing was tried, and the functions' bodies were not compared."
        if self.state == "applied":
            return f"ALL IS IN PLACE.{rest}"
        return f"READY: nothing stands in the way of the migrations.{rest}"

    def _differs(self) -> bool:
        return bool(self.trial and self.trial.changes) or any(each.kind in _LACKS for each in self.findings)


def as_document(report: Report) -> dict[str, Any]:
    """Return the report as JSON; see supabase/README.md."""
    return {
        "version": __version__,
        "database": asdict(report.place),
        "state": report.state,
        "fine": report.is_fine,
        "verdict": report.verdict,
        "findings": [
            {**asdict(each), "aspect": each.aspect.name.lower(), "level": each.level.value}
            for each in report.findings
        ],
        "trial": asdict(report.trial) if report.trial else None,
        "no_trial": report.no_trial or None,
    }


def as_text(report: Report) -> Iterator[Text]:
    """Return the report by lines: what must be done, every aspect, what must be done again, the verdict."""
    place = report.place
    yield Text(
        f"Database {place.database} at {place.host}:{place.port}, PostgreSQL {place.version}, as"
        f" {place.user}. Nothing in it is changed."
    )
    yield Text("! must be done by hand   ? look at it   - for your information", "dim")
    yield from _to_do(report, "To be done by hand, first")
    for aspect in Aspect:
        found = [each for each in report.findings if each.aspect is aspect]
        if found:
            yield from _heading(aspect.value)
            yield from _columns(found) if aspect is Aspect.COLUMNS else _findings(found)
    yield from _trial(report)
    yield from _to_do(report, "To be done by hand")
    yield Text()
    yield Text(report.verdict, "bold green" if report.is_fine else "bold red")


def _heading(title: str) -> Iterator[Text]:
    yield Text()
    yield Text(title.upper(), "bold")


def _findings(found: Sequence[Finding]) -> Iterator[Text]:
    for each in found:
        yield _line(
            _MARKS[each.level], f"{each.subject.removeprefix('public.')} {each.text}", _STYLES[each.level]
        )
        if each.sql and each.level is not Level.BY_HAND:
            yield from _sql(each.sql)


def _columns(found: Sequence[Finding]) -> Iterator[Text]:
    """What is added is one line a table."""
    added = [each for each in found if each.kind == "column_missing"]
    yield from _findings([each for each in found if each.kind != "column_missing"])
    for table, columns in groupby(added, lambda each: each.subject.rpartition(".")[0]):
        names = ", ".join(f"{each.subject.rpartition('.')[2]} {_type(each)}" for each in columns)
        yield _line("-", f"{table.removeprefix('public.')} will get: {names}")


def _type(added: Finding) -> str:
    return added.text.removeprefix("will be added: ").partition(" check ")[0]


def _trial(report: Report) -> Iterator[Text]:
    yield from _heading(Aspect.TRIAL.value)
    if report.trial is None:
        yield _line("-", f"left out: {report.no_trial}")
        return
    for step in report.trial.steps:
        word, style = _OUTCOMES[step.outcome]
        yield Text(f"  {word:8} {step.name}{f' ({step.note})' if step.note else ''}", style)
    yield from _changes(report)
    for text in (*report.trial.warnings, *report.trial.remarks):
        yield _line("?", text, "yellow")
    yield from _traces(report.trial)


def _changes(report: Report) -> Iterator[Text]:
    """What is different: all of it where the files were applied before, else what they change or remove."""
    changes = report.trial.changes if report.trial else ()
    if not report.is_applied:
        counts = [
            f"{_count(len(list(alike)), kind)}"
            for kind, alike in groupby(
                (each for each in changes if each.what == "added"), lambda each: each.kind
            )
        ]
        if counts:
            yield _line("-", f"the migrations add {', '.join(counts)}")
        changes = tuple(each for each in changes if each.what != "added")
    for each in changes:
        yield _line("!" if report.is_applied else "-", _change(each, is_applied=report.is_applied))


def _change(change: Change, *, is_applied: bool) -> str:
    words = {
        "added": ("is missing", "will be added"),
        "changed": ("is not as the files have it", "will be changed"),
        "removed": ("should not be there any more", "will be removed"),
    }[change.what]
    return f"{change.kind} {change.name} {words[0] if is_applied else words[1]}"


def _traces(trial: Trial) -> Iterator[Text]:
    """What others felt of it."""
    if trial.locks:
        closed = [
            lock.table.removeprefix("public.") for lock in trial.locks if "AccessExclusiveLock" in lock.mode
        ]
        kept = [
            lock.table.removeprefix("public.")
            for lock in trial.locks
            if "AccessExclusiveLock" not in lock.mode
        ]
        waits = [
            f"{listed(tables, 20)} to {what}"
            for tables, what in ((closed, "read or write"), (kept, "write"))
            if tables
        ]
        yield _line(
            "-",
            f"all was rolled back after {trial.seconds:.1f} s, in which others waited for"
            f" {', for '.join(waits)}",
        )
    if trial.sequences:
        yield _line(
            "-",
            "numbers were drawn, which Postgres does not take back; the gap does no harm:"
            f" {listed(trial.sequences, 20)}",
        )


def _to_do(report: Report, title: str) -> Iterator[Text]:
    if not report.by_hand and not report.failures:
        return
    yield from _heading(title)
    for each in report.by_hand:
        yield _line("!", f"{each.subject.removeprefix('public.')} {each.text}", _STYLES[Level.BY_HAND])
        if each.sql:
            yield from _sql(each.sql)
    for failure in report.failures:
        yield from _failure(failure)


def _failure(failure: Failure) -> Iterator[Text]:
    code = f" ({failure.sqlstate})" if failure.sqlstate else ""
    yield _line(
        "!", f"the trial failed where {failure.step}: {failure.message}{code}", _STYLES[Level.BY_HAND]
    )
    if failure.raised_by:
        yield Text(f"    raised in {failure.raised_by}")
    yield Text(f"    {failure.advice}")
    if failure.sql:
        yield from _sql(failure.sql)


def _line(mark: str, text: str, style: str = "") -> Text:
    return Text(f"  {mark} {text}", style)


def _sql(statements: str) -> Iterator[Text]:
    for line in statements.splitlines():
        yield Text(f"      {line}", "cyan")


def _count(number: int, thing: str) -> str:
    plural = {"index": "indexes", "policy": "policies"}.get(thing, f"{thing}s")
    return f"{number} {thing if number == 1 else plural}"
