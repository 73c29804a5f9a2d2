"""What is around the tables: triggers, checks, rules, functions, rights, Realtime, Storage, rows, history."""

import pytest

from mqtt_service.adoption.findings import Level
from mqtt_service.adoption.services import MAY_RING
from tests.integration.database.adoption.conftest import FILES, Owner

NOTHING = "create function note() returns trigger language plpgsql as $$ begin return new; end $$"


# Triggers, checks and rules ---------------------------------------------------------------------------------


def test_a_trigger_is_named_with_its_timing_and_its_function(node_owner: Owner) -> None:
    node_owner.run(
        NOTHING,
        "create trigger noted before insert or update on devices for each row execute function note()",
    )
    finding = node_owner.find("trigger", "trigger noted on devices")
    assert finding.text == "fires before insert or update for each row, and calls note()"


def test_triggers_that_are_alike_on_several_tables_are_one_finding(node_owner: Owner) -> None:
    node_owner.run(NOTHING)
    for table in ("devices", "device_images"):
        node_owner.run(
            f"create trigger noted after delete on {table} for each statement execute function note()"
        )
    finding = node_owner.find("trigger")
    assert finding.subject == "trigger noted on device_images, devices"
    assert finding.text == "fires after delete for each statement, and calls note()"


def test_a_trigger_function_with_a_search_path_of_its_own_is_said_to_have_one(node_owner: Owner) -> None:
    node_owner.run(
        NOTHING,
        "alter function note() set search_path = public",
        "alter function note() security definer",
        "create trigger noted after update on devices for each row execute function note()",
        "alter table devices disable trigger noted",
    )
    text = node_owner.find("trigger", "noted").text
    assert "its function has a search_path of its own (public)" in text
    assert "its function is security definer" in text
    assert "it is disabled" in text


def test_a_deferred_constraint_trigger_is_said_to_fire_at_the_end(node_owner: Owner) -> None:
    node_owner.run(
        NOTHING,
        "create constraint trigger checked after update on devices deferrable initially deferred"
        " for each row execute function note()",
    )
    assert "it may fire at the end of the transaction" in node_owner.find("trigger", "checked").text


@pytest.mark.parametrize("call", ["dblink('', 'select 1')", "http_post('https://example.test', '', '')"])
def test_a_trigger_that_acts_outside_keeps_the_trial_from_being_made_unasked(
    node_owner: Owner, call: str
) -> None:
    node_owner.run(
        "create function tell() returns trigger language plpgsql as"
        f" $f$ begin if false then perform {call}; end if; return new; end $f$",
        "create trigger told after insert on devices for each row execute function tell()",
    )
    report = node_owner.check(trial=None)
    assert report.trial is None
    assert "trigger told on devices may act outside of the database" in report.no_trial
    assert node_owner.check(trial=True).trial is not None


def test_a_call_that_waits_in_a_table_keeps_nothing_back(node_owner: Owner) -> None:
    node_owner.run(
        "create function tell() returns trigger language plpgsql as"
        " $f$ begin if false then perform net.http_post('https://example.test'); end if; return new; end $f$",
        "create trigger told after insert on devices for each row execute function tell()",
    )
    assert node_owner.check(trial=None).trial is not None


def test_a_check_that_refuses_our_words_is_said_to_be_widened(node_owner: Owner) -> None:
    node_owner.run("alter table device_commands add constraint known check (status in ('pending', 'sent'))")
    finding = node_owner.find("check_widened", "check known on device_commands")
    assert finding.text.endswith("will be widened by failed, acknowledged, rejected, expired, cancelled")


def test_a_check_is_named_with_what_it_holds(node_owner: Owner) -> None:
    node_owner.run("alter table device_images add constraint short check (length(image_name) < 99)")
    assert "(length(image_name) < 99)" in node_owner.find("check", "check short on device_images").text


def test_a_rule_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run("create rule quiet as on update to devices do also nothing")
    assert node_owner.find("rule", "rule quiet on public.devices").level is Level.LOOK


# Functions --------------------------------------------------------------------------------------------------


def test_a_function_of_our_signature_will_be_replaced(node_owner: Owner) -> None:
    node_owner.run(
        "create function fn_record_replies(p_worker text, p_replies jsonb) returns jsonb language sql"
        " as $$ select null::jsonb $$"
    )
    finding = node_owner.find("function_replaced")
    assert finding.subject == "public.fn_record_replies(text,jsonb)"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            "function fn_record_replies(p_worker text, p_replies jsonb) returns text {}",
            "another result (text, ours jsonb)",
        ),
        (
            "function fn_record_replies(worker text, results jsonb) returns jsonb {}",
            "another parameter name",
        ),
        (
            "function fn_record_replies(p_worker text, p_replies jsonb default '[]') returns jsonb {}",
            "another number of defaults",
        ),
        (
            "procedure fn_record_replies(p_worker text, p_replies jsonb) {}",
            "is an aggregate or a procedure",
        ),
    ],
)
def test_a_function_that_cannot_be_replaced_must_be_dropped(
    node_owner: Owner, function: str, words: str
) -> None:
    node_owner.run("create " + function.format("language plpgsql as $$ begin raise exception 'no'; end $$"))
    finding = node_owner.find("function_refuses")
    assert words in finding.text
    assert finding.level is Level.BY_HAND
    node_owner.run(finding.sql or "")
    assert node_owner.find_all("function_refuses") == []


def test_an_overload_that_fits_the_workers_calls_must_be_dropped(node_owner: Owner) -> None:
    node_owner.run(
        "create function fn_record_replies(p_worker text, p_replies text) returns jsonb language sql"
        " as $$ select null::jsonb $$"
    )
    finding = node_owner.find("function_ambiguous")
    assert finding.level is Level.BY_HAND
    assert finding.sql == "drop function public.fn_record_replies(text,text);"


def test_an_overload_that_fits_no_call_stays(node_owner: Owner) -> None:
    node_owner.run(
        "create function fn_record_replies(p_device uuid, out ok boolean, out why text) language sql"
        " as $$ select true, '' $$"
    )
    assert node_owner.find("function_stays").subject == "public.fn_record_replies(uuid)"


def test_the_functions_that_will_be_made_are_named(node_owner: Owner) -> None:
    assert "fn_claim_commands" in node_owner.find("functions_missing").text


# Access -----------------------------------------------------------------------------------------------------


def test_a_table_of_another_owner_is_said_to_stop_the_migrations(node_owner: Owner) -> None:
    database = node_owner.connection.info.dbname
    user = f"stranger_{database}"
    node_owner.run(
        f"create role {user} login",
        f"grant create on database {database} to {user}",
        f"grant create, usage on schema public to {user}",
        f"grant select on all tables in schema public to {user}",
    )
    try:
        report = node_owner.check(trial=None, user=user)
    finally:
        node_owner.run(f"drop owned by {user}", f"drop role {user}")
    [finding] = [
        each for each in report.findings if each.kind == "not_owner" and each.subject == "public.devices"
    ]
    assert finding.level is Level.BY_HAND
    assert "belongs to postgres" in finding.text
    assert report.trial is None
    assert report.no_trial == f"it cannot act as the worker ({user})"


def test_a_role_that_may_not_make_a_schema_is_told_so(node_owner: Owner) -> None:
    user = f"guest_{node_owner.connection.info.dbname}"
    node_owner.run(f"create role {user} login")
    try:
        findings = node_owner.check(trial=None, user=user).findings
    finally:
        node_owner.run(f"drop role {user}")
    assert [each.subject for each in findings if each.kind == "may_not_create"] == [user]
    unreadable = [each.text for each in findings if each.kind == "not_readable"]
    assert any("permission denied for table" in text for text in unreadable)


def test_a_database_without_the_platforms_roles_is_no_supabase_project(
    node_owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqtt_service.adoption.access.ROLES", ("anon", "role_that_is_not_there"))
    finding = node_owner.find("role_missing", "role_that_is_not_there")
    assert finding.level is Level.BY_HAND


def test_a_table_without_row_level_security_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run("alter table devices enable row level security")
    tables = {each.subject for each in node_owner.find_all("unprotected")}
    assert tables == {"public.device_commands", "public.device_images", "public.device_history"}


def test_row_level_security_that_binds_the_owner_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run("alter table devices force row level security")
    assert node_owner.find("forced", "devices").level is Level.LOOK


def test_the_projects_policies_are_named(node_owner: Owner) -> None:
    node_owner.run("create policy everybody on devices using (true)")
    assert node_owner.find("policies", "devices").text == "keeps the project's policies: everybody"


# Realtime and Storage ---------------------------------------------------------------------------------------


def test_tables_are_said_to_be_published_or_to_be_added(node_owner: Owner) -> None:
    node_owner.run("alter publication supabase_realtime add table devices")
    assert node_owner.find("published").subject == "public.devices"
    assert node_owner.find("not_published").subject == "public.device_commands"


def test_a_table_that_is_published_in_part_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run("alter publication supabase_realtime add table device_commands (command_id, status)")
    finding = node_owner.find("published_in_part", "device_commands")
    assert finding.level is Level.LOOK
    node_owner.run(finding.sql or "")
    assert node_owner.find_all("published_in_part") == []


def test_a_publication_of_deletes_alone_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run("alter publication supabase_realtime set (publish = 'delete')")
    finding = node_owner.find("publication_silent")
    node_owner.run(finding.sql or "")
    assert node_owner.find_all("publication_silent") == []


def test_a_project_without_the_publication_will_get_it(node_owner: Owner) -> None:
    node_owner.run("drop publication supabase_realtime")
    assert node_owner.find("publication_missing").level is Level.NOTE


@pytest.mark.parametrize(
    "without",
    [
        "drop function realtime.send",
        "drop schema realtime cascade",
        "drop table realtime.messages",
        "create role plain bypassrls; grant usage on schema realtime to plain",  # may not insert
        # row-level security holds back who may insert
        "create role plain; grant usage on schema realtime to plain; grant all on realtime.messages to plain",
    ],
)
def test_where_the_owner_cannot_ring_the_rows_are_said_to_be_heard(node_owner: Owner, without: str) -> None:
    assert node_owner.find_all("no_ring") == []
    with node_owner.connection.transaction(force_rollback=True):
        node_owner.run(without)
        if "role plain" in without:
            node_owner.run("set local role plain")
        assert node_owner.connection.execute(MAY_RING.encode()).fetchone() == (False,)


def test_a_project_without_broadcasts_hears_of_each_row(node_owner: Owner) -> None:
    node_owner.run("drop function realtime.send")
    assert node_owner.find("no_ring").level is Level.NOTE


def test_a_policy_that_lets_people_into_every_topic_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run(
        "create policy rooms on realtime.messages for select to authenticated"
        " using (realtime.topic() like 'room:%')",
        "create policy mine on realtime.messages for insert to authenticated with check (true)",
        "create policy hidden on realtime.messages for select to service_role using (true)",
        "create policy everything on realtime.messages for select to authenticated using (true)",
    )
    finding = node_owner.find("open_topics")
    assert finding.level is Level.LOOK
    assert finding.subject == "policy everything on realtime.messages"


def test_a_bucket_that_takes_no_pictures_must_be_changed(node_owner: Owner) -> None:
    node_owner.run(
        "insert into storage.buckets (id, name, allowed_mime_types)"
        " values ('device-images', 'device-images', '{image/png}')"
    )
    finding = node_owner.find("bucket_refuses_pictures")
    assert finding.level is Level.BY_HAND
    node_owner.run(finding.sql or "")
    assert node_owner.find_all("bucket_refuses_pictures") == []


def test_a_public_bucket_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run(
        "insert into storage.buckets (id, name, public) values ('device-images', 'device-images', true)"
    )
    finding = node_owner.find("bucket_public")
    assert finding.level is Level.LOOK
    node_owner.run(finding.sql or "")
    assert node_owner.find_all("bucket_public") == []
    assert node_owner.find("bucket").text.endswith("takes files of any size")


def test_a_database_without_storage_is_to_be_looked_at(node_owner: Owner) -> None:
    node_owner.run("drop schema storage cascade")
    assert node_owner.find("no_storage").level is Level.LOOK


# Rows and history -------------------------------------------------------------------------------------------

DEVICE = "00000000-0000-4000-8000-000000000001"


def test_commands_are_counted_by_whether_they_will_be_sent(node_owner: Owner) -> None:
    node_owner.run(
        f"insert into devices values ('{DEVICE}', 'a')",
        "insert into device_commands (device_id, command_type, status, issued_at)"
        f" select '{DEVICE}', kind, status, now() - age::interval from (values"
        " ('reboot', 'pending', '1 hour'), ('calibrate', 'pending', '1 hour'),"
        " ('reboot', 'pending', '2 days'), ('calibrate', 'pending', '3 days'),"
        " ('reboot', 'sent', '1 hour'), ('reboot', null, '1 day'))"
        " as t (kind, status, age)",
    )
    assert node_owner.find("commands_waiting").text.startswith("has 1 pending of the last 24 hours")
    assert node_owner.find("commands_unknown").text == (
        "has 1 pending of types that the worker does not know (calibrate), which are left alone"
    )
    assert node_owner.find("commands_old").text.startswith("has 2 pending for longer than 24 hours")
    assert (
        node_owner.find("commands_done").text == "has 1 sent, 1 without a status, which are left as they are"
    )


def test_a_device_that_is_there_twice_is_named_in_every_spelling(node_owner: Owner) -> None:
    node_owner.run(
        "insert into devices (device_id, device_mac) select gen_random_uuid(), mac"
        " from unnest(array['AA:BB:CC:DD:EE:01', 'aabbccddee01', 'AA-BB-CC-DD-EE-02', 'name', 'NAME']) as mac"
    )
    assert "AABBCCDDEE01 (2 rows)." in node_owner.find("mac_repeated").text


def test_a_code_that_two_devices_have_is_named(node_owner: Owner) -> None:
    node_owner.run(
        "alter table devices add column device_code text",
        "insert into devices (device_code) select unnest('{A,A,B}'::text[])",
    )
    assert "A (2 rows)." in node_owner.find("code_repeated").text


@pytest.mark.parametrize("columns", ["device_id, image_name", "image_name, device_id"])
def test_names_of_pictures_that_may_not_repeat_are_to_be_looked_at(node_owner: Owner, columns: str) -> None:
    node_owner.run(f"alter table device_images add constraint once unique ({columns})")
    assert node_owner.find("image_names_unique", "once").level is Level.LOOK


def test_names_that_may_repeat_at_another_time_are_of_no_concern(node_owner: Owner) -> None:
    node_owner.run(
        "alter table device_images add column captured_at timestamptz",
        "alter table device_images add unique (device_id, image_name, captured_at)",
    )
    assert node_owner.find_all("image_names_unique") == []


def test_migrations_of_the_project_under_versions_of_ours_are_named(existing_owner: Owner) -> None:
    version = "20990101000000"
    existing_owner.run(
        f"insert into supabase_migrations.schema_migrations values ('{version}', '{{}}', 'theirs')"
    )
    assert "migrations of the project's own" in existing_owner.find("foreign_history").text


def test_a_version_that_is_taken_is_said_to_hide_a_file_of_ours(node_owner: Owner) -> None:
    version = FILES[0].file.partition("_")[0]
    node_owner.run(
        "create schema supabase_migrations",
        "create table supabase_migrations.schema_migrations (version text primary key, name text)",
        f"insert into supabase_migrations.schema_migrations values ('{version}', 'theirs')",
    )
    finding = node_owner.find("version_taken")
    assert f"{version} (theirs, ours {FILES[0].file})" in finding.text
    assert finding.level is Level.LOOK
