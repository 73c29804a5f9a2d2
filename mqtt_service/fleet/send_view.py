"""How commands that were just sent get on, while a person waits. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from uuid import UUID

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mqtt_service.adapters.supabase.fleet_rows import CommandRow
from mqtt_service.fleet.tables import short_id
from mqtt_service.fleet.times import local
from mqtt_service.fleet.words import STATUSES, brief, colour, fate

_ROWS = 15


def progress_view(
    rows: Sequence[CommandRow], labels: Mapping[UUID, str], asked: int, now: datetime
) -> RenderableType:
    """A bar and counts; each command of a few, and of many those that are lost."""
    counts = Counter(row.status for row in rows)
    line = Text()
    for status in (*STATUSES, *sorted(counts.keys() - set(STATUSES))):
        if counts[status]:
            line.append(f"{counts[status]} {status}  ", style=colour(status))
    parts: list[RenderableType] = []
    if asked > 1:
        done = sum(fate(row) != "open" for row in rows)
        parts += [ProgressBar(total=asked, completed=done, width=50), line]
    shown = rows if asked <= _ROWS else [row for row in rows if fate(row) == "lost"][:_ROWS]
    if shown:
        table = Table(box=None, show_header=False, pad_edge=False)
        for row in sorted(shown, key=lambda row: labels.get(row.device_id, "")):
            table.add_row(
                short_id(row.command_id),
                Text(labels.get(row.device_id, "")),
                Text(row.status, style=colour(row.status)),
                Text(brief(row, now)),
            )
        parts.append(table)
    return Group(*parts)


def change_line(
    row: CommandRow, labels: Mapping[UUID, str], now: datetime, zone: tzinfo | None = None
) -> str:
    """One change as a line for a log: when, which device, which command, what."""
    words = brief(row, now)
    text = f"{local(now, zone)} {labels.get(row.device_id, '(gone)')} {short_id(row.command_id)} {row.status}"
    return f"{text}: {words}" if words else text
