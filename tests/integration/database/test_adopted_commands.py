"""Commands on a project that had device_commands before: its old rows, its clients' words, other services."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from mqtt_service.devstack.migrations import PLATFORM
from tests.faults.bench.drills import drill
from tests.integration.database.applying import apply
from tests.integration.database.queue_calls import Queue, Row, about, copied, ids
from tests.integration.database.test_adoption import DEVICE, OLD_PROJECT, WAITING

OLD = drill(5_000, 30_000)
YOUNG = "d0000000-0000-4000-8000-0000000000f1"
# What the project had before the migrations: a trigger that counts updates, and years of rows.
_BEFORE = f"""
create table public.audited (command_id uuid);
alter table public.audited enable row level security;
create function public.audit() returns trigger language plpgsql as $$
begin insert into public.audited values (new.command_id); return new; end $$;
create trigger audit after update on public.device_commands for each row execute function public.audit();
alter table public.device_commands drop constraint device_commands_command_type_check;
insert into public.device_commands
  (device_id, command_type, command_payload, status, issued_at, delivered_at, retry_count)
select '{DEVICE}', (array['send_image', 'reboot', 'selfie'])[1 + n % 3], '{{"image_name": "a.jpg"}}',
  (array['sent', 'pending', 'failed', 'acknowledged'])[1 + n % 4], at, case when n % 4 in (0, 3) then at end,
  0
from generate_series(1, {OLD}) n
cross join lateral (select '2024-01-01'::timestamptz + make_interval(mins => n) as at) t;
insert into public.devices (device_id, device_mac, is_active, provisioning_status)
values ('{YOUNG}', 'YOUNG', true, 'active');
insert into public.device_commands (device_id, command_type, command_payload, status, issued_at, delivered_at)
values ('{YOUNG}', 'reboot', '{{}}', 'sent', now() - interval '23 h', now() - interval '23 h'),
  ('{YOUNG}', 'selfie', '{{}}', 'pending', now() - interval '1 h', null);
"""
_ROWS = """
select command_id, xmin::text, to_jsonb(c) as row from device_commands c
where issued_at < '2025-01-01' order by 1
"""


@pytest.fixture(scope="module")
def template(server_url: str) -> Iterator[str]:
    """The name of a database: the old project with its rows, then the migrations."""
    name = f"adopted_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        with psycopg.connect(f"{server_url.rsplit('/', 1)[0]}/{name}", autocommit=True) as connection:
            connection.execute(PLATFORM.read_bytes())
            connection.execute(OLD_PROJECT.read_bytes())
            connection.execute(_BEFORE.encode())
            apply(connection)
        yield name
        server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def shared(server_url: str, template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Iterator[Queue]:
    """The adopted project; what a test changes is undone after it."""
    with shared.transaction(force_rollback=True):
        yield Queue(shared)


@pytest.fixture
def device(queue: Queue) -> UUID:
    """A device without commands of its own."""
    return queue.device("AA:BB:CC:DD:EE:01")


def take_what_waits(queue: Queue) -> None:
    queue.settle(queue.claim()["commands"])


# Rows from before ------------------------------------------------------------------------------------------


def test_rows_from_before_are_touched_by_no_claim_heartbeat_or_answer(queue: Queue) -> None:
    before = queue.rows(_ROWS)
    claim = queue.claim()
    queue.hello("11:11:11:11:11:01", pending_count=0)
    queue.acknowledge({"topic_id": "11:11:11:11:11:01"})
    assert (ids(claim["commands"]), claim["expired"], claim["failed"]) == ([UUID(WAITING)], [], [])
    assert len(before) >= OLD
    assert queue.rows(_ROWS) == before
    assert {row["command_id"] for row in queue.rows("select * from audited")} == {UUID(WAITING)}


def test_the_migrations_themselves_fire_no_trigger_of_the_project(shared: psycopg.Connection) -> None:
    assert shared.execute("select count(*) from audited").fetchone() == (0,)


@pytest.mark.parametrize(
    "index", ["device_commands_time_to_live_idx", "device_commands_due_idx", "device_commands_sent_idx"]
)
def test_rows_from_before_are_in_no_index_that_a_claim_or_a_wake_reads(queue: Queue, index: str) -> None:
    [row] = queue.rows("select pg_relation_size(%s::regclass) / 8192 as pages", index)
    assert row["pages"] <= 2


def test_what_was_sent_in_the_day_before_takes_its_answer(queue: Queue) -> None:
    [answer] = queue.acknowledge({"topic_id": "YOUNG"})
    assert (answer["result"], answer["command_type"]) == ("acknowledged", "reboot")


def test_what_was_sent_in_the_day_before_and_is_not_answered_expires(queue: Queue) -> None:
    expired = queue.claim(p_command_ttl_seconds=22 * 3600)["expired"]
    assert [row["device_id"] for row in expired] == [YOUNG]


def test_a_type_that_is_not_known_was_left_alone_however_young(queue: Queue) -> None:
    [row] = queue.rows("select in_queue, due_at from device_commands where command_type = 'selfie' and"
                       " device_id = %s", YOUNG)  # fmt: skip
    assert row == {"in_queue": False, "due_at": None}


def test_an_answer_without_an_id_is_for_no_command_from_before(queue: Queue) -> None:
    queue.rows("update device_commands set status = 'cancelled' where command_id = %s returning 1", WAITING)
    [answer] = queue.acknowledge({"topic_id": "11:11:11:11:11:01"})
    assert answer["result"] == "unknown_command"


def test_an_answer_with_an_id_is_for_the_command_that_it_names_however_old(queue: Queue) -> None:
    [old] = queue.rows("select command_id from device_commands where status = 'sent' limit 1")
    [answer] = queue.acknowledge({"topic_id": "11:11:11:11:11:01", "command_id": str(old["command_id"])})
    assert answer["result"] == "acknowledged"


def test_applying_the_migrations_again_takes_up_nothing_that_was_left_alone(
    server_url: str, template: str
) -> None:
    with copied(server_url, template) as connection:
        queue = Queue(connection)
        unknown = queue.command(queue.device("d1"), "selfie")
        connection.execute("update mqtt_private.adoption set applied_at = '2026-01-01'")
        before = queue.rows("select command_id, in_queue, due_at from device_commands order by 1")
        apply(connection)
        assert queue.rows("select command_id, in_queue, due_at from device_commands order by 1") == before
        assert queue.row(unknown)["status"] == "pending"
        [adoption] = queue.rows(
            "select adopted, applied_at::date::text as applied_at from mqtt_private.adoption"
            " where table_name = 'public.device_commands'"
        )
        assert adoption == {"adopted": True, "applied_at": "2026-01-01"}


# Types that are not known ----------------------------------------------------------------------------------


def test_a_type_that_is_not_known_is_taken_and_left_alone_and_keeps_back_nothing(
    queue: Queue, device: UUID
) -> None:
    unknown, known = queue.command(device, "selfie"), queue.command(device, "reboot")
    before = queue.row(unknown)
    claim = queue.claim()
    assert known in ids(claim["commands"])
    assert claim["unknown_types"] == ["selfie"]
    assert queue.row(unknown) == before
    queue.change(unknown, "issued_at = now() - interval '25 h'")
    assert queue.claim()["expired"] == []
    assert queue.row(unknown)["status"] == "pending"


def test_what_another_service_sent_under_such_a_type_neither_expires_nor_takes_an_answer(
    queue: Queue, device: UUID
) -> None:
    unknown = queue.command(device, "selfie")
    queue.change(unknown, "status = 'sent', issued_at = now() - interval '25 h'")
    assert queue.claim()["expired"] == []
    [answer] = queue.acknowledge({"topic_id": "AA:BB:CC:DD:EE:01"})
    assert (answer["result"], queue.row(unknown)["status"]) == ("unknown_command", "sent")


def test_a_type_that_is_listed_is_known_from_then_on(queue: Queue, device: UUID) -> None:
    earlier = queue.command(device, "selfie")
    queue.rows("insert into device_command_types (command_type) values ('selfie') returning 1")
    later = queue.command(device, "selfie", command_payload='{"pose": "left"}')
    claim = queue.claim()
    [sent] = [row for row in claim["commands"] if row["command_id"] == str(later)]
    assert (sent["command_type"], sent["command_payload"]) == ("selfie", {"pose": "left"})
    assert claim["unknown_types"] == []
    assert queue.row(earlier)["due_at"] is None


def test_not_more_than_a_hundred_types_are_remembered(queue: Queue, device: UUID) -> None:
    for number in range(110):
        queue.command(device, f"type {number}")
    assert len(queue.claim()["unknown_types"]) == 100


# What can never work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command_type", "payload", "reason"),
    [
        (
            "set_wake_schedule",
            '{"wake_schedule_cron": "every morning"}',
            "set_wake_schedule cannot be worked out",
        ),
        ("set_wake_schedule", '{"cron": "0 25 * * *"}', "hour 25 is not between 0 and 23"),
        ("set_wake_schedule", "{}", "set_wake_schedule names no time"),
        ("update_config", "[]", "command_payload is not an object"),
        ("reboot", '"now"', "command_payload is not an object"),
    ],
)
def test_what_can_never_work_is_taken_and_fails_for_good_at_its_first_claim(
    queue: Queue, device: UUID, command_type: str, payload: str, reason: str
) -> None:
    command = queue.command(device, command_type, command_payload=payload)
    assert queue.row(command)["status"] == "pending"
    [failed] = [row for row in queue.claim()["failed"] if row["command_id"] == str(command)]
    row = queue.row(command)
    assert failed["final"] is True
    assert (row["status"], row["due_at"]) == ("failed", None)
    assert reason in row["last_error"]


@pytest.mark.parametrize(
    ("command_type", "payload"),
    [("update_firmware", '{"firmware_url": "http://files.example/1.bin"}'), ("send_image", "{}")],
)
def test_what_only_the_worker_can_tell_is_taken_and_claimed(
    queue: Queue, device: UUID, command_type: str, payload: str
) -> None:
    """The worker then fails it for good (tests/faults/test_poison.py)."""
    command = queue.command(device, command_type, command_payload=payload)
    assert command in queue.claim_ids()


# Another service that sends commands too -------------------------------------------------------------------


def test_what_another_service_sent_is_answered_and_expires_as_ours(queue: Queue, device: UUID) -> None:
    answered, silent = queue.command(device), queue.command(device)
    for command in (silent, answered):
        queue.change(command, "status = 'sent'")
    assert queue.row(answered)["delivered_at"] is not None
    assert not {answered, silent} & set(queue.claim_ids())
    queue.acknowledge({"topic_id": "AA:BB:CC:DD:EE:01", "command_id": str(answered)})
    queue.change(silent, "issued_at = now() - interval '25 h'")
    assert ids(queue.claim()["expired"]) == [silent]
    assert queue.row(answered)["status"] == "acknowledged"


def test_what_another_service_sent_is_redelivered_when_the_device_wakes(queue: Queue, device: UUID) -> None:
    command = queue.command(device, "update_config")
    queue.change(command, "status = 'sent', delivered_at = now() - interval '1 minute'")
    assert queue.hello("AA:BB:CC:DD:EE:01")["redelivered"] == 1
    assert command in queue.claim_ids()


def test_what_another_service_failed_at_is_left_to_it_for_half_a_minute(queue: Queue, device: UUID) -> None:
    command = queue.command(device)
    for retry_count in (1, 2):
        queue.change(command, f"status = 'failed', retry_count = {retry_count}")
        row = queue.row(command)
        assert (row["due_at"] - queue.now()).total_seconds() == pytest.approx(30, abs=5)
        assert command not in queue.claim_ids()
        queue.change(command, "due_at = now()")
    assert command in queue.claim_ids()


def test_another_service_that_sends_what_we_lease_takes_it_from_us(queue: Queue, device: UUID) -> None:
    command = queue.command(device)
    [leased] = [row for row in queue.claim()["commands"] if row["command_id"] == str(command)]
    queue.change(command, "status = 'sent'")
    assert queue.settle([leased])[0]["result"] == "settled"
    assert queue.settle([leased], "failed")[0]["result"] == "stale"
    assert queue.row(command)["status"] == "sent"


@pytest.fixture
def alone(queue: Queue) -> Queue:
    """The same after what waited at first is gone."""
    take_what_waits(queue)
    return queue


def test_a_stand_by_takes_only_what_was_due_for_longer(alone: Queue, device: UUID) -> None:
    fresh = alone.command(device)
    waited = alone.command(device, priority=1)
    alone.change(waited, "due_at = clock_timestamp() - interval '61 s'")
    alone.change(fresh, "due_at = clock_timestamp() - interval '50 s'")
    claim = alone.claim(p_standby_seconds=60)
    assert ids(claim["commands"]) == [waited]
    assert claim["seconds_to_next_due"] == pytest.approx(10, abs=5)
    assert alone.claim_ids("w2", p_standby_seconds=60) == []


def test_a_stand_by_fails_and_expires_nothing_that_the_other_may_yet_see_to(alone: Queue) -> None:
    asleep = alone.device("AA:BB:CC:DD:EE:02", active=False)
    undeliverable = alone.command(asleep)
    over = alone.command(alone.device("d3"), expires_at=alone.now(), status="sent")
    claim = alone.claim(p_standby_seconds=60)
    assert (claim["failed"], claim["expired"]) == ([], [])
    claim = alone.claim()
    assert (ids(claim["failed"]), ids(claim["expired"])) == ([undeliverable], [over])


def test_beside_another_service_an_answer_is_for_no_earlier_command(alone: Queue, device: UUID) -> None:
    earlier, last = alone.command(device), alone.command(device)
    alone.change(earlier, "status = 'sent', delivered_at = now() - interval '1 minute'")
    alone.change(last, "status = 'sent'")
    ack = {"topic_id": "AA:BB:CC:DD:EE:01", "standby": True}
    assert [alone.acknowledge(ack)[0]["result"] for _ in range(2)] == ["acknowledged", "duplicate"]
    assert (alone.row(earlier)["status"], alone.row(last)["status"]) == ("sent", "acknowledged")


def _mapped(queue: Queue, mac: str, ago: str) -> UUID:
    device = queue.device(mac)
    queue.rows(
        "update devices set welcome_due = true, mapped_at = now() - %s::interval where device_id = %s"
        " returning 1",
        ago,
        device,
    )
    return device


def _welcomed(queue: Queue, **parameters: object) -> list[UUID]:
    answer: list[Row] = queue.call("fn_queue_welcome_commands", **parameters)
    return [UUID(row["device_id"]) for row in answer]


def test_a_schedule_that_another_service_queued_since_the_mapping_is_the_welcome(queue: Queue) -> None:
    device = _mapped(queue, "d5", "1 minute")
    queue.command(device, "set_wake_schedule", command_payload='{"cron": "0 8 * * *"}', status="sent")
    assert _welcomed(queue) == []
    [row] = queue.rows("select welcome_due from devices where device_id = %s", device)
    assert row["welcome_due"] is False


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired", "rejected"])
def test_a_schedule_that_came_to_nothing_or_is_older_than_the_mapping_is_no_welcome(
    queue: Queue, status: str
) -> None:
    first, second = _mapped(queue, "d5", "1 minute"), _mapped(queue, "d6", "1 minute")
    schedule = {"command_type": "set_wake_schedule", "command_payload": '{"cron": "0 8 * * *"}'}
    queue.command(first, **schedule, status=status)
    queue.command(second, **schedule, status="sent", issued_at="2026-01-01")
    assert set(_welcomed(queue)) == {first, second}


def test_a_stand_by_leaves_the_welcome_to_the_other_for_a_while(queue: Queue) -> None:
    fresh, waiting = _mapped(queue, "d5", "10 s"), _mapped(queue, "d6", "2 minutes")
    assert _welcomed(queue, p_standby_seconds=60) == [waiting]
    [row] = queue.rows("select welcome_due from devices where device_id = %s", fresh)
    assert row["welcome_due"] is True


def test_a_schedule_given_as_cron_is_worked_out_when_it_is_sent(queue: Queue, device: UUID) -> None:
    command = queue.command(device, "set_wake_schedule", command_payload='{"cron": "* * * * *"}')
    [claimed] = [row for row in queue.claim()["commands"] if row["command_id"] == str(command)]
    [row] = queue.rows("select %s::timestamptz as wake", claimed["next_wake_at"])
    assert about(row["wake"], queue.now(), 70)


# Trying again ----------------------------------------------------------------------------------------------


def _try_again(queue: Queue, command: UUID) -> None:
    queue.change(command, "status = 'pending'")


def test_an_old_command_that_somebody_tries_again_is_sent_and_does_not_expire(queue: Queue) -> None:
    [old] = queue.rows(
        "select command_id from device_commands"
        " where status = 'failed' and command_type = 'reboot' and issued_at < '2025-01-01' limit 1"
    )
    _try_again(queue, old["command_id"])
    claim = queue.claim()
    assert claim["expired"] == []
    assert old["command_id"] in ids(claim["commands"])


def test_a_command_that_is_tried_again_after_its_expires_at_is_sent(queue: Queue, device: UUID) -> None:
    command = queue.command(device)
    queue.change(command, "status = 'failed', expires_at = now() - interval '1 h', due_at = null")
    _try_again(queue, command)
    assert queue.row(command)["expires_at"] is None
    assert command in queue.claim_ids()


def test_trying_again_keeps_a_time_that_is_still_to_come(queue: Queue, device: UUID) -> None:
    ends, starts = queue.command(device), queue.command(device)
    later = queue.now() + timedelta(hours=1)
    queue.change(ends, f"status = 'failed', expires_at = '{later}'")
    queue.change(starts, f"status = 'failed', scheduled_for = '{later}'")
    _try_again(queue, ends)
    _try_again(queue, starts)
    assert (queue.row(ends)["expires_at"], queue.row(ends)["scheduled_for"]) == (later, None)
    assert queue.row(starts)["scheduled_for"] == later


def test_what_is_redelivered_or_released_lives_no_longer(alone: Queue, device: UUID) -> None:
    redelivered, released = alone.command(device, "update_config"), alone.command(device, priority=-1)
    alone.change(redelivered, "status = 'sent', delivered_at = now() - interval '1 minute'")
    assert alone.hello("AA:BB:CC:DD:EE:01")["redelivered"] == 1
    claimed = alone.claim()["commands"]
    assert set(ids(claimed)) == {redelivered, released}
    alone.settle(claimed, "released")
    assert [alone.row(command)["scheduled_for"] for command in (redelivered, released)] == [None, None]


# A table that had no issued_at -----------------------------------------------------------------------------

_NO_ISSUED_AT = f"""
alter table public.device_commands drop column issued_at;
{{created_at}}
insert into public.device_commands (command_id, device_id, command_type, command_payload, status)
values ('{YOUNG}', '{DEVICE}', 'reboot', '{{{{}}}}', 'failed');
"""


def _adopt(connection: psycopg.Connection, created_at: str) -> list[str]:
    """Adopt the old project without issued_at; returns the warnings about device_commands."""
    warnings: list[str] = []
    connection.execute(PLATFORM.read_bytes())
    connection.execute(OLD_PROJECT.read_bytes())
    connection.execute(_NO_ISSUED_AT.format(created_at=created_at).encode())
    connection.add_notice_handler(
        lambda notice: (
            warnings.append(notice.message_primary or "")
            if "without issued_at" in (notice.message_primary or "")
            else None
        )
    )
    apply(connection)
    return warnings


def test_a_table_that_had_no_issued_at_gets_it_from_created_at(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        queue = Queue(connection)
        warnings = _adopt(
            connection,
            "alter table public.device_commands add column created_at timestamp default '2024-01-01';"
            f"update public.device_commands set created_at = now() - interval '1 h'"
            f" where command_id = '{WAITING}';",
        )
        assert warnings == []
        assert queue.rows("select from device_commands where issued_at <> created_at") == []
        assert queue.rows("select command_id from device_commands where in_queue or due_at is not null") == [
            {"command_id": UUID(WAITING)}
        ]
        assert queue.claim_ids() == [UUID(WAITING)]


def test_a_table_that_tells_no_age_leaves_its_rows_alone_and_says_so(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        queue = Queue(connection)
        assert len(_adopt(connection, "")) == 1
        assert queue.rows("select from device_commands where in_queue or due_at is not null") == []
        claim = queue.claim()
        assert (claim["commands"], claim["expired"], claim["failed"]) == ([], [], [])
        fresh = queue.command(queue.device("d1"))
        _try_again(queue, UUID(YOUNG))
        queue.rows("update devices set is_active = true where device_id = %s returning 1", DEVICE)
        assert set(queue.claim_ids()) == {fresh, UUID(YOUNG)}
