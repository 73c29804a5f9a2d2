"""Which alerts the database finds, and that each is told once, and its recovery too."""

import json

import pytest

from tests.integration.database.queue_calls import Queue, Row
from tests.integration.database.test_views import overdue


def watch(queue: Queue, worker: str = "w1", *found: str) -> list[tuple[str, str]]:
    documents = [{"alert": alert, "text": f"about {alert}"} for alert in found]
    answer: Row = queue.call("fn_watch_for_alerts", p_worker=worker, p_found=json.dumps(documents))
    return [(each["alert"].split(":")[0], each["state"]) for each in answer["alerts"]]


def told(queue: Queue, alert: str, state: str) -> int:
    answer: Row = queue.call(
        "fn_note_alerts_told", p_worker="w1", p_told=json.dumps([{"alert": alert, "state": state}])
    )
    return int(answer["noted"])


def pass_minutes(queue: Queue, minutes: int) -> None:
    queue.connection.execute(
        "update mqtt_private.alerts set seen_at = seen_at - make_interval(mins => %s)", (minutes,)
    )


def failed(queue: Queue, count: int, *, then: str | None = None) -> None:
    device = queue.device("AA")
    for _ in range(count):
        queue.command(device, status="failed", last_error="no camera", updated_at="now")
    if then is not None:
        queue.command(device, status=then, updated_at="2100-01-01")


@pytest.mark.parametrize(
    ("count", "then", "found"),
    [(3, None, True), (2, None, False), (3, "acknowledged", False), (3, "cancelled", True)],
)
def test_a_device_that_fails_again_and_again_is_found(
    queue: Queue, count: int, then: str | None, found: bool
) -> None:
    failed(queue, count, then=then)
    assert watch(queue) == ([("device-failing", "open")] if found else [])


def test_a_device_that_missed_two_wakes_is_found(queue: Queue) -> None:
    device = str(queue.device("AA"))
    overdue(queue.connection, device, "3 hours", "0 0 1 1 *")
    assert watch(queue) == []
    overdue(queue.connection, device, "3 days")
    assert watch(queue) == [("device-overdue", "open")]


@pytest.mark.parametrize(("hours", "found"), [(23, False), (25, True)])
def test_a_wake_that_the_spread_moves_is_not_missed_before_its_time(
    queue: Queue, hours: int, found: bool
) -> None:
    """The schedule is daily, and the device's share of the spread is some hours."""
    queue.connection.execute("insert into mqtt_private.wake_spread (seconds) values (43200)")
    for number in range(100):
        queue.device(f"D{number}")
    queue.connection.execute(
        """
        with moved as (
          select device_id, shift, date_trunc('minute', now() - make_interval(hours => %s) - shift) as run
          from devices, make_interval(secs => mqtt_private.fn_wake_shift(device_id)) as shift
          where shift > interval '3 hours' limit 1)
        update devices d
        set next_wake_at = run + shift,
            wake_schedule_cron = to_char(run at time zone 'UTC', 'FMMI FMHH24 * * *')
        from moved where d.device_id = moved.device_id
        """,
        (hours,),
    )
    assert watch(queue) == ([("device-overdue", "open")] if found else [])


def test_a_queue_that_stands_still_is_found(queue: Queue) -> None:
    queue.command(queue.device("AA"), scheduled_for="2100-01-01", expires_at="2101-01-01")
    assert watch(queue) == []
    queue.command(queue.device("BB"), issued_at="2026-01-01", expires_at="2100-01-01")
    assert watch(queue) == [("queue", "open")]


def test_pictures_that_fail_are_found(queue: Queue) -> None:
    device = queue.device("AA")
    for number in range(5):
        assert watch(queue) == []
        queue.insert(
            "device_images", "image_id", device_id=device, image_name=f"{number}.jpg", status="failed"
        )
    assert watch(queue) == [("pictures", "open")]


def test_one_worker_tells_and_each_alert_is_told_once(queue: Queue) -> None:
    assert watch(queue, "w1", "broker") == [("broker", "open")]
    assert watch(queue, "w2", "broker") == []
    assert watch(queue, "w1", "broker") == [("broker", "open")]  # nobody has said yet that it was told
    assert told(queue, "broker", "open") == 1
    assert watch(queue, "w1", "broker") == []
    queue.connection.execute("update mqtt_private.turns set until = now() - interval '1 s'")
    assert watch(queue, "w2", "broker") == []


def test_what_is_not_found_for_five_minutes_is_over_and_that_is_told_once(queue: Queue) -> None:
    watch(queue, "w1", "broker")
    told(queue, "broker", "open")
    pass_minutes(queue, 4)
    assert watch(queue) == []
    pass_minutes(queue, 2)
    assert watch(queue) == watch(queue) == [("broker", "recovered")]
    assert told(queue, "broker", "recovered") == 1
    assert watch(queue) == []
    assert queue.rows("select * from mqtt_private.alerts") == []


def test_what_comes_back_before_its_recovery_was_told_stays_open(queue: Queue) -> None:
    watch(queue, "w1", "broker")
    told(queue, "broker", "open")
    pass_minutes(queue, 6)
    assert watch(queue) == [("broker", "recovered")]
    assert watch(queue, "w1", "broker") == []
    assert told(queue, "broker", "recovered") == 0


def test_what_was_over_before_it_was_told_is_not_told(queue: Queue) -> None:
    watch(queue, "w1", "broker")
    pass_minutes(queue, 6)
    assert watch(queue) == []


def test_alerts_are_bounded(queue: Queue) -> None:
    queue.connection.execute(
        "insert into mqtt_private.alerts (alert, text) select 'old' || n, '' from generate_series(1, 500) n"
    )
    watch(queue, "w1", "one too many", "old1")
    [row] = queue.rows("select count(*), max(seen_at) > min(seen_at) as seen from mqtt_private.alerts")
    assert (row["count"], row["seen"]) == (500, True)
    queue.connection.execute(
        "update mqtt_private.alerts set recovered_at = now() - interval '2 days', told_at = now()"
    )
    watch(queue)
    assert queue.rows("select * from mqtt_private.alerts") == []
