"""The words of a command's story, for each state that it can be in; `show` and dashboards print them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, copied, reseeded
from tests.integration.database.test_image_storage import acting_as

DEVICE = "a0000000-0000-4000-8000-000000000031"
VIEWER_A, VIEWER_B = "a0000000-0000-4000-8000-0000000000e1", "b0000000-0000-4000-8000-0000000000e1"
WORKER = "mqtt-service-web-1:3f9a01bc"
LEASE = {"lease_worker": f"'{WORKER}'", "attempt": "1"}
SENT = {"status": "'sent'", "due_at": "null"}
# Columns of …_command_progress.sql, …_firmware.sql, …_maintenance_windows.sql and …_rollouts.sql.
_OTHERS = """
alter table device_commands
  add column if not exists held_until timestamptz, add column if not exists progress smallint,
  add column if not exists progress_at timestamptz, add column if not exists progress_message text,
  add column if not exists answer_due_at timestamptz,
  add column if not exists done_after_cancel_at timestamptz,
  add column if not exists release_id uuid, add column if not exists verified_at timestamptz,
  add column if not exists rollout_id uuid, add column if not exists config_version bigint
"""

CASES: dict[str, tuple[dict[str, str], str, list[str], str]] = {
    # the command's columns; the device's; what the story says; its state
    "due": (
        {},
        "",
        ["takes it up at its next poll", "gives up at 2026-03-02 12:55:00+01:00 (in 23 h 55 min)"],
        "due",
    ),
    "late": ({"due_at": "ago('10 min')"}, "", ["due for 10 min", "mqtt-service top"], "late"),
    "scheduled": (
        {"due_at": "ago('-2 h')", "scheduled_for": "ago('-2 h')"},
        "",
        ["waits for its time", "15:00:00+01:00 (in 2 h)", "gives up at 2026-03-02 15:00:00+01:00"],
        "scheduled",
    ),
    "leased": (
        {**LEASE, "lease_until": "ago('-20 s')", "due_at": "ago('-20 s')"},
        "",
        [f"{WORKER} is sending it now (attempt 1)", "(in 20 s)"],
        "leased",
    ),
    "lease over": (
        {**LEASE, "lease_until": "ago('3 s')", "due_at": "ago('3 s')"},
        "",
        ["lease ran out 3 s ago"],
        "due",
    ),
    "of an inactive device": (
        {},
        "is_active = false, provisioning_status = 'inactive'",
        ["not active (inactive)", "mqtt-service map"],
        "inactive",
    ),
    "redelivered": ({"redelivery_count": "2"}, "", ["was sent before", "second time"], "due"),
    "held": (
        {"due_at": "null", "held_until": "ago('-3 h')"},
        "",
        ["A maintenance window holds it", "opens at 2026-03-01 16:00:00+01:00 (in 3 h)"],
        "held",
    ),
    "of a rollout": ({"rollout_id": "gen_random_uuid()"}, "", ["part of the rollout"], "due"),
    "of a configuration": ({"config_version": "7"}, "", ["carries version 7"], "due"),
    "sent, repeatable": (
        {**SENT, "command_type": "'send_image'", "delivered_at": "ago('1 min')"},
        "",
        [
            "has not answered",
            "When the device wakes, it is sent again (0 of 3",
            "wakes at 2026-03-01 17:00:00",
        ],
        "waiting_for_wake",
    ),
    "sent, of the project's own type that may be repeated": (
        {**SENT, "command_type": "'water_plants'", "delivered_at": "ago('1 min')"},
        "",
        ["it is sent again"],
        "waiting_for_wake",
    ),
    "sent, replaceable": (
        {**SENT, "command_type": "'update_config'", "delivered_at": "ago('1 min')"},
        "",
        ["unless a newer one has replaced it"],
        "waiting_for_wake",
    ),
    "sent, never to be done twice": (
        {**SENT, "delivered_at": "ago('1 min')"},
        "",
        ["a reboot is never done twice"],
        "sent",
    ),
    "sent while nobody listened": (
        {**SENT, "no_listener": "true", "delivered_at": "ago('1 min')"},
        "",
        ["nobody was listening", "it is sent again (0 of 3"],
        "waiting_for_wake",
    ),
    "sent as often as may be": (
        {**SENT, "command_type": "'send_image'", "redelivery_count": "3", "delivered_at": "ago('1 min')"},
        "",
        ["sent again 3 times, which is all"],
        "sent",
    ),
    "sent to a device that did not wake": (
        {**SENT, "delivered_at": "ago('1 h')"},
        "next_wake_at = ago('30 min')",
        ["should have woken", "(30 min ago)", "last heard 4 h ago"],
        "sent",
    ),
    "sent to a device that was never heard": (
        {**SENT, "delivered_at": "ago('1 h')"},
        "next_wake_at = null, last_seen_at = null",
        ["When the device wakes is not known; it was never heard yet."],
        "sent",
    ),
    "in progress": (
        {
            **SENT,
            "delivered_at": "ago('9 min')",
            "progress": "40",
            "progress_at": "ago('1 min')",
            "progress_message": "'writing'",
            "answer_due_at": "ago('-4 min')",
        },
        "",
        [
            "the device is at it",
            "come to 40 %: writing, as the device said 1 min ago",
            "It fails at",
            "(in 4 min)",
        ],
        "in_progress",
    ),
    "to be retried": (
        {"status": "'failed'", "retry_count": "1", "last_error": "'low battery'", "due_at": "ago('-30 s')"},
        "",
        ["low battery (1 of 3 failures)", "tried again at 2026-03-01 13:00:30+01:00 (in 30 s)"],
        "retry",
    ),
    "failed, and held": (
        {"status": "'failed'", "retry_count": "1", "due_at": "null", "held_until": "ago('-1 h')"},
        "",
        ["holds the next attempt until"],
        "held",
    ),
    "failed for good": (
        {"status": "'failed'", "retry_count": "3", "last_error": "'low battery'", "due_at": "null"},
        "",
        ["not tried again by itself", "mqtt-service retry 0f9c2c1e"],
        "failed",
    ),
    "acknowledged": (
        {
            "status": "'acknowledged'",
            "delivered_at": "ago('9 s')",
            "acknowledged_at": "ago('8 s')",
            "due_at": "null",
        },
        "",
        ["The device did it at", "1.0 s after the broker had it"],
        "acknowledged",
    ),
    "acknowledged, to be verified": (
        {
            "status": "'acknowledged'",
            "acknowledged_at": "ago('8 s')",
            "due_at": "null",
            "release_id": "gen_random_uuid()",
        },
        "",
        ["what the device says when it wakes next", "wakes at"],
        "waiting_for_verification",
    ),
    "verified": (
        {
            "status": "'acknowledged'",
            "acknowledged_at": "ago('8 s')",
            "due_at": "null",
            "release_id": "gen_random_uuid()",
            "verified_at": "ago('2 s')",
        },
        "",
        ["woke with the new version at"],
        "verified",
    ),
    "rejected": (
        {"status": "'rejected'", "last_error": "'no such picture'", "due_at": "null"},
        "",
        ["never will: no such picture", "final"],
        "rejected",
    ),
    "expired": (
        {"status": "'expired'", "due_at": "null"},
        "",
        ["time went by (unsent)", "late success"],
        "expired",
    ),
    "expired after it was sent": (
        {"status": "'expired'", "delivered_at": "ago('2 min')", "due_at": "null"},
        "",
        ["(the broker had it at 2026-03-01 12:58:00+01:00)"],
        "expired",
    ),
    "cancelled": (
        {"status": "'cancelled'", "attempt": "1", "due_at": "null"},
        "",
        ["It was withdrawn", "may have got it nevertheless"],
        "cancelled",
    ),
    "cancelled, and done": (
        {"status": "'cancelled'", "attempt": "1", "due_at": "null", "done_after_cancel_at": "ago('1 s')"},
        "",
        ["It was withdrawn", "did it all the same"],
        "cancelled",
    ),
    "from before": (
        {"in_queue": "false", "due_at": "null"},
        "",
        ["leaves it alone", "queue it anew"],
        "left_alone",
    ),
    "with another service's status": (
        {"status": "'archived'", "due_at": "null"},
        "",
        ["'archived'"],
        "foreign",
    ),
}
OPEN = {
    "due",
    "late",
    "scheduled",
    "leased",
    "inactive",
    "held",
    "waiting_for_wake",
    "sent",
    "in_progress",
    "retry",
}


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    """Time stands still in the stories: it is noon in London, and one o'clock at the site."""
    with copied(server_url, seeded_template) as connection:
        connection.execute(_OTHERS)
        connection.execute("alter table device_commands drop constraint device_commands_status_check")
        connection.execute(
            "create function public.ago(interval) returns timestamptz language sql immutable as"
            " $$ select timestamptz '2026-03-01 12:00+00' - $1 $$"
        )
        [(source,)] = connection.execute(
            "select pg_get_functiondef('mqtt_private.fn_read_story'::regproc)"
        ).fetchall()
        assert source.count("s.now := now();") == 1
        connection.execute(source.replace("s.now := now();", "s.now := public.ago('0 s');"))
        yield connection


@pytest.fixture
def database(shared: psycopg.Connection) -> psycopg.Connection:
    reseeded(shared)
    shared.execute("update sites set timezone = 'Europe/Berlin'")
    shared.execute(
        "insert into device_command_types (command_type, repeatable) values ('water_plants', true)"
    )
    tell_of_device(
        shared, "device_mac = 'AA:BB:CC:DD:EE:FF', is_active = true, provisioning_status = 'active',"
        " next_wake_at = ago('-4 h'), last_seen_at = ago('4 h')"
    )  # fmt: skip
    return shared


def tell_of_device(database: psycopg.Connection, assignments: str) -> None:
    without_triggers(database, f"update devices set {assignments} where device_id = '{DEVICE}'")


def without_triggers(database: psycopg.Connection, statement: str) -> None:
    database.execute("set session_replication_role = replica")
    database.execute(statement.encode())
    database.execute("set session_replication_role = default")


def story_of(database: psycopg.Connection, **columns: str) -> dict[str, Any]:
    """The story of a command with these columns, in SQL."""
    row = {
        "command_id": "'0f9c2c1e-6f0b-4d36-9a53-0d8f7f7a2b11'",
        "device_id": f"'{DEVICE}'",
        "command_type": "'reboot'",
        "issued_at": "ago('5 min')",
        "due_at": "ago('2 s')",
        "in_queue": "true",
        **columns,
    }
    without_triggers(
        database, f"insert into device_commands ({', '.join(row)}) values ({', '.join(row.values())})"
    )
    story: dict[str, Any] = explained(database, row["command_id"])
    return story


def explained(database: psycopg.Connection, command_id: str, user: str = VIEWER_A) -> Any:
    with acting_as(database, "authenticated", user):
        found = database.execute(f"select fn_explain_command({command_id})".encode()).fetchone()
    assert found is not None
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_the_story_says_where_a_command_is_and_what_happens_next(
    database: psycopg.Connection, case: str
) -> None:
    of_command, of_device, said, state = CASES[case]
    if of_device:
        tell_of_device(database, of_device)
    story = story_of(database, **of_command)
    text = "\n".join(story["text"])
    kind = of_command.get("command_type", "'reboot'").strip("'")
    assert text.startswith(
        f"{kind} for DEVICE-ESP32S3-001 (AA:BB:CC:DD:EE:FF), queued 2026-03-01 12:55:00+01:00 (5 min ago)."
    )
    assert [words for words in said if words not in text] == []
    assert story["state"] == state
    assert ("It gives up at" in text) == (state in OPEN)
    assert (story["gives_up_at"] is not None) == (state in OPEN)
    assert story["final"] == (state not in OPEN | {"waiting_for_verification"})
    assert story["timezone"] == "Europe/Berlin"


def test_what_happens_next_has_a_time(database: psycopg.Connection) -> None:
    story = story_of(database, **SENT, command_type="'send_image'", delivered_at="ago('1 min')")
    assert datetime.fromisoformat(story["next_at"]) == datetime.fromisoformat("2026-03-01T16:00:00+00:00")


def test_the_rules_are_those_of_the_worker_that_started_last(database: psycopg.Connection) -> None:
    queue = Queue(database)
    for retries in (9, 5):
        queue.call(
            "fn_set_queue_rules", p_max_retries=retries, p_redelivery_limit=7, p_command_ttl_seconds=3600
        )
    text = "\n".join(story_of(database, status="'failed'", retry_count="1", due_at="ago('-1 min')")["text"])
    assert "(1 of 5 failures)" in text
    assert "gives up at 2026-03-01 13:55:00+01:00" in text


def test_who_may_not_read_the_row_gets_no_story(database: psycopg.Connection) -> None:
    story = story_of(database)
    assert explained(database, f"'{story['command_id']}'", VIEWER_B) is None
    assert explained(database, f"'{uuid4()}'") is None
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(database, "anon"):
        database.execute("select fn_explain_command(gen_random_uuid())")


def test_a_zone_that_postgres_does_not_know_is_utc(database: psycopg.Connection) -> None:
    without_triggers(database, "update sites set timezone = 'Moon/Base'")
    assert story_of(database)["timezone"] == "UTC"


def test_a_row_of_a_project_that_says_little_has_a_story_too(database: psycopg.Connection) -> None:
    database.execute("alter table device_commands alter issued_at drop not null")
    try:
        for status in ("'pending'", "'failed'", "'sent'"):
            with database.transaction(force_rollback=True):
                story = story_of(
                    database, status=status, issued_at="null", due_at="null", command_payload="'{}'"
                )
                assert story["text"][0].endswith("queued never.")
                assert story["text"][-1] == "It gives up at never." or status == "'failed'"
    finally:
        database.execute("delete from device_commands")
        database.execute("alter table device_commands alter issued_at set not null")


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(seconds=0.4), "0 s"), (timedelta(seconds=45), "45 s"), (timedelta(minutes=5), "5 min"),
        (timedelta(seconds=90), "1 min 30 s"), (timedelta(hours=1, seconds=59), "1 h"),
        (timedelta(hours=1, minutes=30), "1 h 30 min"), (timedelta(days=3, hours=4, minutes=5), "3 d 4 h"),
    ],
)  # fmt: skip
def test_a_span_is_said_in_two_units_at_most(
    database: psycopg.Connection, span: timedelta, words: str
) -> None:
    assert database.execute("select mqtt_private.fn_say_span(%s)", (span,)).fetchone() == (words,)
