"""How the commands of some days did: in all, by day, type and site, filtered, and for whom."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.database.queue_calls import copied
from tests.integration.database.test_row_level_security import DEVICE_A, DEVICE_B, NORTH, acting_as

VIEWER_A = "a0000000-0000-4000-8000-0000000000e1"
COLUMNS = (
    "dimension", "value", "commands", "succeeded", "lost", "open", "cancelled", "success_rate",
    "median_seconds_to_answer", "p95_seconds_to_answer",
)  # fmt: skip
ALL, DAY, TYPE, SITE = "all", "day", "type", "site"
# Half an hour before midnight in Berlin; in Auckland it is the next day.
LATE = "((current_date - 20) + time '23:30') at time zone 'Europe/Berlin'"


@pytest.fixture(scope="module")
def database(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    """Of each company: two answered, one failed, to be tried again, expired, cancelled; one from long ago."""
    with copied(server_url, seeded_template) as connection:
        connection.execute("delete from device_commands")
        for device in (DEVICE_A, DEVICE_B):
            connection.execute(
                f"""
                insert into device_commands
                  (device_id, command_type, status, issued_at, delivered_at, acknowledged_at, due_at)
                select %s, kind, status, at, at, at + took, due
                from (values
                  ('ping', 'acknowledged', now() - interval '1 minute', interval '10 s', null::timestamptz),
                  ('ping', 'acknowledged', {LATE}, interval '30 s', null),
                  ('ping', 'failed', {LATE}, null, null),
                  ('ping', 'failed', {LATE}, null, '2100-01-01'),
                  ('reboot', 'expired', {LATE}, null, null),
                  ('reboot', 'cancelled', {LATE}, null, null),
                  ('reboot', 'expired', now() - interval '40 days', null, null)
                ) c (kind, status, at, took, due)
                """,
                (device,),
            )
        yield connection


def numbers(database: psycopg.Connection, **asked: object) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The rows by dimension and value, as the secret key sees them."""
    arguments = ", ".join(f"{name} => %({name})s" for name in asked)
    cursor = database.execute(f"select * from fn_command_numbers({arguments})", asked)
    names = [column.name for column in cursor.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return {(row["dimension"], row["value"]): row for row in rows}


def test_each_dimension_counts_what_was_issued_within_the_days(database: psycopg.Connection) -> None:
    found = numbers(database, p_days=30, p_timezone="Europe/Berlin", p_device_id=DEVICE_A)
    told = [(*key, *(row[column] for column in COLUMNS[2:])) for key, row in found.items() if key[0] != DAY]
    assert told == [
        (ALL, None, 6, 2, 2, 1, 1, 0.5, 20.0, 29.0),
        (TYPE, "ping", 4, 2, 1, 1, 0, 2 / 3, 20.0, 29.0),
        (TYPE, "reboot", 2, 0, 1, 0, 1, 0.0, None, None),
        (SITE, NORTH, 6, 2, 2, 1, 1, 0.5, 20.0, 29.0),
    ]
    assert [row["commands"] for key, row in found.items() if key[0] == DAY] == [1, 5]


def test_a_day_begins_and_ends_at_midnight_of_the_zone(database: psycopg.Connection) -> None:
    day = database.execute("select (current_date - 20)::text, (current_date - 19)::text").fetchone()
    assert day
    berlin = numbers(database, p_timezone="Europe/Berlin", p_device_id=DEVICE_A)[DAY, day[0]]
    auckland = numbers(database, p_timezone="Pacific/Auckland", p_device_id=DEVICE_A)[DAY, day[1]]
    for row in (berlin, auckland):
        assert row["commands"] == 5
        [within] = database.execute(
            "select count(*) from device_commands"
            " where device_id = %s and issued_at >= %s and issued_at < %s",
            (DEVICE_A, row["begins_at"], row["ends_at"]),
        ).fetchall()
        assert within == (5,)


def test_today_alone_is_one_day_and_without_commands_there_is_one_row_of_noughts(
    database: psycopg.Connection,
) -> None:
    found = numbers(database, p_days=1, p_command_type="reboot")
    assert [(key, row["commands"], row["success_rate"]) for key, row in found.items()] == [
        ((ALL, None), 0, None)
    ]


def test_filters_narrow_all_dimensions(database: psycopg.Connection) -> None:
    found = numbers(database, p_command_type="reboot", p_site_id=NORTH)
    assert {key for key in found if key[0] != DAY} == {(ALL, None), (TYPE, "reboot"), (SITE, NORTH)}
    assert found[ALL, None]["commands"] == 2
    company = "b0000000-0000-4000-8000-000000000001"
    assert numbers(database, p_company_id=company)[ALL, None]["commands"] == 6
    assert numbers(database)[ALL, None]["commands"] == 12


def test_a_member_counts_the_commands_of_the_company_alone(database: psycopg.Connection) -> None:
    with acting_as(database, "authenticated", VIEWER_A):
        found = numbers(database)
    assert found[ALL, None]["commands"] == 6
    assert {key for key in found if key[0] == SITE} == {(SITE, NORTH)}


def test_who_is_not_signed_in_counts_nothing(database: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(database, "anon"):
        numbers(database)


def test_a_zone_that_is_not_known_is_refused(database: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        numbers(database, p_timezone="Mars/Olympus")
