"""fn_calculate_next_wake against cronsim, croniter and a minute-by-minute model, on random schedules.

cronsim follows Debian's cron as the function does, so it must agree everywhere but for the faults named in
`fault_of_cronsim`. croniter has rules of its own for * and for clock changes; it must agree on the rest
(`means_the_same_to_croniter`, `fault_of_croniter`). Around clock changes the model decides, on every case.
Two thousand schedules in each run, always the same ones; MQTT_SERVICE_LONG_DRILLS=1 tries 10,000.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from random import Random
from zoneinfo import ZoneInfo

import psycopg
import pytest
from croniter import CroniterBadDateError, croniter
from cronsim import CronSim, CronSimError
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.faults.bench.drills import drill
from tests.integration.database import cron_expressions
from tests.integration.database.next_wake import (
    Case,
    Connection,
    model,
    next_wake,
    next_wakes,
)

# Their clocks change by half an hour, or at a time that is no whole hour on the wall.
ODD_ZONES = ("Australia/Lord_Howe", "Pacific/Chatham", "America/St_Johns")


@cache
def any_time() -> list[Case]:
    random = Random(2)
    return [cron_expressions.at_any_time(random) for _ in range(drill(1600, 6000))]


@cache
def near_a_change() -> list[Case]:
    random = Random(4)
    return [cron_expressions.near_a_clock_change(random) for _ in range(drill(600, 4000))]


def can_fire(case: Case) -> bool:
    """Whether cronsim accepts the expression: it refuses those that can never fire when it reads them."""
    try:
        CronSim(case.expression, case.start)
    except CronSimError:
        return False
    return True


def by_cronsim(case: Case) -> datetime | None:
    if not can_fire(case):
        return None
    return next(CronSim(case.expression, case.local_start)).astimezone(UTC)


def is_safe_for_cronsim(case: Case) -> bool:
    """Whether cronsim can be asked: it goes by whole hours for wildcard times, in odd zones without end."""
    return not (case.wildcard and case.zone in ODD_ZONES)


def fault_of_cronsim(case: Case, answer: datetime) -> str | None:
    """Why cronsim's answer is not the right one, or None."""
    if not case.wildcard and answer <= case.start:
        return "from the second showing of an hour it goes back to the first, which is not after the start"
    return None


def by_croniter(case: Case) -> datetime | None:
    try:
        times = croniter(case.expression.strip(), case.local_start)
        answer: datetime = times.get_next(datetime)
    except CroniterBadDateError:
        return None
    return answer.astimezone(UTC)


def means_the_same_to_croniter(case: Case) -> bool:
    """Whether croniter reads the fields as Vixie does.

    It takes */2 in a day field for a restriction (days are OR then), where Vixie, pg_cron and Debian look at
    the first character alone; and it takes a list that happens to hold every day or hour for *. The function
    follows Vixie: crontab(5) says so, and it is what people's other schedules do.
    """
    _, hour, month_day, _, weekday = case.expression.split()
    schedule = CronSim(case.expression, case.start)
    weekdays = {day % 7 for day in schedule.weekdays if isinstance(day, int)}
    complete = [
        (hour, len(schedule.hours) == 24),
        (month_day, len(schedule.days) == 31),
        (weekday, len(weekdays) == 7),
    ]
    return "*/" not in month_day + weekday and all(field == "*" for field, every in complete if every)


def fault_of_croniter(case: Case, answer: datetime) -> str | None:
    """Why croniter's answer is not the one of Debian's cron, or None."""
    wall = answer.astimezone(ZoneInfo(case.zone))
    if not case.wildcard and wall.fold:
        return "it runs a fixed time again when the clock shows it the second time"
    if case.wildcard and not case.shows(wall):
        return "it makes up for a wildcard time in a gap, at a time that the schedule does not name"
    return None


def check(
    cases: Sequence[Case],
    ours: Sequence[datetime | None],
    theirs: Callable[[Case], datetime | None],
    fault: Callable[[Case, datetime], str | None],
) -> set[str]:
    """Assert equal answers but for known faults, where the model has to agree with us; return those seen."""
    faults = set()
    for case, answer in zip(cases, ours, strict=True):
        other = theirs(case)
        if other == answer:
            continue
        assert answer is not None, f"{case} is refused, and should be {other}"
        assert other is not None, f"{case} is {answer}, and should be refused"
        reason = fault(case, other)
        assert reason, f"{case} is {answer}, and should be {other}"
        late_start = replace(case, start=max(case.start, answer - timedelta(days=2)))
        assert model(late_start, timedelta(days=3)) == answer, case
        faults.add(reason)
    return faults


@pytest.mark.parametrize(
    ("drawn", "faults"), [(any_time, 0), (near_a_change, 1)], ids=["any time", "near a change"]
)
def test_it_agrees_with_cronsim(shared: Connection, drawn: Callable[[], list[Case]], faults: int) -> None:
    cases = drawn()
    comparable = [case for case in cases if is_safe_for_cronsim(case)]
    assert len(comparable) > 0.7 * len(cases)
    seen = check(comparable, next_wakes(shared, comparable), by_cronsim, fault_of_cronsim)
    assert len(seen) == faults, seen


@pytest.mark.parametrize(
    ("drawn", "faults"), [(any_time, 0), (near_a_change, 2)], ids=["any time", "near a change"]
)
def test_it_agrees_with_croniter(shared: Connection, drawn: Callable[[], list[Case]], faults: int) -> None:
    cases = drawn()
    comparable = [case for case in cases if not can_fire(case) or means_the_same_to_croniter(case)]
    assert len(comparable) > 0.7 * len(cases)
    seen = check(comparable, next_wakes(shared, comparable), by_croniter, fault_of_croniter)
    assert len(seen) == faults, seen


def test_around_every_clock_change_it_runs_when_the_clock_on_the_wall_says(shared: Connection) -> None:
    cases = near_a_change()[: drill(300, 1500)]
    two_days = timedelta(days=2)
    found = 0
    for case, answer in zip(cases, next_wakes(shared, cases), strict=True):
        if answer is None:
            continue
        expected = model(case, two_days)
        assert answer == expected or (expected is None and answer > case.start + two_days), case
        found += expected is not None
    assert found > 0.7 * len(cases)


def test_random_schedules_include_some_that_can_never_fire(shared: Connection) -> None:
    refused = [
        case
        for case, answer in zip(any_time(), next_wakes(shared, any_time()), strict=True)
        if answer is None
    ]
    assert refused
    for case in refused:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="can never fire"):
            next_wake(shared, case.expression, case.start, case.zone)


def test_the_time_zone_of_the_session_makes_no_difference(shared: Connection) -> None:
    cases = near_a_change()[: drill(300, 1000)]
    expected = next_wakes(shared, cases)
    for zone in ("America/New_York", "Australia/Lord_Howe"):
        shared.execute(f"set timezone = '{zone}'")
        assert next_wakes(shared, cases) == expected
    shared.execute("reset timezone")


# The database is the same for all examples of a test; the function only reads.
_SETTINGS = settings(
    max_examples=drill(100, 300),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
_CASES = st.builds(
    lambda random, near: (cron_expressions.near_a_clock_change if near else cron_expressions.at_any_time)(
        random
    ),
    st.randoms(use_true_random=False),
    st.booleans(),
)


@_SETTINGS
@given(case=_CASES, part=st.floats(0, 0.999))
def test_from_anywhere_before_the_next_run_the_next_run_is_the_same(
    shared: Connection, case: Case, part: float
) -> None:
    ask = partial(next_wake, shared)
    assume(can_fire(case))
    answer = ask(case.expression, case.start, case.zone)
    assert answer > case.start
    assert ask(case.expression, case.start + part * (answer - case.start), case.zone) == answer
    assert ask(case.expression, answer - timedelta(microseconds=1), case.zone) == answer
    assert ask(case.expression, answer, case.zone) > answer


_CRONLIKE = st.lists(st.text("0123456789*/-,@JANFEBMONSUNL#? \t", min_size=1, max_size=8), max_size=6).map(
    " ".join
)
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@_SETTINGS
@given(expression=st.one_of(_CRONLIKE, _TEXT))
def test_any_text_is_answered_or_refused_with_its_name(shared: Connection, expression: str) -> None:
    start = datetime(2025, 6, 1, 12, 30, tzinfo=UTC)
    try:
        answer = next_wake(shared, expression, start, "Europe/Berlin")
    except psycopg.errors.InvalidParameterValue as error:
        refusal = error.diag
    else:
        assert answer > start
        return
    assert (refusal.message_primary or "").startswith(f'cron "{expression[:97]}')
    assert refusal.message_hint
