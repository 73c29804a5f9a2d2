"""Rollouts and windows on a terminal. Pure: rows in, a view out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mqtt_service.adapters.supabase.fleet_rollouts import RolloutDevice, RolloutRow, WindowRow
from mqtt_service.fleet.tables import short_id
from mqtt_service.fleet.times import both, relative

_COLOURS = {
    "succeeded": "green", "failed": "red", "refused": "red", "cancelled": "yellow", "skipped": "yellow",
    "running": "green", "stopped": "red", "paused": "yellow", "awaiting_approval": "yellow",
}  # fmt: skip
_STATES = (
    "waiting", "pending", "sent", "unverified", "succeeded", "failed", "cancelled", "refused", "skipped",
)  # fmt: skip


def _counts(row: RolloutRow) -> list[tuple[str, int]]:
    return [(state, count) for state in _STATES if (count := getattr(row, state))]


def progress_line(row: RolloutRow) -> str:
    """A rollout as a line for a log."""
    counts = ", ".join(f"{count} {state}" for state, count in _counts(row)) or "no device yet"
    return f"{row.name} is {row.status}: {counts}"


def rollout_page(
    row: RolloutRow, unlucky: Sequence[RolloutDevice], labels: Mapping[UUID, str], now: datetime
) -> RenderableType:
    """A rollout: a bar, its devices by state, what comes next, and some that got no further."""
    head = Text(f"{row.name}: {row.command_type}, ")
    head.append(row.status, style=_COLOURS.get(row.status, ""))
    head.append(f", {row.rate_per_minute} a minute")
    if row.status == "running" and row.next_release_at is not None:
        head.append(f", the next {both(row.next_release_at, now)}")
    line = Text()
    for state, count in _counts(row):
        line.append(f"{count} {state}  ", style=_COLOURS.get(state, ""))
    parts: list[RenderableType] = [head]
    if row.total:
        parts.append(ProgressBar(total=row.total, completed=row.ended + row.skipped, width=50))
    parts.append(line)
    if row.last_result:
        parts.append(Text(row.last_result))
    if unlucky:
        table = Table(box=None, show_header=False, pad_edge=False)
        for one in unlucky:
            table.add_row(
                Text(labels.get(one.device_id, str(one.device_id))),
                Text(one.state, style=_COLOURS.get(one.state, "")),
                Text(one.reason or ""),
            )
        parts.append(table)
    return Group(*parts)


def rollouts_table(rollouts: Sequence[RolloutRow], now: datetime) -> Table:
    """One row a rollout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rollout", "name", "type", "status", "started"):
        table.add_column(column, no_wrap=True)
    for column in ("devices", "ok", "failed"):
        table.add_column(column, justify="right")
    table.add_column("last")
    for row in rollouts:
        table.add_row(
            short_id(row.rollout_id),
            Text(row.name),
            Text(row.command_type),
            Text(row.status, style=_COLOURS.get(row.status, "")),
            relative(row.started_at, now) if row.started_at else "",
            "continuous" if row.total is None else str(row.total),
            str(row.succeeded),
            str(row.failed + row.refused),
            Text(row.last_result or ""),
        )
    return table


def windows_table(windows: Sequence[WindowRow], names: Mapping[UUID, str], now: datetime) -> Table:
    """One row a window."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("window", "of", "when", "for", "opens"):
        table.add_column(column, no_wrap=True)
    table.add_column("holds")
    for row in windows:
        owner = row.site_id or row.rollout_id
        table.add_row(
            short_id(row.window_id),
            Text(names.get(owner, str(owner)) if owner else ""),
            Text(f"{row.cron} {row.timezone or ''}".strip()),
            Text(row.duration),
            _opening(row, now),
            Text("its rollout" if row.rollout_id else ", ".join(row.command_types)),
        )
    return table


def _opening(row: WindowRow, now: datetime) -> Text:
    if row.opens_at is None or row.closes_at is None:
        return Text(row.problem or "disabled", style="yellow")
    if row.opens_at <= now < row.closes_at:
        return Text(f"open, closes {both(row.closes_at, now)}", style="green")
    return Text(both(row.opens_at, now))
