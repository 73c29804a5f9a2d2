"""`mqtt-service migrations --check`: look, try, report."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import psycopg
from dotenv import dotenv_values
from rich.console import Console

from mqtt_service.adoption import (
    access,
    columns,
    functions,
    history,
    required,
    rows,
    services,
    tables,
    triggers,
)
from mqtt_service.adoption.database import Connection, connect, place_of, read_only
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.intended import read_intended
from mqtt_service.adoption.project import Project, read_project
from mqtt_service.adoption.report import Report, as_document, as_text
from mqtt_service.adoption.trial import run_trial
from mqtt_service.errors import ConfigurationError
from mqtt_service.migrations import Migration

URL_VARIABLE = "SUPABASE_DB_URL"
ENV_FILE = ".env"

_ASPECTS: Sequence[tuple[Aspect, Callable[[Project], Iterable[Finding]]]] = (
    (Aspect.TABLES, tables.inspect),
    (Aspect.COLUMNS, required.inspect),
    (Aspect.COLUMNS, columns.inspect),
    (Aspect.TRIGGERS, triggers.inspect),
    (Aspect.FUNCTIONS, functions.inspect),
    (Aspect.ACCESS, access.inspect),
    (Aspect.SERVICES, services.inspect),
    (Aspect.ROWS, rows.inspect),
    (Aspect.HISTORY, history.inspect),
)


def run_check(
    url: str | None,
    files: Sequence[Migration],
    *,
    trial: bool | None = None,
    trial_seconds: float = 60.0,
    as_json: bool = False,
) -> int:
    """Check the database at `url` (None: SUPABASE_DB_URL of .env), print the report, return the exit status.

    `trial` None: it is tried unless a trigger of the project may act outside of the database. Raises
    ConfigurationError where the database cannot be reached.
    """
    with connect(url or _url_of_env_file()) as connection:
        if trial is not False:
            _announce(trial_seconds)
        try:
            report = check(connection, files, trial=trial, trial_seconds=trial_seconds)
        except psycopg.OperationalError as error:
            raise ConfigurationError([f"the connection broke off: {str(error).strip()}"]) from None
    _print(report, as_json=as_json)
    return 0 if report.is_fine else 1


def check(
    connection: Connection,
    files: Sequence[Migration],
    *,
    trial: bool | None = None,
    trial_seconds: float = 60.0,
) -> Report:
    """Look at the database, then try the files; nothing is kept."""
    intended = read_intended(files)
    with read_only(connection):
        project = read_project(connection, intended)
        findings = tuple(_look(project))
    reason = _reason_for_no_trial(findings, trial=trial)
    tried = None if reason else run_trial(project, files, seconds=trial_seconds)
    return Report(place_of(connection), project.is_applied, not project.tables, findings, tried, reason)


def _look(project: Project) -> Iterator[Finding]:
    """Every aspect; where one cannot be read, that is a finding, and the others go on."""
    for aspect, inspect in _ASPECTS:
        try:
            with project.connection.transaction():
                yield from list(inspect(project))
        except psycopg.Error as error:
            if project.connection.broken:
                raise
            yield Finding(
                aspect,
                "not_readable",
                aspect.value.lower(),
                f"could not be looked at: {error.diag.message_primary or error}",
                Level.LOOK,
            )


def _reason_for_no_trial(findings: Sequence[Finding], *, trial: bool | None) -> str:
    """Why nothing is tried; empty: it is."""
    if trial is False:
        return "as asked for"
    outside = [each.subject for each in findings if each.kind == "trigger_reaches_out"]
    if trial is None and outside:
        return f"{outside[0]} may act outside of the database, which is not taken back; --trial tries it"
    missing = [
        each.subject for each in findings if each.kind in {"role_missing", "no_member_of_service_role"}
    ]
    return f"it cannot act as the worker ({missing[0]})" if missing else ""


def _url_of_env_file() -> str:
    try:
        return dotenv_values(ENV_FILE).get(URL_VARIABLE) or ""
    except UnicodeDecodeError:
        raise ConfigurationError([f"{ENV_FILE} is not UTF-8 text: save it as such"]) from None


def _announce(seconds: float) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        "This looks, then tries in a transaction that is rolled back. Meanwhile the tables that the"
        f" migrations alter are locked, most often for a second, at most for {seconds:g};"
        " --no-trial only looks."
    )


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(f"{json.dumps(as_document(report), ensure_ascii=False)}\n")
        return
    console = Console(soft_wrap=True, highlight=False)
    for line in as_text(report):
        console.print(line)
