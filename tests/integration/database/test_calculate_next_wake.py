"""fn_calculate_next_wake by the tables in next_wake_cases.py; its time zones, its speed and its grants."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.integration.database.next_wake import Connection, next_wake
from tests.integration.database.next_wake_cases import CALENDAR, CLOCK_CHANGES, ERRORS, SAME

[MIGRATION] = Path(__file__).parents[3].glob("supabase/migrations/*_wake_schedules.sql")


@pytest.fixture(scope="module")
def shared_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """The URL of one migrated database for all tests that only ask."""
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"create database next_wake template {migrated_template}")
        yield server_url.rsplit("/", 1)[0] + "/next_wake"
        server.execute("drop database next_wake with (force)")


@pytest.fixture
def questions(shared_url: str) -> Iterator[Connection]:
    """A connection of the test's own to shared_url, as superuser."""
    with psycopg.connect(shared_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("case", [*CALENDAR, *CLOCK_CHANGES])
def test_the_next_runs_are(questions: Connection, case: str) -> None:
    zone, schedule, start, runs = (CALENDAR | CLOCK_CHANGES)[case]
    at = datetime.fromisoformat(start)
    found = []
    for _ in runs:
        at = next_wake(questions, schedule, at, zone)
        found.append(at)
    clock = ZoneInfo(zone)
    assert [run.astimezone(clock).isoformat(timespec="minutes") for run in found] == [
        run.replace("Z", "+00:00") for run in runs
    ]


@pytest.mark.parametrize(("schedule", "same"), SAME.items())
def test_two_spellings_mean_the_same(questions: Connection, schedule: str, same: str) -> None:
    at = datetime(2025, 5, 30, 6, 7, tzinfo=UTC)
    for _ in range(20):
        run = next_wake(questions, schedule, at, "Europe/Berlin")
        assert run == next_wake(questions, same, at, "Europe/Berlin")
        at = run


@pytest.mark.parametrize(("schedule", "problem"), ERRORS.items())
def test_nonsense_is_refused_with_the_field_and_the_fault(
    questions: Connection, schedule: str, problem: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refusal:
        next_wake(questions, schedule, datetime(2025, 1, 1, tzinfo=UTC), "UTC")
    message, hint = refusal.value.diag.message_primary, refusal.value.diag.message_hint
    assert message is not None
    assert message.startswith(f'cron "{schedule}": {problem}')
    assert hint is not None
    assert '"0 8,16 * * *"' in hint


def test_a_very_long_expression_is_not_repeated_in_full(questions: Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refusal:
        next_wake(questions, "0 " * 50_000, datetime(2025, 1, 1, tzinfo=UTC), "UTC")
    assert len(refusal.value.diag.message_primary or "") < 200


@pytest.mark.parametrize("schedule", [None, "", " ", "\t\n "])
def test_without_a_schedule_the_next_wake_is_twelve_hours_later(
    questions: Connection, schedule: str | None
) -> None:
    start = datetime(
        2025, 3, 29, 20, 15, 30, 5, tzinfo=UTC
    )  # Berlin's clock changes before the twelve hours are over
    questions.execute("set timezone = 'Europe/Berlin'")
    assert next_wake(questions, schedule, start, "Europe/Berlin") == start + timedelta(hours=12)


def test_without_a_start_it_counts_from_now(questions: Connection) -> None:
    with questions.transaction():
        row = questions.execute("select now()").fetchone()
        assert row is not None
        now = row[0]
        assert next_wake(questions, None, None, "UTC") == now + timedelta(hours=12)
        assert next_wake(questions, "*/7 * * * *", None, "UTC") == next_wake(
            questions, "*/7 * * * *", now, "UTC"
        )


@pytest.mark.parametrize("start", ["infinity", "-infinity"])
def test_from_the_end_of_time_there_is_no_next_run(questions: Connection, start: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="there is no next run from there"):
        questions.execute("select public.fn_calculate_next_wake('* * * * *', %s::timestamptz)", (start,))


def test_the_default_zone_is_utc(questions: Connection) -> None:
    start = datetime(2025, 6, 1, tzinfo=UTC)
    query = "select public.fn_calculate_next_wake(p_cron_expression => '0 8 * * *', p_from_timestamp => %s)"
    assert questions.execute(query, (start,)).fetchone() == (datetime(2025, 6, 1, 8, tzinfo=UTC),)
    assert next_wake(questions, "0 8 * * *", start, None) == datetime(2025, 6, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(("zone", "problem"), [("Mars/Olympus", "not recognized"), ("", "not recognized")])
def test_an_unknown_time_zone_is_refused_by_name(questions: Connection, zone: str, problem: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f'time zone "{zone}" {problem}'):
        next_wake(questions, "0 8 * * *", datetime(2025, 6, 1, tzinfo=UTC), zone)


@pytest.mark.parametrize("zone", ["UTC+2", "+02", "GMT+5", "Europe/Berlin2", "PST", "CEST", "<X>-3"])
def test_what_postgres_would_take_for_another_offset_is_no_time_zone(
    questions: Connection, zone: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="is not the name of a region") as refusal:
        next_wake(questions, "0 8 * * *", datetime(2025, 6, 1, tzinfo=UTC), zone)
    assert "Europe/Berlin" in (refusal.value.diag.message_hint or "")


@pytest.mark.parametrize(
    "zone",
    [
        "CET",
        "MET",
        "EET",
        "WET",
        "EST",
        "MST",
        "HST",
        "EST5EDT",
        "Etc/GMT+5",
        "GMT0",
        "Japan",
        "europe/berlin",
    ],
)
@pytest.mark.parametrize("month", [1, 7])
def test_other_iana_names_are_read_as_the_tz_database_has_them(
    questions: Connection, zone: str, month: int
) -> None:
    name = "Europe/Berlin" if zone == "europe/berlin" else zone
    start = datetime(2025, month, 10, tzinfo=ZoneInfo(name))
    assert next_wake(questions, "0 8 * * *", start, zone) == datetime(
        2025, month, 10, 8, tzinfo=ZoneInfo(name)
    )


@pytest.mark.parametrize("schedule", ["* * * * *", "0 8 * * *", "0 0 29 2 */7", "* * 29 2 */7"])
def test_the_work_does_not_grow_with_the_wait(questions: Connection, schedule: str) -> None:
    # Counted in calls, as a clock would fail on a busy machine: each call of fn_next_cron_day goes through
    # the calendar once, each of fn_wall_clock is a look at the zone's clock.
    with questions.transaction():
        questions.execute("set local track_functions = 'all'")
        next_wake(questions, schedule, datetime(2088, 3, 1, tzinfo=UTC), "Europe/Berlin")
        rows = questions.execute("select funcname, calls from pg_stat_xact_user_functions").fetchall()
    calls = {str(name): int(number) for name, number in rows}
    assert calls["fn_next_cron_day"] <= 4
    assert calls["fn_wall_clock"] < 60


def test_it_says_of_itself_what_is_true(questions: Connection) -> None:
    row = questions.execute("""
        select provolatile, proparallel, prosecdef, proconfig from pg_proc
        where oid = 'public.fn_calculate_next_wake(text, timestamptz, text)'::regprocedure
    """).fetchone()
    assert row == ("s", "s", False, ['search_path=""'])


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_a_signed_in_user_and_the_worker_may_ask(questions: Connection, role: str) -> None:
    questions.execute(f"set role {role}")
    start = datetime(2025, 3, 29, 12, tzinfo=UTC)
    for schedule in ("30 2 * * *", "*/30 2 * * *", "@monthly"):
        assert next_wake(questions, schedule, start, "Europe/Berlin") > start
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not a number or SUN to SAT"):
        next_wake(questions, "0 0 * * someday", start, "WET")


def test_a_stranger_may_not_ask(questions: Connection) -> None:
    executable = questions.execute("""
        select p.oid::regprocedure::text from pg_proc as p
        where (p.pronamespace = 'mqtt_private'::regnamespace or p.proname = 'fn_calculate_next_wake')
          and has_function_privilege('anon', p.oid, 'execute')
    """).fetchall()
    assert executable == []
    questions.execute("set role anon")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        next_wake(questions, "0 8 * * *", datetime(2025, 6, 1, tzinfo=UTC), "UTC")


def test_the_migration_replaces_older_functions_of_the_name_and_can_run_again(database: Connection) -> None:
    database.execute("drop function public.fn_calculate_next_wake")
    database.execute(
        "create function public.fn_calculate_next_wake(a text, b timestamptz) returns text return a"
    )
    database.execute(
        "create function public.fn_calculate_next_wake(a text, b timestamptz, c text default '')"
        " returns text return a"
    )
    for _ in range(2):
        database.execute(MIGRATION.read_bytes())
        found = database.execute(
            "select oid::regprocedure::text from pg_proc where proname = 'fn_calculate_next_wake'"
        ).fetchall()
        assert found == [("fn_calculate_next_wake(text,timestamp with time zone,text)",)]
    assert next_wake(database, "0 8 * * *", datetime(2025, 6, 1, tzinfo=UTC), "UTC").hour == 8
