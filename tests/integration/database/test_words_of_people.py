"""What people write for schedules and zones: taken, or refused with what was meant, and at what cost.

The tables are in next_wake_cases.py, with the source of each rule.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
import pytest

from tests.integration.database.next_wake import Connection, next_wake
from tests.integration.database.next_wake_cases import (
    GUESSES,
    PEOPLE,
    SAME,
    ZONE_GUESSES,
    ZONES_OF_PEOPLE,
)
from tests.integration.database.queue_calls import copied

AT = datetime(2025, 5, 30, 6, 7, tzinfo=UTC)
MEANT = re.compile(r'did you mean "([^"]+)"')


@pytest.fixture(scope="module")
def shared(server_url: str, migrated_template: str) -> Iterator[Connection]:
    """One migrated database for all tests that only ask."""
    with copied(server_url, migrated_template) as connection:
        yield connection


def refusal(connection: Connection, schedule: str, zone: str = "UTC") -> str:
    """The message with which this schedule is refused."""
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        next_wake(connection, schedule, AT, zone)
    return refused.value.diag.message_primary or ""


@pytest.mark.parametrize(("schedule", "same"), PEOPLE.items())
def test_what_can_mean_one_thing_only_is_taken(shared: Connection, schedule: str, same: str) -> None:
    at = AT
    for _ in range(20):
        run = next_wake(shared, schedule, at, "Europe/Berlin")
        assert run == next_wake(shared, same, at, "Europe/Berlin")
        at = run


@pytest.mark.parametrize(("schedule", "guess"), GUESSES.items())
def test_a_refusal_says_what_was_probably_meant(shared: Connection, schedule: str, guess: str | None) -> None:
    message = refusal(shared, schedule)
    assert message.startswith(f'cron "{schedule}": ')
    assert (guess or "") in message
    assert guess is not None or "did you mean" not in message
    meant = MEANT.search(message)
    assert meant is None or next_wake(shared, meant[1], AT, "UTC") > AT


@pytest.mark.parametrize(("zone", "same"), ZONES_OF_PEOPLE.items())
@pytest.mark.parametrize("month", [1, 7])
def test_a_zone_is_read_without_what_is_not_seen(
    shared: Connection, zone: str, same: str, month: int
) -> None:
    at = datetime(2025, month, 10, tzinfo=UTC)
    assert next_wake(shared, "0 8 * * *", at, zone) == next_wake(shared, "0 8 * * *", at, same)


@pytest.mark.parametrize(("zone", "meant"), ZONE_GUESSES.items())
def test_the_refusal_of_a_zone_proposes_an_iana_name(
    shared: Connection, zone: str, meant: str | None
) -> None:
    message = refusal(shared, "0 8 * * *", zone)
    assert message.startswith(f'time zone "{zone}" is not the name of a region')
    found = MEANT.search(message)
    assert (found[1] if found else None) == meant
    assert meant is None or next_wake(shared, "0 8 * * *", AT, meant) > AT


def test_two_hours_east_are_what_is_proposed_for_plus_two(shared: Connection) -> None:
    """The tz database, file etcetera: zones west of Greenwich have positive signs, as in POSIX."""
    assert next_wake(shared, "0 8 * * *", AT, "Etc/GMT-2") == datetime(2025, 5, 31, 6, tzinfo=UTC)


def test_every_region_that_can_be_proposed_is_known_to_postgres(shared: Connection) -> None:
    unknown = shared.execute("""
        select region from jsonb_each_text(mqtt_private.fn_regions_by_other_name()) as r (name, region)
        where region not in (select name from pg_timezone_names)
    """).fetchall()
    assert unknown == []


# Work


def calls(connection: Connection, schedule: str, zone: str = "UTC") -> Counter[str]:
    """How often each function returned for one question, which may be refused."""

    def returned() -> Counter[str]:
        rows = connection.execute("select funcname, calls from pg_stat_xact_user_functions").fetchall()
        return Counter({str(name): int(number) for name, number in rows})

    with connection.transaction(force_rollback=True):
        connection.execute("set local track_functions = 'all'")
        before = returned()
        with suppress(psycopg.errors.InvalidParameterValue), connection.transaction():
            next_wake(connection, schedule, AT, zone)
        return returned() - before


def test_what_is_read_is_counted(shared: Connection) -> None:
    made = calls(shared, "0 8 * * *")
    assert (made["fn_parse_cron"], made["fn_parse_cron_field"], made["fn_parse_cron_number"]) == (1, 5, 2)


@pytest.mark.parametrize(
    "schedule", ["0," * 10_000 + "0 8 * * *", "0 " * 10_000, "*/1," * 5_000 + "* * * * *", "x" * 20_000]
)
def test_a_text_that_is_too_long_is_refused_before_it_is_parsed(shared: Connection, schedule: str) -> None:
    assert f"{len(schedule)} characters, where at most 400 are read" in refusal(shared, schedule)
    made = calls(shared, schedule)
    assert not {"fn_parse_cron_field", "fn_parse_cron_number"} & made.keys()


def test_every_value_written_out_is_short_enough(shared: Connection) -> None:
    ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
    schedule = " ".join(",".join(map(str, range(low, high + 1))) for low, high in ranges)
    assert next_wake(shared, schedule, AT, "UTC") == datetime(2025, 5, 30, 6, 8, tzinfo=UTC)


def test_a_list_has_no_more_items_than_a_field_has_values(shared: Connection) -> None:
    assert "minute is a list of 61, where at most 60 are read" in refusal(shared, "*," * 60 + "* * * * *")
    assert "fn_parse_cron_number" not in calls(shared, "1," * 60 + "1 * * * *")


def test_a_date_that_never_comes_is_refused_before_the_calendar_is_walked(shared: Connection) -> None:
    assert "can never fire" in refusal(shared, "0 0 30 2 *")
    assert "fn_next_cron_day" not in calls(shared, "0 0 30 2 *")


def test_a_zone_that_is_too_long_is_refused_before_it_is_looked_up(shared: Connection) -> None:
    zone = "Europe/" + "B" * 20_000
    assert "has 20007 characters, where at most 64 are read" in refusal(shared, "0 8 * * *", zone)
    assert "fn_tidy_text" not in calls(shared, "0 8 * * *", zone)


@pytest.mark.parametrize("schedule", [*PEOPLE, *SAME, *GUESSES])
def test_reading_one_text_never_takes_many_calls(shared: Connection, schedule: str) -> None:
    assert sum(calls(shared, schedule, "Europe/Berlin").values()) < 200


# Where they are written


def test_a_command_with_a_long_schedule_is_refused_in_few_words(shared: Connection) -> None:
    payload = json.dumps({"wake_schedule_cron": "0," * 20_000})
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        shared.execute("select mqtt_private.fn_check_command('set_wake_schedule', %s)", (payload,))
    message = refused.value.diag.message_primary or ""
    assert "40000 characters, where at most 400 are read" in message
    assert len(message) < 500


def test_a_command_with_quartz_is_refused_with_what_was_meant(shared: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=r'did you mean "0 8 \* \* \*"'):
        shared.execute(
            "select mqtt_private.fn_check_command('set_wake_schedule', %s)",
            ('{"wake_schedule_cron": "0 0 8 * * ?"}',),
        )


def test_a_number_is_refused_before_it_is_written_out(shared: Connection) -> None:
    """1e131071 is written out in 131,072 bytes: ten thousand are more than Postgres can write."""
    payload = json.dumps({"a": ["N"] * 10_000}).replace('"N"', "1e131071")
    row = shared.execute("select mqtt_private.fn_problem_of_payload(%s)", (payload,)).fetchone()
    assert row == ("command_payload holds a number beyond 1e308",)
