"""Rollouts: each device of a target gets the command once, so many a minute, until too many fail."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, copied, emptied
from tests.integration.database.test_schedules import COMPANY, SITE, TARGET, devices

CREATOR, OTHER = "a0000000-0000-4000-8000-0000000000e3", "a0000000-0000-4000-8000-0000000000e4"
PLACES = f"""
insert into companies (company_id) values ('{COMPANY}');
insert into sites (site_id, company_id, timezone, wake_schedule_cron)
values ('{SITE}', '{COMPANY}', 'Europe/Berlin', '0 8 * * *');
"""

End = Literal["acknowledged", "rejected", "cancelled", "expired", "failed"]


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    emptied(shared).execute(PLACES.encode())
    return Queue(shared)


def start(queue: Queue, **columns: object) -> UUID:
    row: dict[str, object] = {
        "company_id": COMPANY, "name": "r", "target": TARGET, "command_type": "ping", "rate_per_minute": 100,
    } | columns  # fmt: skip
    for key in ("target", "command_payload"):
        if key in row:
            row[key] = json.dumps(row[key])
    return queue.insert("command_rollouts", "rollout_id", **row)


def progress(queue: Queue, rollout: UUID) -> dict[str, Any]:
    return queue.rows("select * from rollout_progress where rollout_id = %s", rollout)[0]


def row_of(queue: Queue, rollout: UUID) -> dict[str, Any]:
    return queue.rows("select * from command_rollouts where rollout_id = %s", rollout)[0]


def set_status(queue: Queue, rollout: UUID, status: str) -> None:
    queue.connection.execute(
        "update command_rollouts set status = %s where rollout_id = %s", (status, rollout)
    )


def run(queue: Queue, after: timedelta = timedelta(0), rows: int = 500) -> datetime:
    """What a claim does for rollouts, so long after now."""
    now = queue.now() + after
    queue.connection.execute("select mqtt_private.fn_run_rollouts(%s, %s)", (now, rows))
    return now


def end(queue: Queue, status: End, count: int = 1) -> None:
    """So many of the commands that have not ended do."""
    queue.connection.execute(
        "update device_commands set status = %s, due_at = null where command_id in (select command_id"
        " from device_commands where status in ('pending', 'sent') order by device_id limit %s)",
        (status, count),
    )


def queued(queue: Queue) -> int:
    return len(queue.rows("select from device_commands"))


def left_out(queue: Queue) -> list[dict[str, Any]]:
    return queue.rows(
        "select device_id, state, reason from rollout_devices where state in ('skipped', 'refused')"
        " order by reason"
    )


def test_a_claim_releases_and_takes_what_it_released(queue: Queue) -> None:
    [device] = devices(queue, 1)
    rollout = start(queue, validity="10 minutes", priority=3, command_payload={"timestamp": "x"})
    [command] = queue.claim()["commands"]
    assert (command["device_id"], command["command_type"]) == (str(device), "ping")
    assert 590 < command["seconds_to_expiry"] < 601
    written = queue.row(UUID(command["command_id"]))
    assert (written["idempotency_key"], written["rollout_id"]) == (f"rollout:{rollout}:{device}", rollout)
    assert queue.claim("w2")["commands"] == []
    assert progress(queue, rollout)["pending"] == 1


def test_it_finishes_when_all_commands_have_ended_and_says_what_became_of_them(queue: Queue) -> None:
    devices(queue, 3)
    rollout = start(queue, failure_threshold=0.5)
    queue.settle(queue.claim()["commands"])
    queue.claim()
    assert progress(queue, rollout)["sent"] == 3
    end(queue, "acknowledged", 2)
    run(queue)
    assert progress(queue, rollout)["status"] == "running"
    end(queue, "expired")
    run(queue)
    row = progress(queue, rollout)
    assert (row["status"], row["last_result"]) == ("finished", "2 succeeded, 1 failed")
    assert (row["waiting"], row["finished_at"] is not None) == (None, True)
    end_late = "update device_commands set status = 'acknowledged' where status = 'expired'"
    queue.connection.execute(end_late.encode())
    run(queue)
    assert progress(queue, rollout)["succeeded"] == 3


def test_each_minute_as_many_are_released_as_the_rate_says(queue: Queue) -> None:
    devices(queue, 12)
    rollout = start(queue, rate_per_minute=5)
    counts = []
    for seconds in (1, 2, 30, 60, 62, 125):
        run(queue, timedelta(seconds=seconds))
        counts.append(queued(queue))
    assert counts == [5, 5, 5, 5, 10, 12]
    assert progress(queue, rollout)["waiting"] == 0


def test_the_rate_grows_each_time_a_minutes_devices_have_succeeded_up_to_its_bound(queue: Queue) -> None:
    devices(queue, 30)
    rollout = start(queue, rate_per_minute=2, growth_factor=2, max_rate_per_minute=5)
    released = []
    for minute in range(4):
        before = queued(queue)
        run(queue, timedelta(seconds=1 + 61 * minute))
        released.append(queued(queue) - before)
        end(queue, "acknowledged", 30)
    assert released == [2, 4, 5, 5]
    assert row_of(queue, rollout)["current_rate"] == 5


def test_a_rate_that_is_changed_counts_from_the_next_minute_on(queue: Queue) -> None:
    devices(queue, 9)
    rollout = start(queue, rate_per_minute=2, max_rate_per_minute=1)
    run(queue)
    queue.connection.execute("update command_rollouts set rate_per_minute = 4")
    run(queue)
    assert (queued(queue), row_of(queue, rollout)["current_rate"]) == (2, 4)
    run(queue, timedelta(seconds=61))
    assert queued(queue) == 6


def test_a_page_at_a_time_it_releases_each_device_once(queue: Queue) -> None:
    devices(queue, 7)
    start(queue)
    counts = []
    for _ in range(4):
        run(queue, rows=3)
        counts.append(queued(queue))
    assert counts == [3, 6, 7, 7]


@pytest.mark.parametrize("status", ["rejected", "cancelled", "expired", "failed"])
def test_it_stops_by_itself_when_failures_pass_the_threshold(queue: Queue, status: End) -> None:
    devices(queue, 20)
    rollout = start(queue, rate_per_minute=10, failure_threshold=0.2, failure_minimum=5)
    run(queue)
    end(queue, "acknowledged", 2)
    end(queue, status, 2)
    run(queue)
    assert progress(queue, rollout)["status"] == "running"  # fewer have ended than count
    end(queue, "acknowledged", 6)
    run(queue)
    assert progress(queue, rollout)["status"] == "running"  # 2 of 10 are not more than 20 %
    run(queue, timedelta(minutes=2))
    end(queue, status, 1)
    run(queue, timedelta(minutes=2))
    row = progress(queue, rollout)
    assert (row["status"], row["next_release_at"]) == ("stopped", None)
    assert row["last_result"] == "stopped: 3 of 11 that ended have failed, more than 20 %"
    set_status(queue, rollout, "running")  # it counts anew
    run(queue, timedelta(minutes=4))
    assert progress(queue, rollout)["status"] == "running"


def test_a_firmware_has_succeeded_when_it_is_verified(queue: Queue) -> None:
    devices(queue, 2)
    release = queue.insert(
        "firmware_releases", "release_id", company_id=COMPANY, version="1.2.0", sha256="a" * 64, size_bytes=1,
        path=f"{COMPANY}/firmware.bin",
    )  # fmt: skip
    rollout = start(queue, failure_minimum=1, command_type="update_firmware", release_id=release)
    run(queue)
    end(queue, "acknowledged", 2)
    run(queue)
    assert (progress(queue, rollout)["unverified"], progress(queue, rollout)["succeeded"]) == (2, 0)
    queue.connection.execute(
        "update device_commands set verified_at = now()"
        " where device_id = (select device_id from devices order by 1 limit 1)"
    )
    run(queue)
    assert (progress(queue, rollout)["unverified"], progress(queue, rollout)["succeeded"]) == (1, 1)


def test_paused_it_releases_nothing_and_resumed_it_goes_on_with_the_next_minute(queue: Queue) -> None:
    devices(queue, 9)
    rollout = start(queue, rate_per_minute=3)
    run(queue)
    set_status(queue, rollout, "paused")
    run(queue, timedelta(minutes=5))
    assert queued(queue) == 3
    set_status(queue, rollout, "running")
    run(queue)
    assert queued(queue) == 3
    run(queue, timedelta(seconds=63))
    assert queued(queue) == 6


def test_one_whose_commands_end_while_it_is_paused_finishes_when_it_is_resumed(queue: Queue) -> None:
    devices(queue, 2)
    rollout = start(queue)
    run(queue)
    set_status(queue, rollout, "paused")
    end(queue, "acknowledged", 2)
    run(queue)
    assert progress(queue, rollout)["status"] == "paused"
    set_status(queue, rollout, "running")
    run(queue, timedelta(seconds=63))
    assert progress(queue, rollout)["status"] == "finished"


def test_a_cancel_is_one_statement_and_cancels_what_waits(queue: Queue) -> None:
    devices(queue, 4)
    rollout = start(queue, rate_per_minute=3)
    queue.settle(queue.claim(limit=1)["commands"])
    set_status(queue, rollout, "cancelled")
    statuses = queue.rows("select status from device_commands order by status")
    assert [row["status"] for row in statuses] == ["cancelled", "cancelled", "sent"]
    run(queue, timedelta(minutes=5))
    row = progress(queue, rollout)
    assert (queued(queue), row["cancelled"], row["sent"], row["finished_at"] is not None) == (3, 2, 1, True)
    assert row["next_release_at"] is None


def test_what_a_cancel_cannot_reach_is_cancelled_by_the_next_claim(queue: Queue) -> None:
    held, *_ = devices(queue, 2)
    rollout = start(queue)
    run(queue)
    with queue.another() as other, other.connection.transaction():
        other.connection.execute("select from device_commands where device_id = %s for update", (held,))
        set_status(queue, rollout, "cancelled")
    assert queue.claim()["commands"] == []
    assert {row["status"] for row in queue.rows("select status from device_commands")} == {"cancelled"}


def test_a_cancel_passes_over_what_the_project_refuses(queue: Queue) -> None:
    refused, *_ = devices(queue, 3)
    rollout = start(queue)
    run(queue)
    queue.connection.execute(
        "alter table device_commands add constraint theirs"
        f" check (device_id <> '{refused}' or status <> 'cancelled')".encode()
    )
    try:
        set_status(queue, rollout, "cancelled")
        run(queue)
    finally:
        queue.connection.execute("alter table device_commands drop constraint theirs")
    assert progress(queue, rollout)["cancelled"] == 2
    assert row_of(queue, rollout)["next_release_at"] is None


def test_a_snapshot_is_fixed_when_it_starts(queue: Queue) -> None:
    first, second = devices(queue, 2)
    rollout = start(queue, needs_approval=True, target={"tags": ["a"]}, created_by_user_id=CREATOR)
    queue.connection.execute("insert into device_tags (device_id, tag) values (%s, 'a')", (first,))
    approve(queue, rollout, OTHER)
    queue.connection.execute("delete from device_tags")
    queue.connection.execute("insert into device_tags (device_id, tag) values (%s, 'a')", (second,))
    run(queue)
    assert [row["device_id"] for row in queue.rows("select device_id from device_commands")] == [first]
    assert progress(queue, rollout)["total"] == 1


def test_a_continuous_one_finds_devices_that_come_to_fit_and_skips_none_for_good(queue: Queue) -> None:
    devices(queue, 1)
    [inactive] = devices(queue, 1, active=False)
    rollout = start(queue, continuous=True)
    run(queue)
    assert (queued(queue), progress(queue, rollout)["skipped"]) == (1, 1)
    [named] = left_out(queue)
    assert (named["device_id"], "map it to a site" in named["reason"]) == (inactive, True)
    queue.connection.execute("update devices set is_active = true")
    late = queue.device("LATE")
    queue.connection.execute("update devices set company_id = %s", (COMPANY,))
    run(queue, timedelta(minutes=4))
    assert queued(queue) == 1
    run(queue, timedelta(minutes=6))
    assert queued(queue) == 3
    row = progress(queue, rollout)
    assert (row["pending"], row["skipped"], row["status"]) == (3, 0, "running")
    assert late in {row["device_id"] for row in queue.rows("select device_id from device_commands")}
    end(queue, "acknowledged", 3)
    run(queue, timedelta(minutes=12))
    assert (progress(queue, rollout)["status"], queued(queue)) == ("running", 3)


def test_a_snapshot_names_the_devices_that_it_skips(queue: Queue) -> None:
    unmapped, removed, stays = devices(queue, 3)
    rollout = start(queue)
    queue.connection.execute("update devices set is_active = false where device_id = %s", (unmapped,))
    queue.connection.execute("delete from devices where device_id = %s", (removed,))
    run(queue)
    assert {row["device_id"] for row in left_out(queue)} == {unmapped, removed}
    end(queue, "acknowledged")
    run(queue)
    row = progress(queue, rollout)
    assert (row["status"], row["last_result"]) == ("finished", "1 succeeded, 2 skipped")
    assert stays in {row["device_id"] for row in queue.rows("select device_id from device_commands")}


def test_a_device_that_is_removed_leaves_its_rollout_and_does_not_hold_it_up(queue: Queue) -> None:
    gone, _ = devices(queue, 2)
    rollout = start(queue, failure_threshold=1)
    run(queue)
    queue.connection.execute("delete from devices where device_id = %s", (gone,))
    end(queue, "acknowledged")
    run(queue)
    row = progress(queue, rollout)
    assert (row["status"], row["succeeded"], row["cancelled"]) == ("finished", 1, 1)
    [named] = queue.rows("select reason from rollout_devices where device_id = %s", gone)
    assert "removed" in named["reason"]


def test_a_command_that_retention_removes_stays_counted(queue: Queue) -> None:
    devices(queue, 1)
    rollout = start(queue)
    run(queue)
    end(queue, "acknowledged")
    run(queue)
    queue.connection.execute("delete from device_commands")
    run(queue)
    assert progress(queue, rollout)["succeeded"] == 1


def test_a_row_that_the_project_refuses_is_named_and_harms_no_other(queue: Queue) -> None:
    found = devices(queue, 6)
    rollout = start(queue, failure_minimum=1, failure_threshold=0.5)
    queue.connection.execute(
        f"alter table device_commands add constraint theirs check (device_id <> '{found[3]}')".encode()
    )
    try:
        assert len(queue.claim()["commands"]) == 5
    finally:
        queue.connection.execute("alter table device_commands drop constraint theirs")
    [named] = left_out(queue)
    assert (named["device_id"], named["state"]) == (found[3], "refused")
    assert "constraint theirs" in named["reason"]
    run(queue)
    assert progress(queue, rollout)["last_result"].startswith("stopped: 1 of 1")


def test_a_device_that_somebody_holds_delays_its_rollout_alone(queue: Queue) -> None:
    held, free = devices(queue, 2)
    start(queue, target={"devices": [str(held)]})
    start(queue, target={"devices": [str(free)]})
    with queue.another() as other:
        with other.connection.transaction():
            other.connection.execute("select from devices where device_id = %s for update", (held,))
            with queue.connection.transaction():
                queue.connection.execute("set local statement_timeout = '5s'")
                assert [row["device_id"] for row in queue.claim()["commands"]] == [str(free)]
        queue.connection.execute("update command_rollouts set next_release_at = now()")
        assert [row["device_id"] for row in queue.claim("w2")["commands"]] == [str(held)]


def test_a_rollout_that_somebody_holds_waits_and_stops_no_claim(queue: Queue) -> None:
    devices(queue, 1)
    held = start(queue)
    with queue.another() as other:
        with other.connection.transaction():
            other.connection.execute("select from command_rollouts where rollout_id = %s for update", (held,))
            with queue.connection.transaction():
                queue.connection.execute("set local statement_timeout = '5s'")
                assert queue.claim()["commands"] == []
        assert len(queue.claim()["commands"]) == 1


def test_slow_rules_of_the_project_do_not_hold_up_a_claim(queue: Queue) -> None:
    devices(queue, 1)
    for _ in range(8):
        start(queue)
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


def test_a_large_rollout_leaves_room_for_others(queue: Queue) -> None:
    [first, *_] = devices(queue, 200)
    start(queue, rate_per_minute=1000)
    small = start(queue, target={"devices": [str(first)]})
    run(queue, rows=120)
    assert progress(queue, small)["pending"] == 1
    assert 60 <= queued(queue) <= 121


def test_two_claimers_and_a_rollback_release_each_device_once(queue: Queue) -> None:
    devices(queue, 8)
    rollouts = [start(queue) for _ in range(3)]
    with queue.connection.transaction(force_rollback=True):
        assert len(queue.claim()["commands"]) == 24
    assert queued(queue) == 0
    begin = Barrier(2)
    with queue.another() as other, ThreadPoolExecutor(2) as pool:

        def claim(session: Queue, worker: str) -> None:
            begin.wait(10)
            for _ in range(3):
                session.claim(worker)

        for done in [pool.submit(claim, queue, "w1"), pool.submit(claim, other, "w2")]:
            done.result(30)
    assert queued(queue) == 24
    assert {progress(queue, one)["pending"] for one in rollouts} == {8}


def test_a_clock_that_jumps_makes_nothing_up_and_nothing_twice(queue: Queue) -> None:
    devices(queue, 9)
    rollout = start(queue, rate_per_minute=3)
    run(queue, timedelta(hours=5))
    assert queued(queue) == 3
    run(queue)  # the clock is put back: it waits
    assert queued(queue) == 3
    set_status(queue, rollout, "paused")
    set_status(queue, rollout, "running")  # and need not
    run(queue)
    assert queued(queue) == 6


def test_what_was_not_sent_yet_bounds_what_is_released(queue: Queue) -> None:
    devices(queue, 3)
    rollout = start(queue)
    queue.connection.execute("update rollout_counts set pending = 1000")
    run(queue)
    assert queued(queue) == 0
    assert "waits for the queue: 1000 of its commands" in progress(queue, rollout)["last_result"]


def test_a_target_without_devices_finishes_and_says_so(queue: Queue) -> None:
    rollout = start(queue)
    run(queue)
    row = progress(queue, rollout)
    assert (row["status"], row["last_result"]) == ("finished", "no device fits the target")


def test_a_claim_says_when_the_next_minute_begins(queue: Queue) -> None:
    devices(queue, 3)
    start(queue, rate_per_minute=1)
    assert queue.claim(limit=0)["seconds_to_next_due"] <= 60
    queue.connection.execute("delete from device_commands")
    assert 55 < queue.claim()["seconds_to_next_due"] <= 60


def approve(queue: Queue, rollout: UUID, by: str | None) -> None:
    queue.connection.execute(
        "update command_rollouts set status = 'running', approved_by_user_id = %s where rollout_id = %s",
        (by, rollout),
    )


@pytest.mark.parametrize(("by", "said"), [(CREATOR, "cannot approve it"), (None, "does not say who")])
def test_it_waits_for_another_persons_approval(queue: Queue, by: str | None, said: str) -> None:
    devices(queue, 1)
    rollout = start(queue, needs_approval=True, created_by_user_id=CREATOR)
    run(queue)
    assert (queued(queue), progress(queue, rollout)["status"]) == (0, "awaiting_approval")
    with pytest.raises(psycopg.errors.CheckViolation, match=said):
        approve(queue, rollout, by)
    approve(queue, rollout, OTHER)
    run(queue)
    assert queued(queue) == 1


@pytest.mark.parametrize(
    "change",
    [
        "target = '{\"tags\": [\"x\"]}'", "command_type = 'reboot'", "command_payload = '{\"a\": 1}'",
        "continuous = true", "needs_approval = true", "validity = '1 day'", f"created_by_user_id = '{OTHER}'",
    ],
)  # fmt: skip
def test_its_target_and_command_cannot_be_changed(queue: Queue, change: str) -> None:
    start(queue)
    with pytest.raises(psycopg.errors.CheckViolation, match="cannot be changed"):
        queue.connection.execute(f"update command_rollouts set {change}".encode())


@pytest.mark.parametrize("status", ["finished", "cancelled"])
def test_what_is_over_does_not_begin_again(queue: Queue, status: str) -> None:
    rollout = start(queue)
    set_status(queue, rollout, status)
    with pytest.raises(psycopg.errors.CheckViolation, match="cannot become running"):
        set_status(queue, rollout, "running")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"target": {}}, "names no devices"),
        ({"target": {"site": COMPANY}}, "is not of the company"),
        ({"command_type": "selfie"}, "is not known"),
        ({"command_type": "send_image"}, "needs image_name"),
        ({"release_id": CREATOR}, "does not go with this rollout"),
        ({"release_id": CREATOR, "command_type": "update_firmware"}, "does not go with this rollout"),
        ({"rate_per_minute": 0}, "rate_per_minute"),
        ({"growth_factor": 0.5}, "growth_factor"),
        ({"failure_threshold": 1.5}, "failure_threshold"),
        ({"validity": "-1 s"}, "validity"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_never_work_is_refused(queue: Queue, columns: dict[str, object], said: str) -> None:
    with pytest.raises(psycopg.IntegrityError) as refused:
        start(queue, **columns)
    assert said in str(refused.value.diag.message_primary)


@pytest.fixture
def many(server_url: str, migrated_template: str) -> Iterator[Queue]:
    with copied(server_url, migrated_template) as connection:
        connection.execute(PLACES.encode())
        yield Queue(connection)


def test_a_claim_reads_no_more_beside_many_rollouts_and_devices(many: Queue) -> None:
    costs = []
    for rollouts, count in ((50, 1_000), (950, 19_000)):
        with many.connection.transaction():
            many.connection.execute("set local session_replication_role = replica")
            many.connection.execute(
                "with r as ("
                " insert into command_rollouts (company_id, name, target, command_type, next_release_at)"
                " select %(company)s, 'r', '{}', 'ping', now() + interval '1 hour'"
                " from generate_series(1, %(r)s)"
                " returning rollout_id),"
                " c as (insert into rollout_counts (rollout_id, sent) select rollout_id, 100 from r)"
                " insert into device_commands (device_id, command_type, status, rollout_id, delivered_at)"
                " select gen_random_uuid(), 'ping', 'sent', rollout_id, now()"
                " from r, generate_series(1, %(n)s / %(r)s)",
                {"company": COMPANY, "r": rollouts, "n": count},
            )
            many.connection.execute(
                "insert into rollout_devices (rollout_id, device_id, command_id, state)"
                " select rollout_id, device_id, command_id, 'sent' from device_commands"
                " on conflict do nothing"
            )
        many.connection.execute("vacuum analyze")
        costs.append(cost(many))
    (few_rows, few_pages), (many_rows, many_pages) = costs
    assert many_rows <= few_rows
    assert many_pages - few_pages <= 15


def cost(queue: Queue) -> tuple[int, int]:
    """Rows of the queue and of the rollouts that a claim reads, and pages that it touches."""
    read = (
        "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int as n from pg_stat_xact_user_tables"
        " where relname in ('command_rollouts', 'rollout_counts', 'rollout_devices', 'device_commands')"
    )
    for _ in range(2):  # the first one also makes plans
        with queue.connection.transaction(force_rollback=True):
            before = queue.rows(read)[0]["n"]
            [plan] = queue.rows(
                "explain (analyze, buffers, format json) select public.fn_claim_commands('w1', 100)"
            )
            after = queue.rows(read)[0]["n"]
    top = plan["QUERY PLAN"][0]["Plan"]
    return after - before, top["Shared Hit Blocks"] + top["Shared Read Blocks"]


def test_a_snapshot_of_many_devices_is_taken_when_it_starts_and_makes_no_rows(many: Queue) -> None:
    many.connection.execute("set session_replication_role = replica")
    many.connection.execute(
        "insert into devices (device_mac, company_id, site_id, is_active)"
        " select lpad(to_hex(n), 12, '0'), %s, %s, true from generate_series(1, 2000) n",
        (COMPANY, SITE),
    )
    many.connection.execute("reset session_replication_role")
    rollout = start(many, rate_per_minute=60)
    row = progress(many, rollout)
    assert (row["total"], row["waiting"], queued(many)) == (2000, 2000, 0)
    run(many)
    run(many)
    assert queued(many) == 60
