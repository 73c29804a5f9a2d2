"""Questions to fn_calculate_next_wake, one or many at once, and the model for its answers.

The model is the rule written down as slowly as it reads: go through time minute by minute and look at the
clock on the wall. Parsing is cronsim's, so the model shares no code with the function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from cronsim import CronSim

MINUTE = timedelta(minutes=1)

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """One question: the first run of `expression` in `zone` after `start` (aware, UTC)."""

    expression: str
    start: datetime
    zone: str

    @property
    def local_start(self) -> datetime:
        """The same instant on the zone's clock."""
        return self.start.astimezone(ZoneInfo(self.zone))

    @property
    def wildcard(self) -> bool:
        """Whether minute or hour begins with *: such a schedule follows the clock on the wall."""
        minute, hour, *_ = self.expression.split()
        return minute.startswith("*") or hour.startswith("*")

    def shows(self, wall: datetime) -> bool:
        """Whether the schedule names this minute of the wall clock."""
        schedule = CronSim(self.expression, datetime(2000, 1, 1, tzinfo=UTC))
        return _shows(schedule, wall)


def _shows(schedule: CronSim, wall: datetime) -> bool:
    return (
        wall.minute in schedule.minutes
        and wall.hour in schedule.hours
        and wall.month in schedule.months
        and schedule.match_day(wall.date())
    )


def model(case: Case, within: timedelta) -> datetime | None:
    """Answer `case` by looking at every minute, or None if nothing runs within this time."""
    schedule, wildcard, zone = CronSim(case.expression, case.start), case.wildcard, ZoneInfo(case.zone)
    at = case.start.replace(second=0, microsecond=0)
    wall = at.astimezone(zone).replace(tzinfo=None)
    while at < case.start + within:
        before, at = wall, at + MINUTE
        local = at.astimezone(zone)
        wall = local.replace(tzinfo=None)
        if wildcard:
            runs = _shows(schedule, wall)
        else:
            skipped = (before + MINUTE * n for n in range(1, (wall - before) // MINUTE))
            runs = (not local.fold and _shows(schedule, wall)) or any(
                _shows(schedule, each) for each in skipped
            )
        if runs:
            return at
    return None


def next_wake(
    connection: Connection, expression: str | None, start: datetime | None, zone: str | None
) -> datetime:
    """Ask one question. Raises psycopg.errors.InvalidParameterValue for nonsense."""
    row = connection.execute(
        "select public.fn_calculate_next_wake(%s, %s, %s)", (expression, start, zone)
    ).fetchone()
    assert row is not None
    assert isinstance(row[0], datetime)
    return row[0].astimezone(UTC)


def next_wakes(connection: Connection, cases: Sequence[Case]) -> list[datetime | None]:
    """Ask many questions in one statement; None where the database refuses the expression (22023)."""
    connection.execute("""
        create or replace function pg_temp.next_wake_or_null(text, timestamptz, text) returns timestamptz
        language plpgsql as $$
        begin
          return public.fn_calculate_next_wake($1, $2, $3);
        exception when invalid_parameter_value then
          return null;
        end $$
    """)
    rows = connection.execute(
        """
        select pg_temp.next_wake_or_null(expression, start, zone)
        from unnest(%s::text[], %s::timestamptz[], %s::text[])
          with ordinality as q(expression, start, zone, n)
        order by n
        """,
        ([c.expression for c in cases], [c.start for c in cases], [c.zone for c in cases]),
    ).fetchall()
    answers = [row[0] for row in rows]
    return [answer.astimezone(UTC) if isinstance(answer, datetime) else None for answer in answers]
