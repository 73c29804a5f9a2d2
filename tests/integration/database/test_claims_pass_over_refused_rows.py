"""A row that the table refuses to change is passed over and named; the rest of the claim goes on."""

import json
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from tests.integration.database.catalog import drop_views
from tests.integration.database.queue_calls import Queue, Row, emptied, ids

PAST = "2020-01-01"


@pytest.fixture
def queue(shared: psycopg.Connection) -> Iterator[Queue]:
    yield Queue(emptied(shared))
    shared.execute("drop trigger if exists refuse on public.device_commands")


def refuse(queue: Queue, condition: str, *commands: UUID, errcode: str = "AB123") -> None:
    """Give the table a project's own trigger, which refuses changes of these commands on this condition."""
    queue.connection.execute(
        sql.SQL(
            "create or replace function public.refuse() returns trigger language plpgsql as $$ begin"
            " if new.command_id = any ({}) and {} then"
            " raise exception 'not this one' using errcode = {}; end if; return new; end $$;"
            "create or replace trigger refuse before update on public.device_commands"
            " for each row execute function public.refuse()"
        ).format(list(commands), sql.SQL(condition), errcode)
    )


NOT_THIS_ONE = (
    "function refuse() of the project, called by trigger refuse on device_commands, refuses it: not this one"
    " (AB123); mend it, or: alter table public.device_commands disable trigger refuse;"
)


def refused(claim: Row) -> list[tuple[UUID, str]]:
    return [(UUID(row["command_id"]), row["error"]) for row in claim["refused"]]


def test_a_claim_that_nothing_refuses_names_nothing(queue: Queue) -> None:
    queue.command(queue.device("d1"))
    assert queue.claim()["refused"] == []


def test_a_command_that_may_not_expire_keeps_no_other_from_expiring_or_being_sent(queue: Queue) -> None:
    """Fails without the handler in fn_run_step_or_pass_over, where rows are taken one by one."""
    device = queue.device("d1")
    bad, overdue = (queue.command(device, expires_at=PAST) for _ in range(2))
    beside, elsewhere = queue.command(device), queue.command(queue.device("d2"))
    refuse(queue, "new.status = 'expired'", bad)
    claim = queue.claim()
    assert ids(claim["expired"]) == [overdue]
    assert ids(claim["commands"]) == [beside, elsewhere]
    assert claim["refused"] == [
        {"command_id": str(bad), "device_code": "CODE-d1", "error": NOT_THIS_ONE, "waiting": 0}
    ]
    assert (queue.row(bad)["status"], queue.row(bad)["attempt"]) == ("pending", 0)
    assert refused(queue.claim(p_held=[beside, elsewhere])) == [(bad, NOT_THIS_ONE)]


def test_a_reason_that_is_too_long_for_an_older_column_stops_no_claim(database: psycopg.Connection) -> None:
    drop_views(database)
    database.execute("alter table public.device_commands alter column last_error type varchar(255)")
    queue = Queue(database)
    device = queue.device("d1")
    bad = queue.command(device, expires_at=PAST, last_error="x" * 220)
    overdue, waiting = queue.command(device, expires_at=PAST), queue.command(queue.device("d2"))
    claim = queue.claim()
    assert (ids(claim["expired"]), ids(claim["commands"])) == ([overdue], [waiting])
    assert refused(claim) == [(bad, "value too long for type character varying(255) (22001)")]


def test_a_check_that_older_rows_do_not_meet_stops_no_claim(database: psycopg.Connection) -> None:
    queue = Queue(database)
    device = queue.device("d1")
    bad_one, bad_too = (
        queue.command(device, retry_count=9),
        queue.command(device, retry_count=9, expires_at=PAST),
    )
    waiting = queue.command(queue.device("d2"))
    database.execute(
        "alter table public.device_commands add constraint sane check (retry_count <= 3) not valid"
    )
    claim = queue.claim()
    assert ids(claim["commands"]) == [waiting]
    assert {command for command, _ in refused(claim)} == {bad_one, bad_too}
    assert all("sane" in error for _, error in refused(claim))


def test_what_an_expired_command_says_does_not_grow_without_bound(queue: Queue) -> None:
    """Fails without `left` in fn_expire_commands."""
    command = queue.command(queue.device("d1"), expires_at=PAST, last_error="x" * 2000)
    [expired] = queue.claim()["expired"]
    assert expired["error"] == queue.row(command)["last_error"]
    assert len(expired["error"]) == 1000
    assert expired["error"].startswith("expired: it could not be delivered in time; last failure: xxx")


def test_a_command_of_an_inactive_device_that_may_not_fail_keeps_no_other(queue: Queue) -> None:
    """Fails where the step `fail` does not go through fn_run_step_or_pass_over."""
    inactive = queue.device("d1", active=False)
    bad, undeliverable = queue.command(inactive), queue.command(inactive)
    waiting = queue.command(queue.device("d2"))
    refuse(queue, "new.status = 'failed'", bad)
    claim = queue.claim()
    assert ids(claim["failed"]) == [undeliverable]
    assert claim["failed"][0]["retry_count"] == 1
    assert ids(claim["commands"]) == [waiting]
    assert refused(claim) == [(bad, NOT_THIS_ONE)]
    assert queue.row(bad)["status"] == "pending"


def test_a_device_whose_command_may_not_be_leased_waits_in_order_and_the_others_go_on(queue: Queue) -> None:
    """Fails without the handler in fn_lease_or_pass_over; without `v_left`, commands overtake."""
    one, two = queue.device("d1"), queue.device("d2")
    before, bad, after = (queue.command(one) for _ in range(3))
    others = [queue.command(two) for _ in range(3)]
    refuse(queue, "true", bad)
    claim = queue.claim()
    assert ids(claim["commands"]) == [before, *others]
    assert refused(claim) == [(bad, NOT_THIS_ONE)]
    assert [queue.row(command)["attempt"] for command in (before, bad, after)] == [1, 0, 0]
    held = ids(claim["commands"])
    assert (queue.claim_ids(p_held=held), queue.claim(p_held=held)["more"]) == ([], False)
    queue.connection.execute("drop trigger refuse on public.device_commands")
    assert queue.claim_ids(p_held=held) == [bad, after]


def test_past_a_refused_device_a_limit_takes_no_more_and_lets_every_device_have_its_turn(
    queue: Queue,
) -> None:
    """Fails without `turn > 20` in fn_find_due_commands, or without the limit in fn_run_step_by_row."""
    bad = queue.command(queue.device("d1"), priority=9)
    many, few = queue.device("d2"), queue.device("d3")
    first = [queue.command(many, priority=1) for _ in range(25)]
    last = queue.command(few)
    refuse(queue, "true", bad)
    claim = queue.claim(limit=22)
    assert ids(claim["commands"]) == [*first[:21], last]
    assert claim["more"] is True
    rest = queue.claim(limit=22, p_held=ids(claim["commands"]))
    assert (ids(rest["commands"]), rest["more"]) == (first[21:], False)


def test_what_another_transaction_holds_is_left_with_the_rest_of_its_device_past_a_refused_row(
    queue: Queue,
) -> None:
    bad, device = queue.command(queue.device("d1")), queue.device("d2")
    locked, behind = queue.command(device), queue.command(device)
    waiting = queue.command(queue.device("d3"))
    refuse(queue, "true", bad)
    with queue.another() as person, person.connection.transaction(force_rollback=True):
        person.change(locked, "priority = priority")
        claim = queue.claim()
    assert (ids(claim["commands"]), refused(claim)) == ([waiting], [(bad, NOT_THIS_ONE)])
    assert queue.claim_ids(p_held=[waiting]) == [locked, behind]


def test_a_command_that_cannot_be_sent_and_may_not_fail_keeps_no_other(queue: Queue) -> None:
    """Fails where the step `hand out` does not go through fn_run_step_or_pass_over."""
    device, other = queue.device("d1"), queue.device("d2")
    bad, broken = (
        queue.command(device, "set_wake_schedule", command_payload='{"wake_schedule_cron": "@daily"}')
        for _ in range(2)
    )
    waiting = [queue.command(device) for device in (device, other, device)]
    # As it came past the guards, which look at what is inserted.
    queue.connection.execute("set session_replication_role = replica")
    for command in (bad, broken):
        queue.change(command, "command_payload = '{}'")
    queue.connection.execute("reset session_replication_role")
    refuse(queue, "new.status = 'failed'", bad)
    claim = queue.claim()
    assert ids(claim["commands"]) == waiting
    assert ids(claim["failed"]) == [broken]
    assert refused(claim) == [(bad, NOT_THIS_ONE)]


def test_of_many_refused_commands_the_first_are_named(queue: Queue) -> None:
    bad = [queue.command(queue.device(f"d{number}")) for number in range(30)]
    waiting = queue.command(queue.device("good"))
    refuse(queue, "true", *bad)
    claim = queue.claim(limit=5)
    assert ids(claim["commands"]) == [waiting]
    assert [command for command, _ in refused(claim)] == bad[:20]


@pytest.mark.parametrize("errcode", ["40P01", "53100", "57P01"])
@pytest.mark.parametrize("step", ["expired", "failed", "leased"])
def test_an_error_that_is_no_rows_fault_still_fails_the_claim(queue: Queue, step: str, errcode: str) -> None:
    """Fails where a step passes over whatever error comes: without the classes in fn_explain_fault."""
    device = queue.device("d1", active=step != "failed")
    command = queue.command(device, expires_at=PAST if step == "expired" else None)
    refuse(queue, "true", command, errcode=errcode)
    with pytest.raises(psycopg.Error) as raised:
        queue.claim()
    assert raised.value.sqlstate == errcode
    assert queue.row(command)["attempt"] == 0


@pytest.mark.parametrize("errcode", ["42703", "42501", "42P01", "55P03", "22012", "P0001", "0A000"])
@pytest.mark.parametrize("step", ["expired", "failed", "leased"])
def test_whatever_the_project_raises_for_one_row_is_that_rows(queue: Queue, step: str, errcode: str) -> None:
    device = queue.device("d1", active=step != "failed")
    command = queue.command(device, expires_at=PAST if step == "expired" else None)
    waiting = queue.command(queue.device("d2"))
    refuse(queue, "true", command, errcode=errcode)
    claim = queue.claim()
    assert ids(claim["commands"]) == [waiting]
    assert [(bad, errcode in error) for bad, error in refused(claim)] == [(command, True)]
    assert claim["refused_count"] == 1


def test_an_object_that_a_trigger_names_and_that_is_missing_is_named_with_the_trigger(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.connection.execute(
        "create or replace function public.refuse() returns trigger language plpgsql as $$ begin"
        " perform 1 from nowhere; return new; end $$;"
        "create trigger refuse before update on public.device_commands"
        " for each row execute function public.refuse()"
    )
    [(bad, error)] = refused(queue.claim())
    assert bad == command
    assert (
        'called by trigger refuse on device_commands, refuses it: relation "nowhere" does not exist' in error
    )


def test_a_command_that_may_not_be_leased_but_may_fail_fails_with_the_reason_and_holds_up_nothing(
    queue: Queue,
) -> None:
    device = queue.device("d1")
    bad, after = queue.command(device), queue.command(device)
    refuse(queue, "new.lease_worker is not null", bad)
    claim = queue.claim()
    assert ids(claim["commands"]) == [after]
    assert (ids(claim["failed"]), claim["refused"]) == ([bad], [])
    row = queue.row(bad)
    assert (row["status"], row["retry_count"], row["last_error"]) == ("failed", 1, NOT_THIS_ONE)
    assert row["due_at"] is not None


def test_a_refused_command_holds_up_its_device_no_longer_than_it_lives(queue: Queue) -> None:
    device = queue.device("d1")
    bad, after = queue.command(device, expires_at=PAST), queue.command(device)
    refuse(queue, "true", bad)
    claim = queue.claim()
    assert ids(claim["commands"]) == [after]
    assert refused(claim) == [(bad, NOT_THIS_ONE)]


def test_a_deferred_constraint_of_the_project_is_one_rows_trouble(queue: Queue) -> None:
    """Fails without fn_check_deferred_constraints: the claim would fail as a whole, when it commits."""
    bad, waiting = queue.command(queue.device("d1")), queue.command(queue.device("d2"))
    queue.connection.execute(
        sql.SQL(
            "create or replace function public.refuse() returns trigger language plpgsql as $$ begin"
            " if new.command_id = {} then raise exception 'not this one'; end if; return new; end $$;"
            "create constraint trigger refuse after update on public.device_commands"
            " deferrable initially deferred for each row execute function public.refuse()"
        ).format(bad)
    )
    claim = queue.claim()
    assert ids(claim["commands"]) == [waiting]
    assert [command for command, _ in refused(claim)] == [bad]


def test_one_settlement_that_is_refused_leaves_the_others_settled(queue: Queue) -> None:
    bad, good = queue.command(queue.device("d1")), queue.command(queue.device("d2"))
    queue.claim()
    refuse(queue, "new.status = 'sent'", bad, errcode="42703")
    results = queue.call(
        "fn_settle_commands",
        p_worker="w1",
        p_results=json.dumps(
            [{"command_id": str(command), "attempt": 1, "outcome": "sent"} for command in (bad, good)]
        ),
    )
    assert [result["result"] for result in results] == ["refused", "settled"]
    assert "42703" in results[0]["error"]
    assert (queue.row(bad)["status"], queue.row(good)["status"]) == ("pending", "sent")


def test_one_answer_that_is_refused_leaves_the_others_used(queue: Queue) -> None:
    bad, good = queue.command(queue.device("d1")), queue.command(queue.device("d2"))
    queue.claim()
    refuse(queue, "new.status = 'acknowledged'", bad, errcode="42703")
    results = queue.call(
        "fn_acknowledge_commands",
        p_worker="w1",
        p_acks=json.dumps([
            {"ref": f"w1:{number}", "topic_root": "device", "topic_id": device, "command_id": str(command),
             "outcome": "success", "response": {}}
            for number, (device, command) in enumerate([("d1", bad), ("d2", good)])
        ]),
    )  # fmt: skip
    assert [result["result"] for result in results] == ["refused", "acknowledged"]
    assert "42703" in results[0]["error"]


def test_an_answer_that_a_deferred_constraint_refuses_has_one_result(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.claim()
    queue.connection.execute(
        "create or replace function public.refuse() returns trigger language plpgsql as $$ begin"
        " if new.status = 'acknowledged' then raise exception 'not this one'; end if; return new; end $$;"
        "create constraint trigger refuse after update on public.device_commands"
        " deferrable initially deferred for each row execute function public.refuse()"
    )
    results = queue.call(
        "fn_acknowledge_commands",
        p_worker="w1",
        p_acks=json.dumps([
            {"ref": "w1:1", "topic_root": "device", "topic_id": "d1", "command_id": str(command),
             "outcome": "success", "response": {}}
        ]),
    )  # fmt: skip
    assert [result["result"] for result in results] == ["refused"]


def test_deferred_constraints_of_other_tables_stop_no_claim(database: psycopg.Connection) -> None:
    """One is in a schema that the worker may not use; of two of one name, one is not deferrable."""
    database.execute(
        "create schema internal;"
        "create table internal.a (id int primary key);"
        "create table internal.b (a int constraint one references internal.a deferrable initially deferred);"
        "create table public.a (id int primary key);"
        "create table public.b (a int constraint fk references public.a deferrable initially deferred);"
        "create table public.c (a int constraint fk references public.a)"
    )
    queue = Queue(database)
    command = queue.command(queue.device("d1"))
    assert queue.claim_ids() == [command]


def test_a_trigger_function_whose_name_is_quoted_is_the_projects(queue: Queue) -> None:
    bad, waiting = queue.command(queue.device("d1")), queue.command(queue.device("d2"))
    queue.connection.execute(
        sql.SQL(
            'create or replace function public."notifyDevice"() returns trigger language plpgsql as $$ begin'
            " if new.command_id = {} then perform nothing(); end if; return new; end $$;"
            "create trigger refuse before update on public.device_commands"
            ' for each row execute function public."notifyDevice"()'
        ).format(bad)
    )
    claim = queue.claim()
    assert ids(claim["commands"]) == [waiting]
    [(command, error)] = refused(claim)
    assert command == bad
    assert error.startswith(
        'function "notifyDevice"() of the project, called by trigger refuse on device_commands'
    )


def test_a_grant_that_our_own_statements_lack_is_not_blamed_on_the_project(
    database: psycopg.Connection,
) -> None:
    queue = Queue(database)
    queue.command(queue.device("d1"))
    database.execute("revoke update on public.device_commands from service_role")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        queue.claim()


def test_many_refused_commands_take_a_claim_no_longer_than_it_may(queue: Queue) -> None:
    """Fails without the end in time: so many rows would take until the API's time is over."""
    queue.connection.execute(
        "insert into public.devices (device_mac, is_active)"
        " select 'r' || n, true from generate_series(1, 4000) n;"
        "insert into public.device_commands (device_id, command_type)"
        " select device_id, 'reboot' from public.devices"
    )
    queue.connection.execute(
        "create or replace function public.refuse() returns trigger language plpgsql as $$ begin"
        " if new.lease_worker is not null then raise exception 'no lease'; end if; return new; end $$;"
        "create trigger refuse before update on public.device_commands"
        " for each row execute function public.refuse()"
    )
    first = queue.claim()
    assert (first["commands"], first["more"]) == ([], True)
    assert 0 < len(first["failed"]) < 4000
    second = queue.claim()
    assert second["failed"], "a claim that gets no further"
    assert set(ids(second["failed"])).isdisjoint(ids(first["failed"]))
