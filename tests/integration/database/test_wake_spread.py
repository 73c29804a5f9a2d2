"""A site's devices wake one after another: each schedule is moved by a share of the spread."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, copied, reseeded

NORTH = UUID("a0000000-0000-4000-8000-000000000021")
EIGHT = datetime(2026, 3, 2, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def database(shared: psycopg.Connection) -> psycopg.Connection:
    connection = reseeded(shared)
    connection.execute("delete from mqtt_private.wake_spread")
    connection.execute(
        "update public.sites"
        " set wake_schedule_cron = '0 8 * * *', timezone = 'UTC', wake_spread_seconds = null"
    )
    connection.execute("update public.devices set site_id = %s, wake_schedule_cron = null", (NORTH,))
    return connection


def wakes(database: psycopg.Connection, now: datetime) -> dict[UUID, datetime]:
    rows = database.execute(
        "select device_id, (mqtt_private.fn_next_wake_of_device(device_id, %s)).next_wake_at"
        " from public.devices",
        (now,),
    )
    return dict(rows.fetchall())


def test_without_a_spread_all_wake_together(database: psycopg.Connection) -> None:
    assert set(wakes(database, EIGHT - timedelta(hours=1)).values()) == {EIGHT}


@pytest.mark.parametrize(("setting", "site"), [(600, None), (0, 600), (43_200, 600)])
def test_a_site_wakes_within_its_spread_and_its_own_goes_before_the_workers(
    database: psycopg.Connection, setting: int, site: int | None
) -> None:
    database.execute("select public.fn_set_wake_spread(%s)", (setting,))
    database.execute("update public.sites set wake_spread_seconds = %s", (site,))
    found = wakes(database, EIGHT - timedelta(hours=1))
    assert all(EIGHT <= at < EIGHT + timedelta(seconds=600) for at in found.values())
    assert len(set(found.values())) > 1


def test_a_device_keeps_its_place_and_skips_no_day(database: psycopg.Connection) -> None:
    database.execute("select public.fn_set_wake_spread(43200)")
    first = wakes(database, EIGHT - timedelta(hours=1))
    for device, at in first.items():
        assert wakes(database, at - timedelta(seconds=1))[device] == at
        assert wakes(database, at)[device] == at + timedelta(days=1)


def test_a_welcome_that_is_sent_later_names_the_same_moved_time(database: psycopg.Connection) -> None:
    database.execute("select public.fn_set_wake_spread(600)")
    queue = Queue(database)
    database.execute("update public.devices set is_active = true, welcome_due = true, mapped_at = now()")
    queue.call("fn_queue_welcome_commands", p_device_ids=None, p_limit=100, p_standby_seconds=0)
    rows = database.execute(
        "select device_id, (mqtt_private.fn_next_wake_of_command(command_payload, %s, 'UTC')).next_wake_at"
        " from public.device_commands where command_payload ->> 'welcome' = 'true'",
        (EIGHT,),
    ).fetchall()
    expected = wakes(database, EIGHT)
    assert rows
    assert dict(rows) == {device: expected[device] for device, _ in rows}


@pytest.mark.parametrize("seconds", [-1, 43_201])
def test_a_spread_out_of_bounds_is_refused(database: psycopg.Connection, seconds: int) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), database.transaction():
        database.execute("update public.sites set wake_spread_seconds = %s", (seconds,))
    with pytest.raises(psycopg.errors.CheckViolation), database.transaction():
        database.execute("select public.fn_set_wake_spread(%s)", (seconds,))


@pytest.mark.parametrize("schedule", ["30 2 * * *", "*/20 * * * *", "15 1,3 29 3 *"])
def test_a_schedule_that_is_worked_out_once_names_each_time_what_it_would_alone(
    database: psycopg.Connection, schedule: str
) -> None:
    """In one transaction, forwards and back, over both changes of daylight saving."""
    hours = [*range(-30, 30), *range(30, -30, -7)]
    times = [
        change + timedelta(minutes=20 * hour)
        for change in (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC))
        for hour in hours
    ]
    with database.transaction():
        found = [
            value(database, "mqtt_private.fn_next_run(%s, %s, 'Europe/Berlin')", schedule, at) for at in times
        ]
    alone = [
        value(database, "public.fn_calculate_next_wake(%s, %s, 'Europe/Berlin')", schedule, at)
        for at in times
    ]
    assert found == alone


def test_many_schedules_in_one_transaction_are_each_their_own(database: psycopg.Connection) -> None:
    with database.transaction():
        for minute in [*range(60), 0]:
            at = value(database, "mqtt_private.fn_next_run(%s, %s, 'UTC')", f"{minute} 9 * * *", EIGHT)
            assert at == EIGHT.replace(hour=9, minute=minute)


def value(database: psycopg.Connection, expression: str, *parameters: object) -> datetime:
    row = database.execute(f"select {expression}", parameters).fetchone()
    assert row is not None
    found: datetime = row[0]
    return found
