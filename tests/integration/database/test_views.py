"""The views for people who watch: what each shows, and that a company sees its own rows alone."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.applying import MIGRATIONS, apply
from tests.integration.database.queue_calls import copied, reseeded
from tests.integration.database.test_image_storage import acting_as

A, B = "a0000000-0000-4000-8000-000000000031", "b0000000-0000-4000-8000-000000000031"
VIEWER_A, VIEWER_B = "a0000000-0000-4000-8000-0000000000e1", "b0000000-0000-4000-8000-0000000000e1"
VIEWS = (
    "device_command_history",
    "device_command_success",
    "device_command_statistics",
    "device_commands_failed",
    "device_timeline",
    "devices_overdue",
)


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def database(shared: psycopg.Connection) -> psycopg.Connection:
    """Both companies have a device that is overdue, and commands of each end."""
    reseeded(shared)
    for device in (A, B):
        shared.execute(
            """
            insert into device_commands
              (device_id, command_type, status, issued_at, delivered_at, acknowledged_at, due_at, last_error)
            select %s, kind, status, '2026-01-01 12:00+00', delivered, acknowledged, due, 'why'
            from (values
              ('reboot', 'acknowledged', timestamptz '2026-01-01 12:00:02+00',
                timestamptz '2026-01-01 12:00:12+00', null::timestamptz),
              ('reboot', 'failed', null, null, null),
              ('reboot', 'failed', null, null, '2100-01-01'),
              ('reboot', 'cancelled', null, null, null),
              ('ping', 'rejected', '2026-01-01 12:00:02+00', null, null),
              ('ping', 'expired', null, null, null),
              ('ping', 'sent', '2026-01-01 12:00:02+00', null, null)
            ) as c (kind, status, delivered, acknowledged, due)
            """,
            (device,),
        )
        shared.execute(
            "insert into device_history (device_id, event_type) values (%s, 'mapped')",
            (device,),
        )
        shared.execute(
            "insert into device_images (device_id, image_name, status) values (%s, 'a.jpg', 'complete')",
            (device,),
        )
        overdue(shared, device, "3 days")
    return shared


def overdue(database: psycopg.Connection, device: str, interval: str, cron: str = "0 8 * * *") -> None:
    database.execute(
        "update devices set is_active = true, next_wake_at = now() - %s::interval, wake_schedule_cron = %s,"
        " last_seen_at = now() - %s::interval - interval '1 day' where device_id = %s",
        (interval, cron, interval, device),
    )


def read(database: psycopg.Connection, query: str, user: str = VIEWER_A) -> list[dict[str, Any]]:
    with acting_as(database, "authenticated", user), database.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


@pytest.mark.parametrize("view", VIEWS)
def test_a_company_sees_its_own_rows_alone(database: psycopg.Connection, view: str) -> None:
    column = "company_id" if view == "device_command_statistics" else "device_id"
    for user, first in ((VIEWER_A, "a"), (VIEWER_B, "b")):
        seen = {str(row[column])[0] for row in read(database, f"select * from {view}", user)}
        assert seen == {first}
    stranger = "c0000000-0000-4000-8000-0000000000e1"
    assert read(database, f"select * from {view}", stranger) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(database, "anon"):
        database.execute(f"select * from {view}")


def test_history_says_how_long_each_command_took(database: psycopg.Connection) -> None:
    rows = read(database, "select * from device_command_history")
    [done] = [row for row in rows if row["status"] == "acknowledged"]
    assert (done["seconds_to_send"], done["seconds_to_answer"], done["final"]) == (2.0, 10.0, True)
    assert done["device_code"] == "DEVICE-ESP32S3-001"
    assert sum(not row["final"] for row in rows) == 2


def test_a_devices_success_rate_leaves_out_what_is_open_or_cancelled(database: psycopg.Connection) -> None:
    [row] = read(database, "select * from device_command_success")
    assert row["success_rate"] == 1 / 4
    assert (row["commands"], row["acknowledged"], row["failed"], row["expired"], row["open"]) == (
        7, 1, 2, 1, 2,
    )  # fmt: skip
    assert row["median_seconds_to_answer"] == 10.0


def test_statistics_are_by_type_and_site_and_day(database: psycopg.Connection) -> None:
    database.execute("update device_commands set issued_at = '2026-01-02' where status = 'expired'")
    rows = read(database, "select * from device_command_statistics order by day, command_type")
    assert [(str(row["day"]), row["command_type"], row["commands"]) for row in rows] == [
        ("2026-01-01", "ping", 2), ("2026-01-01", "reboot", 4), ("2026-01-02", "ping", 1),
    ]  # fmt: skip
    reboots = rows[1]
    assert (reboots["acknowledged"], reboots["failed"], reboots["cancelled"], reboots["open"]) == (1, 1, 1, 1)
    assert (reboots["success_rate"], reboots["p95_seconds_to_answer"]) == (1 / 2, 10.0)


def test_what_failed_for_good_is_listed_with_why(database: psycopg.Connection) -> None:
    rows = read(database, "select * from device_commands_failed")
    assert sorted(row["status"] for row in rows) == ["expired", "failed", "rejected"]
    assert {row["last_error"] for row in rows} == {"why"}


def test_the_timeline_has_commands_events_and_pictures(database: psycopg.Connection) -> None:
    rows = read(database, "select * from device_timeline order by happened_at")
    told = {(row["kind"], row["what"]) for row in rows}
    assert told >= {
        ("command", "reboot issued"),
        ("command", "reboot sent"),
        ("command", "reboot acknowledged"),
        ("command", "ping rejected"),
        ("event", "mapped"),
        ("picture", "a.jpg complete"),
    }


@pytest.mark.parametrize(
    ("since", "cron", "listed"),
    [
        ("3 days", "0 8 * * *", [True]),
        ("3 hours", "0 0 1 1 *", [False]),
        ("3 days", "nonsense", [False]),
        ("5 minutes", "* * * * *", []),
    ],
)
def test_a_device_that_did_not_wake_is_overdue(
    database: psycopg.Connection, since: str, cron: str, listed: list[bool]
) -> None:
    database.execute("set session_replication_role = replica")  # the schedule may be nonsense
    overdue(database, A, since, cron)
    database.execute("set session_replication_role = default")
    assert [row["by_two_wakes"] for row in read(database, "select * from devices_overdue")] == listed


@pytest.mark.parametrize(("hours", "by_two_wakes"), [(23, False), (25, True)])
def test_a_device_whose_schedule_is_moved_misses_its_second_wake_when_that_is_past(
    database: psycopg.Connection, hours: int, by_two_wakes: bool
) -> None:
    """The schedule is daily, and moved by all but the whole spread of half a day, for whoever reads."""
    database.execute("insert into mqtt_private.wake_spread (seconds) values (43200)")
    database.execute(
        """
        update devices d
        set next_wake_at = run + shift, last_seen_at = null,
            wake_schedule_cron = to_char(run at time zone 'UTC', 'FMMI FMHH24 * * *')
        from devices moved,
          make_interval(secs => mqtt_private.fn_wake_shift(moved.device_id)) as shift,
          date_trunc('minute', now() - make_interval(hours => %s) - shift) as run
        where d.device_id = moved.device_id and d.device_id = %s and shift > interval '1 hour'
        """,
        (hours, A),
    )
    database.execute("update sites set timezone = 'UTC'")
    rows = read(database, "select * from devices_overdue")
    assert [(str(row["device_id"]), row["by_two_wakes"]) for row in rows] == [(A, by_two_wakes)]


def test_one_that_was_seen_since_or_is_not_active_is_not_overdue(database: psycopg.Connection) -> None:
    for change in ("last_seen_at = now()", "last_seen_at = null, is_active = false"):
        database.execute(f"update devices set {change} where device_id = %s", (A,))
        assert read(database, "select * from devices_overdue") == []


def test_a_relation_of_the_project_with_such_a_name_stays(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        warnings: list[str] = []
        connection.add_notice_handler(lambda notice: warnings.append(str(notice.message_primary)))
        connection.execute(PLATFORM.read_bytes())
        connection.execute("create table public.device_timeline (mine int)")
        apply(connection)
        [views] = [file for file in MIGRATIONS if file.name.endswith("_mqtt_service_views.sql")]
        connection.execute(views.read_bytes())
        assert connection.execute("select mine from public.device_timeline").fetchall() == []
        assert sum("device_timeline was there before" in warning for warning in warnings) == 3
