"""The trial: what it goes through, how it names what failed, and that nothing of it is kept."""

import time
from typing import Any

import psycopg
import pytest

from mqtt_service.adoption.changes import Snapshot, snapshot
from mqtt_service.adoption.database import connect
from mqtt_service.adoption.failure import Failure, explain
from mqtt_service.adoption.findings import Level
from mqtt_service.adoption.project import read_project
from mqtt_service.adoption.raised import Raised
from mqtt_service.adoption.trial import STEPS, Trial, run_trial
from tests.integration.database.adoption.conftest import FILES, Owner, intended

# What mends the existing project by hand where the functions do not get on with it.
MENDED = (
    """
    do $$
    declare
      v_function regprocedure;
    begin
      for v_function in
        select oid from pg_proc
        where pronamespace = 'public'::regnamespace and proconfig is null and proname <> 'fill_with_old_rows'
      loop
        execute format('alter function %s set search_path = public, extensions', v_function);
      end loop;
    end
    $$
    """,
    "alter table device_history alter column severity type text using severity::text",
    "alter table device_history alter column event_category set default 'ConfigurationChange'",
    "alter table device_images alter column captured_at set default now()",
)


def tried(owner: Owner, *, seconds: float = 60.0) -> Trial:
    trial = owner.check(seconds=seconds).trial
    assert trial is not None
    return trial


def failure_of(trial: Trial) -> Failure:
    [failure] = trial.failures
    assert trial.steps[-1].outcome == "failed"
    assert trial.steps[-1].name == failure.step
    return failure


def outcomes(trial: Trial) -> dict[str, str]:
    return {step.name: step.outcome for step in trial.steps}


def everything(owner: Owner) -> tuple[Snapshot, dict[str, Any]]:
    """The catalog, and every row of every table but the sequences."""
    with owner.connection.transaction():
        owner.connection.execute("set local search_path = pg_catalog")
        catalog = snapshot(owner.connection)
        tables = owner.connection.execute(
            "select oid::regclass::text from pg_class where relkind = 'r'"
            " and relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        rows = {
            table: owner.connection.execute(
                f"select to_jsonb(t)::text from {table} t order by 1".encode()
            ).fetchall()
            for (table,) in tables
        }
    return catalog, rows


def break_with(owner: Owner, table: str, event: str, body: str, *, timing: str = "before") -> None:
    owner.run(
        f"create function breaks() returns trigger language plpgsql as $$ begin {body} return new; end $$",
        f"create trigger breaking {timing} {event} on {table} for each row execute function breaks()",
    )


# It goes well -----------------------------------------------------------------------------------------------


def test_a_new_project_is_ready_and_every_step_is_done(owner: Owner) -> None:
    report = owner.check()
    assert report.is_fine
    assert report.state == "new"
    assert report.verdict.startswith("READY")
    trial = report.trial
    assert trial is not None
    assert set(outcomes(trial).values()) == {"done"}
    assert len(trial.steps) == len(STEPS) + 2
    assert not trial.remarks


def test_a_project_that_had_the_tables_is_ready_once_what_it_needs_is_done(existing_owner: Owner) -> None:
    existing_owner.run(*MENDED)
    report = existing_owner.check()
    assert report.state == "to adopt"
    assert report.failures == ()
    assert report.is_fine
    assert report.trial is not None
    assert set(outcomes(report.trial).values()) == {"done"}


@pytest.mark.parametrize("mended", [False, True])
def test_nothing_is_kept_of_a_check(existing_owner: Owner, mended: bool) -> None:
    if mended:
        existing_owner.run(*MENDED)
    before = everything(existing_owner)
    tried(existing_owner)
    assert everything(existing_owner) == before


def test_nothing_is_kept_of_a_check_of_an_applied_project(applied_owner: Owner) -> None:
    before = everything(applied_owner)
    tried(applied_owner)
    assert everything(applied_owner) == before


def test_sequences_whose_numbers_are_gone_are_named_and_no_others(existing_owner: Owner) -> None:
    existing_owner.run(*MENDED)
    numbers = "select sequencename::text, last_value from pg_sequences where schemaname = 'public'"
    before: dict[str, int | None] = dict(existing_owner.connection.execute(numbers.encode()).fetchall())
    trial = tried(existing_owner)
    after: dict[str, int | None] = dict(existing_owner.connection.execute(numbers.encode()).fetchall())
    changed = {f"public.{name}" for name in after if after[name] != before[name]}
    assert set(trial.sequences) == changed == {"public.change_seq", "public.audit_log_audit_id_seq"}


def test_the_tables_that_others_waited_for_are_named(existing_owner: Owner) -> None:
    locks = {lock.table: lock.mode for lock in tried(existing_owner).locks}
    assert "AccessExclusiveLock" in locks["public.devices"]
    assert "public.audit_log" not in locks


def test_without_the_trial_no_table_is_locked(existing_owner: Owner) -> None:
    with psycopg.connect(existing_owner.connection.info.dsn) as other:
        other.execute("lock table devices in row exclusive mode")
        report = existing_owner.check(trial=False)
    assert report.trial is None
    assert report.no_trial == "as asked for"


def test_an_owner_who_is_no_superuser_can_try_them(owner: Owner) -> None:
    database = owner.connection.info.dbname
    user = f"owner_of_{database}"
    owner.run(
        f"create role {user} login createrole bypassrls",
        f"grant anon, authenticated, service_role to {user}",
        f"alter database {database} owner to {user}",
        f"alter schema public owner to {user}",
        f"alter publication supabase_realtime owner to {user}",
        f"alter table storage.buckets owner to {user}",
        f"alter table storage.objects owner to {user}",
        f"grant usage on schema auth, storage to {user}",
        f"grant select, references on auth.users to {user}",
    )
    try:
        report = owner.check(user=user)
    finally:
        owner.run(f"reassign owned by {user} to postgres", f"drop owned by {user}", f"drop role {user}")
    assert report.place.user == user
    assert report.failures == ()
    assert report.is_fine


# It fails ---------------------------------------------------------------------------------------------------


def test_a_trigger_that_names_what_is_not_there_is_named_with_its_function_and_table(
    node_owner: Owner,
) -> None:
    break_with(node_owner, "device_commands", "update", "perform 1 from no_such_table;")
    report = node_owner.check()
    assert report.trial is not None
    failure = failure_of(report.trial)
    assert failure.step == "the command is claimed"
    assert failure.sqlstate == "42P01"
    assert failure.message == 'relation "no_such_table" does not exist'
    assert failure.function == "public.breaks()"
    assert failure.triggers == ("breaking",)
    assert failure.raised_by == "function breaks(), called by trigger breaking on device_commands"
    assert failure.advice == "What the function names is not there: make it, or mend the function."
    assert not report.is_fine
    assert report.verdict == "NOT READY: the trial failed where the command is claimed."


@pytest.mark.parametrize(
    ("table", "event", "when", "step"),
    [
        ("devices", "insert", "true", "a device that nobody knows says HELLO"),
        ("devices", "update", "old.last_wake_at <> new.last_wake_at", "a known device says HELLO"),
        ("device_site_assignments", "insert", "true", "the device is mapped to a site"),
        ("device_commands", "insert", "true", "its welcome is queued"),
        ("device_commands", "insert", "new.command_type = 'capture_image'", "a command is inserted"),
        ("device_commands", "update", "new.status = 'sent'", "the command is noted as sent"),
        ("device_commands", "update", "new.status = 'acknowledged'", "the command is acknowledged"),
        ("device_images", "update", "new.status = 'complete'", "the picture is complete"),
    ],
)
def test_the_step_that_a_refusal_stops_is_named(
    adopted_owner: Owner, table: str, event: str, when: str, step: str
) -> None:
    adopted_owner.run(*MENDED)
    break_with(adopted_owner, table, event, f"if {when} then raise exception 'not today'; end if;")
    with connect(adopted_owner.connection.info.dsn) as connection:
        # All are applied; one of them stands for applying them again.
        trial = run_trial(read_project(connection, intended()), FILES[-1:], seconds=60)
    failure = failure_of(trial)
    assert failure.step == step
    assert failure.message == "not today"
    assert failure.sqlstate == "P0001"
    assert failure.function == "public.breaks()"
    assert failure.advice == "The function refuses the row on purpose: let it pass what the worker writes."


def test_a_check_that_refuses_the_workers_row_is_named(node_owner: Owner) -> None:
    node_owner.run("alter table device_images add constraint petri_only check (image_name like 'petri%')")
    failure = failure_of(tried(node_owner))
    assert failure.step == "a picture is announced, with readings"
    assert (failure.sqlstate, failure.constraint, failure.table) == (
        "23514",
        "petri_only",
        "public.device_images",
    )
    assert failure.raised_by == "constraint petri_only of device_images"
    assert failure.advice == "Widen the check, so that it lets the worker's rows through."


def test_a_trigger_that_fires_at_the_end_of_the_request_fails_in_its_step(node_owner: Owner) -> None:
    node_owner.run(
        "create function breaks() returns trigger language plpgsql as"
        " $$ begin raise exception 'too late'; return new; end $$",
        "create constraint trigger breaking after insert on device_commands deferrable initially deferred"
        " for each row execute function breaks()",
    )
    failure = failure_of(tried(node_owner))
    assert failure.step == "its welcome is queued"
    assert failure.triggers == ("breaking",)


def test_a_missing_grant_is_named_with_what_gives_it(node_owner: Owner) -> None:
    node_owner.run("create table audit_log (happened_at timestamptz)")
    break_with(node_owner, "device_images", "insert", "insert into public.audit_log values (now());")
    failure = failure_of(tried(node_owner))
    assert failure.sqlstate == "42501"
    assert failure.sql == "grant select, insert, update, delete on table public.audit_log to service_role;"
    node_owner.run(failure.sql)
    assert tried(node_owner).failures == ()


def test_a_name_without_its_schema_is_mended_by_a_search_path(existing_owner: Owner) -> None:
    with connect(existing_owner.connection.info.dsn) as connection:
        connection.execute("set local search_path = pg_catalog")
        project = read_project(connection, intended())
        failure = explain(
            project,
            "a step",
            Raised(
                "42P01",
                'relation "audit_log" does not exist',
                context="PL/pgSQL function public.note_change() line 3 at SQL statement\n"
                'SQL statement "update public.devices set last_seen_at = now()"',
            ),
        )
    assert failure.triggers == ("after_row", "after_statement", "before_statement")
    assert failure.sql == "alter function public.note_change() set search_path = public, extensions;"


def test_a_migration_that_is_refused_is_named_with_its_line_and_what_the_database_advises(
    owner: Owner,
) -> None:
    owner.run("create table device_commands (id uuid primary key)")
    failure = failure_of(tried(owner))
    assert failure.step == "the migrations are applied"
    assert "device_commands.sql: table public.device_commands was there before" in failure.message
    assert "rename column" in failure.advice


def test_where_no_device_can_register_itself_one_of_the_project_does_the_rest(node_owner: Owner) -> None:
    node_owner.run(
        "insert into devices values (gen_random_uuid(), 'AA:BB:CC:DD:EE:01', false)",
        "alter table devices add column serial_number text not null default 'x'",
        "alter table devices alter column serial_number drop default",
    )
    trial = tried(node_owner)
    assert outcomes(trial) == {
        "the migrations are applied": "done",
        "a device that nobody knows says HELLO": "failed",
        "a device of the project takes its place": "done",
        "the device is mapped to a site": "left out",
        "its welcome is queued": "left out",
        "a command is inserted": "done",
        "the command is claimed": "done",
        "the command is noted as sent": "done",
        "the command is acknowledged": "done",
        "a known device says HELLO": "done",
        "a picture is announced, with readings": "done",
        "the picture is complete": "done",
        "readings come without a picture": "done",
    }
    [failure] = trial.failures
    assert (failure.sqlstate, failure.column) == ("23502", "serial_number")
    assert failure.sql == "alter table public.devices alter column serial_number set default '';"


def test_where_no_device_can_register_itself_and_none_is_there_the_rest_is_left_out(
    node_owner: Owner,
) -> None:
    node_owner.run("alter table devices add column serial_number text not null")
    trial = tried(node_owner)
    assert trial.steps[-1].outcome == "left out"
    assert "none is there" in trial.steps[-1].note


def test_a_mapping_that_needs_what_a_dashboard_knows_is_left_out(node_owner: Owner) -> None:
    node_owner.run(
        "create table device_site_assignments"
        " (device_id uuid not null, site_id uuid not null, why text not null)"
    )
    trial = tried(node_owner)
    assert outcomes(trial)["the device is mapped to a site"] == "left out"
    assert outcomes(trial)["the command is acknowledged"] == "done"


def test_readings_and_events_that_are_refused_are_said_and_cost_nothing_else(node_owner: Owner) -> None:
    node_owner.run(
        "create table device_telemetry (device_id uuid, temperature numeric check (temperature > 1000))",
        "alter table device_history add column reason text not null",
    )
    trial = tried(node_owner)
    assert trial.failures == ()
    assert any(remark.startswith("device_history refuses the event") for remark in trial.remarks)
    said = [remark for remark in trial.remarks if "public.device_telemetry does not take temp" in remark]
    assert len(said) == 1
    assert outcomes(trial)["readings come without a picture"] == "done"


def test_a_table_that_demands_a_picture_with_its_readings_refuses_readings_alone(node_owner: Owner) -> None:
    node_owner.run(
        "create table device_telemetry (device_id uuid, image_id uuid not null, temperature numeric)"
    )
    trial = tried(node_owner)
    assert trial.failures == ()
    [said] = [remark for remark in trial.remarks if "readings without a picture" in remark]
    assert "image_id" in said


def test_commands_of_the_project_that_cannot_be_claimed_are_said(node_owner: Owner) -> None:
    node_owner.run(
        "insert into devices values ('00000000-0000-4000-8000-000000000001', 'AA:BB:CC:DD:EE:01', true)",
        "insert into device_commands (device_id, command_type)"
        " values ('00000000-0000-4000-8000-000000000001', 'reboot')",
    )
    break_with(
        node_owner,
        "device_commands",
        "update",
        "if new.command_type = 'reboot' then raise exception 'never'; end if;",
    )
    trial = tried(node_owner)
    assert trial.failures == ()
    assert any(
        "passes over 1 of the project's commands" in remark and "never" in remark for remark in trial.remarks
    )


def test_warnings_of_the_migrations_are_said(node_owner: Owner) -> None:
    warnings = tried(node_owner).warnings
    assert any(
        text.startswith("public.devices was there before without row-level security") for text in warnings
    )


# It waits for nothing ---------------------------------------------------------------------------------------


def test_a_table_that_another_holds_is_not_waited_for_long(existing_owner: Owner) -> None:
    with psycopg.connect(existing_owner.connection.info.dsn) as other:
        other.execute("lock table device_images in row exclusive mode")
        started = time.monotonic()
        failure = failure_of(tried(existing_owner))
        assert time.monotonic() - started < 20
    assert failure.sqlstate == "55P03"
    assert failure.advice.startswith("Another transaction holds a lock")


def test_a_trial_that_takes_too_long_is_ended(node_owner: Owner) -> None:
    break_with(node_owner, "device_commands", "insert", "perform pg_sleep(60);")
    started = time.monotonic()
    failure = failure_of(tried(node_owner, seconds=5))
    assert time.monotonic() - started < 40
    assert failure.sqlstate == "57014"
    assert "--trial-seconds" in failure.advice


def test_what_must_be_done_by_hand_is_found_without_a_trial_too(node_owner: Owner) -> None:
    node_owner.run("alter table devices add column serial_number text not null")
    report = node_owner.check(trial=False)
    assert [each.level for each in report.by_hand] == [Level.BY_HAND]
    assert not report.is_fine
