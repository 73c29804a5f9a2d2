"""What became of a command, as a verdict and in a few words. Pure."""

from datetime import datetime, timedelta
from typing import Literal

from mqtt_service.adapters.supabase.fleet_rows import CommandRow
from mqtt_service.fleet.times import relative, span

Fate = Literal["open", "done", "lost"]

STATUSES = ("pending", "sent", "acknowledged", "failed", "rejected", "expired", "cancelled")
# Words for several statuses at once, as a filter takes them.
OPEN, LOST = "open", "lost"

_COLOURS = {
    "pending": "yellow",
    "sent": "cyan",
    "acknowledged": "green",
    "failed": "red",
    "rejected": "red",
    "expired": "magenta",
    "cancelled": "dim",
}


def fate(command: CommandRow) -> Fate:
    """Whether the device did it (`done`), can still do it (`open`), or nothing will come of it (`lost`)."""
    if command.status == "acknowledged":
        return "done"
    waits = command.status in {"pending", "sent"} or (
        command.status == "failed" and command.due_at is not None
    )
    return "open" if waits and command.in_queue else "lost"


def is_leased(command: CommandRow, now: datetime) -> bool:
    """Whether a worker is sending it at this moment."""
    return command.lease_until is not None and command.lease_until > now


def colour(status: str) -> str:
    """The colour of a status, for rich."""
    return _COLOURS.get(status, "default")


def answer_time(command: CommandRow) -> timedelta | None:
    """From the broker's acknowledgement to the device's; None where either is missing.

    An answer can be faster than the worker's note that it sent the command: then nothing.
    """
    if command.acknowledged_at is None or command.delivered_at is None:
        return None
    return max(command.acknowledged_at - command.delivered_at, timedelta())


def brief(command: CommandRow, now: datetime) -> str:
    """Why a command is where it is, in a few words, for a table."""
    if not command.in_queue and command.status in {"pending", "sent"}:
        return "left alone: not the service's"
    if command.status == "pending":
        return _brief_pending(command, now)
    if command.status == "sent":
        return _brief_sent(command, now)
    if command.status == "failed":
        again = f"again {relative(command.due_at, now)}" if command.due_at else "for good"
        return f"{again}: {command.last_error or 'no reason was given'}"
    if command.status == "acknowledged":
        took = answer_time(command)
        return "" if took is None else f"after {took.total_seconds():.1f} s"
    return "the device did it all the same" if command.done_after_cancel_at else command.last_error or ""


def progress_words(command: CommandRow) -> str:
    """What the device said last of what it is at: `40 % (writing)`, or `at it`."""
    share = "at it" if command.progress is None else f"{command.progress} %"
    return f"{share} ({command.progress_message})" if command.progress_message else share


def _brief_sent(command: CommandRow, now: datetime) -> str:
    if command.progress_at is not None:
        return f"{progress_words(command)} {relative(command.progress_at, now)}"
    return "nobody was listening" if command.no_listener else "no answer yet"


def _brief_pending(command: CommandRow, now: datetime) -> str:
    if is_leased(command, now):
        return f"{command.lease_worker} is sending it"
    if command.held_until is not None:
        return f"its window opens {relative(command.held_until, now)}"
    if command.due_at is None:
        return ""
    if command.due_at > now:
        return f"due {relative(command.due_at, now)}"
    return (
        "due now" if now - command.due_at < timedelta(seconds=5) else f"due for {span(now - command.due_at)}"
    )
