"""Runs the backfill for whoever started it: progress on standard error, the report on standard output.

The report is a few tables for a person or one JSON object for a machine.
"""

import asyncio
import json
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mqtt_service.adapters.supabase.devices import ProvisioningGateway
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.config import ProjectSettings
from mqtt_service.devices.backfill import (
    Backfill,
    Outcome,
    complete_lineage,
    count_issues,
    find_incomplete,
    is_fixable,
)
from mqtt_service.errors import PermanentError, ServiceError

DONE, FAILED, MISCONFIGURED, INTERRUPTED = 0, 1, 2, 130


def run_backfill(settings: ProjectSettings, *, dry_run: bool, as_json: bool) -> int:
    """Find devices with incomplete lineage, complete them, report; returns the exit status.

    0: nothing that can be fixed remains (or `dry_run`, which changes nothing). 1: a device failed, or the
    database stopped answering. 2: the key or the migrations are not right. 130: interrupted; what was done
    by then is reported, and the next run continues from there.
    """
    progress_console = Console(stderr=True)
    backfill = Backfill()
    error: str | None = None
    try:
        asyncio.run(_run(settings, backfill, progress_console, dry_run=dry_run))
        status = DONE if dry_run or backfill.succeeded else FAILED
    except KeyboardInterrupt:
        status, error = INTERRUPTED, "interrupted; run it again to go on"
    except ServiceError as cause:
        status, error = MISCONFIGURED if isinstance(cause, PermanentError) else FAILED, str(cause)
    if error:
        progress_console.print(f"error: {error}", markup=False, soft_wrap=True)
    if as_json:
        document = {**_document(backfill, dry_run=dry_run), "error": error}
        print(json.dumps(document, indent=2))  # noqa: T201 - the report itself
    elif backfill.found or not error:
        _print_tables(backfill, dry_run=dry_run)
    return status


async def _run(settings: ProjectSettings, backfill: Backfill, console: Console, *, dry_run: bool) -> None:
    client = await connect(settings.supabase_url, settings.supabase_secret_key.get_secret_value())
    gateway = ProvisioningGateway(DatabaseFunctions(client))
    backfill.found = await find_incomplete(gateway)
    if dry_run or not backfill.found:
        backfill.remaining = backfill.found
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bars = {
            issue: progress.add_task(issue, total=count)
            for issue, count in sorted(count_issues(backfill.found).items())
        }
        await complete_lineage(
            gateway, backfill, lambda outcome: progress.advance(bars[outcome.device.issue])
        )


def _document(backfill: Backfill, *, dry_run: bool) -> dict[str, object]:
    remaining = backfill.remaining
    return {
        "dry_run": dry_run,
        "found": count_issues(backfill.found),
        "fixable": sum(map(is_fixable, backfill.found)),
        **{
            result: [_described(outcome) for outcome in backfill.with_result(result)]
            for result in ("fixed", "failed", "skipped")
        },
        # null: the run ended before it could look again
        "remaining": None if remaining is None else count_issues(remaining),
        "remaining_fixable": None if remaining is None else sum(map(is_fixable, remaining)),
    }


def _described(outcome: Outcome) -> dict[str, str | None]:
    device = outcome.device
    return {
        "device_id": str(device.device_id),
        "device_code": device.device_code,
        "device_mac": device.device_mac,
        "issue": device.issue,
        "reason": outcome.reason,
    }


def _print_tables(backfill: Backfill, *, dry_run: bool) -> None:
    console = Console()
    if not backfill.found:
        console.print("No device with incomplete lineage was found.")
        return
    console.print(_issue_table(backfill, dry_run=dry_run))
    for result in ("failed", "skipped"):
        reasons = Counter(outcome.reason for outcome in backfill.with_result(result))
        for reason, count in reasons.most_common():
            console.print(f"{result} {count}: {reason}", markup=False, soft_wrap=True)


def _issue_table(backfill: Backfill, *, dry_run: bool) -> Table:
    """One row for each issue: how many devices had it, what became of them, how many have it now."""
    table = Table(title="Devices with incomplete lineage" + (" (dry run)" if dry_run else ""))
    table.add_column("issue", no_wrap=True)
    fixable = count_issues([device for device in backfill.found if is_fixable(device)])
    remaining = count_issues(backfill.remaining or ())
    for column in ("found", "fixable", "fixed", "failed", "skipped", "remaining"):
        table.add_column(column, justify="right")
    issues = count_issues(backfill.found)
    for issue in [*issues, *(remaining.keys() - issues.keys())]:
        results = Counter(outcome.result for outcome in backfill.outcomes if outcome.device.issue == issue)
        table.add_row(
            issue,
            str(issues.get(issue, 0)),
            str(fixable.get(issue, 0)),
            *(str(results[result]) for result in ("fixed", "failed", "skipped")),
            "?" if backfill.remaining is None else str(remaining.get(issue, 0)),
        )
    return table
