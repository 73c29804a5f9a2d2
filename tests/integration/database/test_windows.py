"""Maintenance windows: what changes devices waits until their site's window opens, and the rest does not."""

from datetime import UTC, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, emptied
from tests.integration.database.test_rollouts import PLACES, progress, run, start
from tests.integration.database.test_schedules import COMPANY, SITE, devices


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    emptied(shared).execute(PLACES.encode())
    return Queue(shared)


def closed(queue: Queue, **columns: object) -> UUID:
    """A window that is closed now and opens within the next hours."""
    opens = queue.now().astimezone(UTC) + timedelta(hours=2)
    row = {
        "site_id": SITE,
        "cron": f"{opens.minute} {opens.hour} * * *",
        "duration": "1 hour",
        "timezone": "UTC",
    }
    return queue.insert("maintenance_windows", "window_id", **row | columns)


def opened(queue: Queue) -> None:
    """As if time had come to where all windows are open, and what they hold is due."""
    queue.connection.execute(
        "update maintenance_windows"
        " set opens_at = now() - interval '1 s', closes_at = now() + interval '1 hour'"
    )
    queue.connection.execute("update device_commands set held_until = now() where held_until is not null")


def test_outside_of_its_window_a_command_waits_and_others_do_not(queue: Queue) -> None:
    [device] = devices(queue, 1)
    window = closed(queue)
    held = queue.command(device, command_type="reboot")
    picture = queue.command(device, command_type="capture_image")
    assert queue.claim_ids() == [picture]
    row = queue.row(held)
    [opening] = queue.rows("select opens_at from maintenance_windows where window_id = %s", window)
    assert (row["status"], row["due_at"], row["held_until"]) == ("pending", None, opening["opens_at"])


def test_when_it_opens_what_it_held_is_due(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    held = [queue.command(device, command_type="reboot") for _ in range(3)]
    claim = queue.claim()
    assert claim["commands"] == []
    assert 3600 < claim["seconds_to_next_due"] <= 7200
    opened(queue)
    assert queue.claim_ids() == held
    assert queue.row(held[0])["held_until"] is None


@pytest.mark.parametrize("change", ["delete from {}", "update {} set enabled = false",
                                    "update {} set command_types = '{{ping}}'",
                                    "update {} set cron = '* * * * *'"])  # fmt: skip
def test_a_window_that_is_changed_frees_what_it_held(queue: Queue, change: str) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    held = queue.command(device, command_type="reboot")
    assert queue.claim_ids() == []
    queue.connection.execute(change.format("maintenance_windows").encode())
    assert queue.claim_ids() == [held]


def test_a_window_that_comes_to_open_later_holds_anew(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    held = queue.command(device, command_type="reboot")
    queue.claim()
    before = queue.row(held)["held_until"]
    queue.connection.execute("update maintenance_windows set cron = '0 0 1 * *', duration = '1 minute'")
    assert queue.claim_ids() == []
    assert queue.row(held)["held_until"] != before


def test_a_window_of_another_site_holds_nothing_here(queue: Queue) -> None:
    [device] = devices(queue, 1)
    other = queue.insert("sites", "site_id", company_id=COMPANY)
    closed(queue, site_id=other)
    command = queue.command(device, command_type="reboot")
    assert queue.claim_ids() == [command]


def test_of_two_windows_one_that_is_open_suffices(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    closed(queue, cron="* * * * *", duration="1 hour")
    command = queue.command(device, command_type="reboot")
    assert queue.claim_ids() == [command]


def test_held_commands_are_read_by_no_later_claim_and_keep_none_from_their_turn(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    for _ in range(5):
        queue.command(device, command_type="reboot", priority=5)
    picture = queue.command(device, command_type="capture_image")
    assert queue.claim_ids(limit=1) == [picture]
    assert not queue.rows("select from device_commands where due_at is not null and command_type = 'reboot'")


def test_what_fails_or_is_given_back_in_a_closed_window_waits_for_the_next_one(queue: Queue) -> None:
    [device] = devices(queue, 1)
    command = queue.command(device, command_type="reboot")
    queue.settle(queue.claim()["commands"], "failed", delay=0)
    closed(queue)
    assert queue.claim_ids() == []
    row = queue.row(command)
    assert (row["status"], row["retry_count"], row["held_until"] is not None) == ("pending", 1, True)
    opened(queue)
    assert queue.claim_ids() == [command]


def test_a_held_command_expires_like_any_other(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    command = queue.command(device, command_type="reboot")
    queue.claim()
    queue.connection.execute("update device_commands set expires_at = now()")
    queue.claim()
    row = queue.row(command)
    assert (row["status"], row["held_until"]) == ("expired", None)


def test_a_held_command_that_is_cancelled_is_held_no_more(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    command = queue.command(device, command_type="reboot")
    queue.claim()
    queue.connection.execute("update device_commands set status = 'cancelled'")
    assert queue.row(command)["held_until"] is None


def test_a_visit_waits_for_nothing_that_is_held_or_will_be(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    queue.command(device, command_type="reboot")
    count = "select mqtt_private.fn_count_open_commands(%s, null, clock_timestamp()) as n"
    assert queue.rows(count, device) == [{"n": 0}]
    queue.command(device, command_type="capture_image")
    assert queue.rows(count, device) == [{"n": 1}]
    queue.claim(limit=0)
    assert queue.rows(count, device) == [{"n": 1}]


def test_what_is_delivered_again_waits_for_its_window(queue: Queue) -> None:
    [device] = devices(queue, 1)
    command = queue.command(device, command_type="update_config")
    queue.settle(queue.claim()["commands"])
    queue.connection.execute("update device_commands set delivered_at = now() - interval '1 hour'")
    closed(queue)
    [mac] = queue.rows("select device_mac from devices")
    assert queue.hello(mac["device_mac"])["commands"] == 0
    assert queue.claim_ids() == []
    assert queue.row(command)["held_until"] is not None


def test_a_command_that_somebody_holds_or_the_project_refuses_is_not_sent(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    command = queue.command(device, command_type="reboot")
    with queue.another() as other, other.connection.transaction():
        other.connection.execute("select from device_commands for update")
        assert queue.claim_ids() == []
    queue.connection.execute("alter table device_commands add constraint theirs check (held_until is null)")
    try:
        assert queue.claim_ids() == []
        assert queue.claim()["more"] is False
    finally:
        queue.connection.execute("alter table device_commands drop constraint theirs")
    assert queue.row(command)["attempt"] == 0


def test_more_than_a_claim_takes_are_held_at_once(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue)
    queue.connection.execute(
        "insert into device_commands (device_id, command_type)"
        " select %s, 'reboot' from generate_series(1, 900)",
        (device,),
    )
    picture = queue.command(device, command_type="capture_image")
    assert queue.claim_ids(limit=100) == [picture]
    assert len(queue.rows("select from device_commands where held_until is not null")) == 900


def test_a_window_that_closes_opens_again_at_its_next_time(queue: Queue) -> None:
    window = closed(queue, cron="0 3 * * *", timezone=None)
    queue.connection.execute(
        "update maintenance_windows set opens_at = now() - interval '2 hours', closes_at = now()"
    )
    queue.claim()
    [row] = queue.rows("select opens_at, closes_at from maintenance_windows where window_id = %s", window)
    local = queue.rows("select %s::timestamptz at time zone 'Europe/Berlin' as t", row["opens_at"])[0]["t"]
    assert (local.hour, row["closes_at"] - row["opens_at"]) == (3, timedelta(hours=1))
    assert row["closes_at"] > queue.now()


def test_a_sites_zone_moves_the_windows_that_follow_it(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue, cron="0 3 * * *", timezone=None, duration="1 minute")
    queue.command(device, command_type="reboot")
    queue.claim()
    queue.connection.execute("update sites set timezone = 'Asia/Tokyo'")
    queue.claim()
    [row] = queue.rows("select opens_at, held_until from maintenance_windows, device_commands")
    assert row["opens_at"] == row["held_until"]
    assert row["opens_at"].astimezone(UTC).hour == 18


def test_a_rollout_releases_inside_of_its_window_alone(queue: Queue) -> None:
    devices(queue, 4)
    rollout = start(queue, rate_per_minute=2)
    closed(queue, site_id=None, rollout_id=rollout)
    run(queue)
    row = progress(queue, rollout)
    assert (row["waiting"], row["last_result"].startswith("waits for its window, which opens at")) == (
        4,
        True,
    )
    queue.connection.execute(
        "update maintenance_windows"
        " set opens_at = now() - interval '1 s', closes_at = now() + interval '1 hour'"
    )
    queue.connection.execute("update command_rollouts set next_release_at = now()")
    run(queue)
    assert progress(queue, rollout)["pending"] == 2
    queue.connection.execute("update maintenance_windows set closes_at = now()")
    assert queue.claim_ids() == []  # what it has released waits as well
    assert len(queue.rows("select from device_commands where held_until is not null")) == 2
    queue.connection.execute("delete from maintenance_windows")
    assert len(queue.claim_ids()) == 2  # and the rate holds


def test_a_cancelled_rollout_cancels_what_is_held(queue: Queue) -> None:
    devices(queue, 2)
    closed(queue)
    rollout = start(queue, command_type="reboot")
    assert queue.claim_ids() == []
    assert queue.rows("select from device_commands where held_until is not null")
    queue.connection.execute("update command_rollouts set status = 'cancelled'")
    run(queue)
    assert progress(queue, rollout)["cancelled"] == 2


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"site_id": None}, "belongs to a site or to a rollout"),
        ({"site_id": COMPANY}, "is not there"),
        ({"company_id": COMPANY, "site_id": COMPANY}, "is not of the company"),
        ({"cron": "0 25 * * *"}, "hour 25"),
        ({"cron": " "}, "cron is empty"),
        ({"timezone": "Europe/Atlantis"}, "Atlantis"),
        ({"duration": "10 seconds"}, "duration"),
        ({"command_types": ["set_wake_schedule"]}, "cannot hold set_wake_schedule"),
        ({"command_types": ["selfie"]}, "is not known"),
        ({"command_types": []}, "command_types is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_never_work_is_refused(queue: Queue, columns: dict[str, object], said: str) -> None:
    with pytest.raises((psycopg.DataError, psycopg.IntegrityError)) as refused:
        closed(queue, **columns)
    assert said in str(refused.value.diag.message_primary)


def test_a_window_whose_times_can_be_read_no_more_holds_nothing_and_says_so(queue: Queue) -> None:
    [device] = devices(queue, 1)
    closed(queue, timezone=None)
    command = queue.command(device, command_type="reboot")
    queue.connection.execute("set session_replication_role = replica")
    queue.connection.execute("update maintenance_windows set timezone = 'nowhere', closes_at = '-infinity'")
    queue.connection.execute("reset session_replication_role")
    assert queue.claim_ids() == [command]
    [row] = queue.rows("select problem from maintenance_windows")
    assert "not in force" in row["problem"]
