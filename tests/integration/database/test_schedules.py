"""Recurring commands: each occurrence is queued once for each device, whatever happens in between."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, copied, emptied
from tests.integration.database.test_claim_cost import rows_read

COMPANY = "a0000000-0000-4000-8000-000000000001"
SITE = "a0000000-0000-4000-8000-000000000021"
TARGET = {"company": COMPANY}

_PLACES = f"""
insert into companies (company_id) values ('{COMPANY}');
insert into sites (site_id, company_id, timezone, wake_schedule_cron)
values ('{SITE}', '{COMPANY}', 'Europe/Berlin', '0 8 * * *');
"""


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    emptied(shared).execute(_PLACES.encode())
    return Queue(shared)


def devices(queue: Queue, count: int, *, active: bool = True) -> list[UUID]:
    found = [queue.device(f"D{active}{n}", active=active) for n in range(count)]
    queue.connection.execute("update devices set company_id = %s, site_id = %s", (COMPANY, SITE))
    return found


def add(queue: Queue, **columns: object) -> UUID:
    row: dict[str, object] = {
        "company_id": COMPANY, "name": "s", "target": TARGET, "command_type": "ping", "cron": "0 6 * * *",
    } | columns  # fmt: skip
    for key in ("target", "command_payload"):
        if key in row:
            row[key] = json.dumps(row[key])
    return queue.insert("command_schedules", "schedule_id", **row)


def due(queue: Queue, schedule: UUID, ago: str = "1 second") -> None:
    queue.connection.execute(
        "update command_schedules set next_run_at = date_trunc('second', clock_timestamp()) - %s::interval"
        " where schedule_id = %s",
        (ago, schedule),
    )


def schedule_row(queue: Queue, schedule: UUID) -> dict[str, Any]:
    return queue.rows("select * from command_schedules where schedule_id = %s", schedule)[0]


def queued(queue: Queue) -> int:
    return len(queue.rows("select from device_commands"))


def run_due(queue: Queue, now: datetime, rows: int = 500, schedules: int = 25) -> None:
    """What a claim does first, at a time of the test's choice."""
    queue.connection.execute("select mqtt_private.fn_queue_due_schedules(%s, %s, %s)", (now, rows, schedules))


def test_a_claim_queues_what_is_due_and_takes_it(queue: Queue) -> None:
    [device] = devices(queue, 1)
    schedule = add(queue, validity="10 minutes", priority=3, command_payload={"timestamp": "x"})
    assert queue.claim()["commands"] == []
    due(queue, schedule)
    [command] = queue.claim()["commands"]
    assert (command["device_id"], command["command_type"]) == (str(device), "ping")
    assert 590 < command["seconds_to_expiry"] < 601
    row = schedule_row(queue, schedule)
    assert row["last_result"] == "queued 1"
    assert row["next_run_at"] > queue.now() > row["last_run_at"]
    assert queue.row(UUID(command["command_id"]))["idempotency_key"].startswith(f"schedule:{schedule}:")
    assert queue.claim("w2")["commands"] == []


def test_a_claim_says_when_the_next_schedule_is_due(queue: Queue) -> None:
    devices(queue, 1)
    schedule = add(queue)
    due(queue, schedule, "-90 seconds")
    assert 85 < queue.claim()["seconds_to_next_due"] <= 91


def test_two_claimers_and_a_rollback_queue_each_occurrence_once(queue: Queue) -> None:
    devices(queue, 5)
    schedule = add(queue)
    due(queue, schedule)
    with queue.another() as other:
        with queue.connection.transaction(force_rollback=True):
            assert len(queue.claim()["commands"]) == 5  # a savepoint of a transaction that comes to nothing
        assert queued(other) == 0
        first = {row["device_id"] for row in other.claim("w2")["commands"]}
        second = {row["device_id"] for row in queue.claim("w1")["commands"]}
    assert (len(first), len(second), queued(queue)) == (5, 0, 5)
    due_again = queue.rows("select occurrence from command_schedule_runs")[0]["occurrence"]
    queue.connection.execute(
        "update command_schedules set next_run_at = %s", (due_again,)
    )  # the clock went back
    queue.claim()
    assert queued(queue) == 5
    assert schedule_row(queue, schedule)["next_run_at"] > due_again


def test_a_large_target_is_queued_page_by_page_and_a_change_ends_it(queue: Queue) -> None:
    devices(queue, 7)
    now = queue.now()
    schedule = add(queue)
    due(queue, schedule)
    counts = []
    for _ in range(3):
        run_due(queue, now + timedelta(seconds=1), rows=3)
        counts.append(queued(queue))
    assert counts == [3, 6, 7]
    assert schedule_row(queue, schedule)["last_result"] == "queued 7"
    due(queue, schedule, "9 seconds")
    run_due(queue, now + timedelta(seconds=1), rows=3)
    assert queue.rows("select mqtt_private.fn_seconds_to_next_schedule(clock_timestamp()) as s") == [
        {"s": 0.05}
    ]
    queue.connection.execute("update command_schedules set enabled = false")
    run_due(queue, now + timedelta(seconds=1))
    assert queued(queue) == 10
    [ended] = queue.rows("select result from command_schedule_runs where result like '%%stopped%%'")
    assert "the schedule was changed" in ended["result"]


def test_a_large_schedule_leaves_room_for_others(queue: Queue) -> None:
    [first, *_] = devices(queue, 200)
    large, small = add(queue), add(queue, target={"devices": [str(first)]})
    due(queue, large, "10 seconds")
    due(queue, small)
    run_due(queue, queue.now() + timedelta(seconds=1), rows=120)
    assert schedule_row(queue, small)["last_result"] == "queued 1"
    assert queued(queue) == 61


@pytest.mark.parametrize(
    ("missed", "ago", "count", "said"),
    [
        ("run_once", "3 hours", 1, "late, once for all that were missed"),
        ("skip", "3 hours", 0, "skipped: nobody saw to what was due from"),
        ("skip", "1 minute", 1, "queued 1"),
        ("run_once", "1 minute", 1, "queued 1"),
    ],
)
def test_missed_occurrences_run_once_or_are_skipped(
    queue: Queue, missed: str, ago: str, count: int, said: str
) -> None:
    devices(queue, 1)
    schedule = add(queue, cron="7 * * * *", missed=missed)
    due(queue, schedule, ago)
    now = queue.now().replace(minute=30) + timedelta(hours=1)  # no run of the cron within the last minutes
    queue.connection.execute(
        "update command_schedules set next_run_at = %s::timestamptz - %s::interval", (now, ago)
    )
    for _ in range(3):
        run_due(queue, now)
    assert queued(queue) == count
    row = schedule_row(queue, schedule)
    assert said in row["last_result"]
    assert row["next_run_at"] == (now + timedelta(hours=1)).replace(minute=7, second=0, microsecond=0)


@pytest.mark.parametrize(
    ("cron", "after", "runs"),
    [
        # Berlin's clock skips 2 to 3 o'clock on 29 March 2026, and shows 2 to 3 o'clock twice on 25 October
        ("30 2 * * *", "2026-03-28T12:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
        ("30 2 * * *", "2026-10-24T12:00Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        ("30 * * * *", "2026-10-24T23:45Z", ["2026-10-25T00:30Z", "2026-10-25T01:30Z"]),
    ],
)
def test_each_occurrence_runs_once_where_the_clock_changes(
    queue: Queue, cron: str, after: str, runs: list[str]
) -> None:
    devices(queue, 1)
    schedule = add(queue, cron=cron, timezone="Europe/Berlin")
    queue.connection.execute(
        "update command_schedules set next_run_at ="
        " mqtt_private.fn_next_occurrence(cron, timezone, target, %s::timestamptz)",
        (after,),
    )
    for run in map(datetime.fromisoformat, runs):
        run_due(queue, run - timedelta(seconds=1))
        before = queued(queue)
        run_due(queue, run)
        assert (queued(queue) - before, schedule_row(queue, schedule)["last_run_at"]) == (1, run)


def test_devices_that_cannot_get_it_are_skipped_and_counted(queue: Queue) -> None:
    [active] = devices(queue, 1)
    [inactive] = devices(queue, 1, active=False)
    stranger = queue.device("X")
    queue.connection.execute("update devices set company_id = null where device_id = %s", (stranger,))
    schedule = add(queue, target={"devices": [str(active), str(inactive), str(stranger)]})
    due(queue, schedule)
    queue.claim()
    said = schedule_row(queue, schedule)["last_result"]
    assert said.startswith("queued 1, skipped 1 that are not active: map them to a site, skipped 1 that")
    queue.connection.execute("update devices set is_active = false")
    due(queue, schedule, "9 seconds")
    assert queue.claim("w2")["commands"] == []
    assert schedule_row(queue, schedule)["last_result"].startswith("queued 0, skipped 2")


def test_a_row_that_the_project_refuses_harms_no_other(queue: Queue) -> None:
    found = devices(queue, 6)
    queue.connection.execute(
        f"alter table device_commands add constraint theirs check (device_id <> '{found[3]}')".encode()
    )
    try:
        schedule = add(queue)
        due(queue, schedule)
        assert len(queue.claim()["commands"]) == 5
    finally:
        queue.connection.execute("alter table device_commands drop constraint theirs")
    assert "queued 5, refused 1: constraint theirs" in schedule_row(queue, schedule)["last_result"]


def test_without_a_cron_it_runs_at_the_wakes_of_its_site(queue: Queue) -> None:
    [device] = devices(queue, 1)
    queue.connection.execute("update sites set wake_spread_seconds = 3600")
    schedule = add(queue, cron=None, target={"site": SITE}, command_type="capture_image")
    assert schedule_row(queue, schedule)["next_run_at"].astimezone(UTC).hour in {6, 7}
    queue.connection.execute("update sites set wake_schedule_cron = '30 12 * * *', timezone = 'UTC'")
    occurrence = schedule_row(queue, schedule)["next_run_at"]
    assert (occurrence.astimezone(UTC).hour, occurrence.minute) == (12, 30)
    run_due(queue, occurrence)
    [command] = queue.rows("select scheduled_for from device_commands")
    [shift] = queue.rows("select mqtt_private.fn_wake_shift(%s) as shift", device)
    assert command["scheduled_for"] - occurrence == timedelta(seconds=shift["shift"])


def test_a_site_whose_schedule_cannot_be_read_stops_its_schedules_alone(queue: Queue) -> None:
    schedule = add(queue, cron=None, target={"site": SITE})
    queue.connection.execute("update sites set wake_schedule_cron = 'whenever'")
    row = schedule_row(queue, schedule)
    assert row["next_run_at"] is None
    assert 'cron "whenever"' in row["last_result"]
    queue.connection.execute("update sites set wake_schedule_cron = '0 9 * * *'")
    assert schedule_row(queue, schedule)["next_run_at"] is not None


def test_paused_it_waits_and_resumed_it_makes_nothing_up(queue: Queue) -> None:
    devices(queue, 1)
    schedule = add(queue, enabled=False)
    assert schedule_row(queue, schedule)["next_run_at"] is None
    queue.connection.execute("update command_schedules set enabled = true")
    assert schedule_row(queue, schedule)["next_run_at"] > queue.now()
    due(queue, schedule)
    queue.connection.execute("update command_schedules set enabled = false")
    assert queue.claim()["commands"] == []


def test_saving_it_unchanged_does_not_end_what_is_being_queued(queue: Queue) -> None:
    devices(queue, 5)
    schedule = add(queue)
    due(queue, schedule)
    now = queue.now() + timedelta(seconds=1)
    run_due(queue, now, rows=3)
    queue.connection.execute("update command_schedules set enabled = enabled, target = target, cron = cron")
    run_due(queue, now, rows=3)
    assert queued(queue) == 5
    assert schedule_row(queue, schedule)["last_result"] == "queued 5"


@pytest.mark.parametrize(
    "harm",
    ["update sites set wake_schedule_cron = 'whenever'", "delete from sites"],
)
def test_one_that_cannot_run_any_more_can_still_be_paused(queue: Queue, harm: str) -> None:
    schedule = add(queue, cron=None, target={"site": SITE})
    queue.connection.execute(harm.encode())
    queue.connection.execute("update command_schedules set enabled = false")
    row = schedule_row(queue, schedule)
    assert (row["enabled"], row["next_run_at"]) == (False, None)


def test_one_that_was_stopped_goes_on_when_it_is_enabled_again(queue: Queue) -> None:
    schedule = add(queue)
    queue.connection.execute("update command_schedules set next_run_at = null, last_result = 'stopped'")
    queue.connection.execute("update command_schedules set enabled = true")
    assert schedule_row(queue, schedule)["next_run_at"] > queue.now()


def test_a_site_that_changes_wakes_no_schedule_that_was_paused_meanwhile(queue: Queue) -> None:
    schedule = add(queue, cron=None, target={"site": SITE})
    with queue.another() as other, ThreadPoolExecutor(1) as pool:
        with other.connection.transaction():
            other.connection.execute("update command_schedules set enabled = false")
            change = pool.submit(
                queue.connection.execute, "update sites set wake_schedule_cron = '0 9 * * *'"
            )
            wait_for_lock(other)
        change.result(10)
    row = schedule_row(queue, schedule)
    assert (row["enabled"], row["next_run_at"]) == (False, None)


def test_a_device_that_somebody_holds_delays_its_schedule_alone(queue: Queue) -> None:
    held, free = devices(queue, 2)
    schedule = add(queue, target={"devices": [str(held)]})
    other_schedule = add(queue, target={"devices": [str(free)]})
    due(queue, schedule, "10 seconds")
    due(queue, other_schedule)
    with queue.another() as other:
        with other.connection.transaction():
            other.connection.execute("select from devices where device_id = %s for update", (held,))
            with queue.connection.transaction():
                queue.connection.execute("set local statement_timeout = '5s'")
                assert [row["device_id"] for row in queue.claim()["commands"]] == [str(free)]
        assert [row["device_id"] for row in queue.claim("w2")["commands"]] == [str(held)]
    assert schedule_row(queue, schedule)["last_result"] == "queued 1"


def test_slow_rules_of_the_project_do_not_hold_up_a_claim(queue: Queue) -> None:
    devices(queue, 1)
    for _ in range(8):
        due(queue, add(queue))
    queue.connection.execute(
        "create function theirs() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.5); return new; end $$;"
        " create trigger theirs before insert on device_commands for each row execute function theirs()"
    )
    try:
        assert queue.claim()["seconds_to_next_due"] == 0.05
    finally:
        queue.connection.execute("drop function theirs() cascade")
    assert 0 < queued(queue) < 8
    queue.claim("w2")
    assert queued(queue) == 8


def test_claims_at_one_time_queue_each_occurrence_once(queue: Queue) -> None:
    devices(queue, 8)
    schedules = [add(queue) for _ in range(3)]
    for schedule in schedules:
        due(queue, schedule)
    start = Barrier(2)
    with queue.another() as other, ThreadPoolExecutor(2) as pool:

        def claim(session: Queue, worker: str) -> None:
            start.wait(10)
            for _ in range(3):
                session.claim(worker)

        for done in [pool.submit(claim, queue, "w1"), pool.submit(claim, other, "w2")]:
            done.result(30)
    assert queued(queue) == 24
    assert {schedule_row(queue, one)["last_result"] for one in schedules} == {"queued 8"}


def wait_for_lock(queue: Queue) -> None:
    """Until a session of this database waits for another."""
    deadline = monotonic() + 10
    waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while not queue.rows(waiting):
        assert monotonic() < deadline, "nobody waits"
        queue.connection.execute("select pg_stat_clear_snapshot()")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"cron": "0 25 * * *"}, "hour 25 is not between 0 and 23"),
        ({"cron": " "}, "cron is empty"),
        ({"cron": None}, "names no site whose wakes it means"),
        ({"cron": None, "target": {"site": SITE}, "timezone": "UTC"}, "does not go with the wakes"),
        ({"timezone": "GMT+2"}, "is not the name of a region"),
        ({"timezone": "Europe/Atlantis"}, "Atlantis"),
        ({"target": {}}, "names no devices"),
        ({"target": {"site": COMPANY}}, "is not of the company"),
        ({"target": {"company": SITE}}, "is not of the company"),
        ({"command_type": "selfie"}, "is not known"),
        ({"command_type": "send_image"}, "needs image_name"),
        ({"command_payload": {"x": "y" * 131072}}, "more than 131072"),
        ({"missed": "always"}, "missed"),
        ({"validity": "-1 s"}, "validity"),
        ({"enabled": False, "cron": "nonsense"}, "cron"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_never_run_is_refused(queue: Queue, columns: dict[str, object], said: str) -> None:
    with pytest.raises((psycopg.DataError, psycopg.IntegrityError)) as refused:
        add(queue, **columns)
    assert said in str(refused.value.diag.message_primary)


def test_runs_are_kept_for_the_last_twenty(queue: Queue) -> None:
    schedule = add(queue, cron="* * * * *")
    for _ in range(25):
        run_due(queue, schedule_row(queue, schedule)["next_run_at"])
    assert len(queue.rows("select from command_schedule_runs")) == 20


@pytest.fixture
def many(server_url: str, migrated_template: str) -> Iterator[Queue]:
    with copied(server_url, migrated_template) as connection:
        connection.execute(_PLACES.encode())
        yield Queue(connection)


def test_a_claim_reads_no_more_beside_many_schedules_for_later(many: Queue) -> None:
    devices(many, 3)
    costs = []
    for count in (1_000, 19_000):
        with many.connection.transaction():
            many.connection.execute(
                "set local session_replication_role = replica"
            )  # no time worked out for each
            many.connection.execute(
                "insert into command_schedules (company_id, name, target, command_type, cron, next_run_at)"
                " select %s, 's', %s, 'ping', '0 6 * * *', now() + interval '1 hour' + n * interval '1 s'"
                " from generate_series(1, %s) n",
                (COMPANY, json.dumps(TARGET), count),
            )
        many.connection.execute("vacuum analyze command_schedules")
        costs.append(cost(many))
    (few_rows, few_pages), (many_rows, many_pages) = costs
    assert many_rows <= few_rows
    assert many_pages - few_pages <= 10


def cost(queue: Queue) -> tuple[int, int]:
    """Rows of the queue and of the schedules that a claim reads, and pages that it touches."""
    read = (
        "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int as n from pg_stat_xact_user_tables"
        " where relname in ('command_schedules', 'command_schedule_runs')"
    )
    for _ in range(2):  # the first one also makes plans
        with queue.connection.transaction(force_rollback=True):
            before = rows_read(queue.connection) + queue.rows(read)[0]["n"]
            [plan] = queue.rows(
                "explain (analyze, buffers, format json) select public.fn_claim_commands('w1', 100)"
            )
            after = rows_read(queue.connection) + queue.rows(read)[0]["n"]
    top = plan["QUERY PLAN"][0]["Plan"]
    return after - before, top["Shared Hit Blocks"] + top["Shared Read Blocks"]
