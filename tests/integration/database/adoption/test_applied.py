"""After the migrations: the check says that all is in place, or what is not as the files have it."""

import pytest

from mqtt_service.adoption.changes import Change
from tests.integration.database.adoption.conftest import FIXTURES, Owner


def test_all_is_in_place_where_the_files_were_applied(applied_owner: Owner) -> None:
    report = applied_owner.check()
    assert report.trial is not None
    assert report.trial.changes == ()
    assert report.state == "applied"
    assert report.verdict == "ALL IS IN PLACE."
    assert report.is_fine


@pytest.mark.parametrize("project", ["adopted_schema.sql", "existing_project.sql"])
def test_applying_to_a_project_that_had_the_tables_leaves_nothing_to_change(
    owner: Owner, project: str
) -> None:
    owner.run((FIXTURES / project).read_text())
    owner.apply()
    report = owner.check()
    assert report.trial is not None
    assert report.trial.changes == ()
    assert report.state == "applied"


# Each of a set leaves what the others break alone.
BROKEN: tuple[dict[str, Change], ...] = (
    {
        "create or replace function public.fn_settle_images("
        "p_worker text, p_results jsonb, p_api_url text default null) returns jsonb"
        " language sql security invoker set search_path = '' as $$ select '[]'::jsonb $$": Change(
            "changed", "function", "public.fn_settle_images(text,jsonb,text)"
        ),
        "revoke execute on function public.fn_settle_images(text, jsonb, text) from service_role": Change(
            "added", "grant", "to service_role on public.fn_settle_images(text,jsonb,text)"
        ),
        "grant execute on function public.fn_settle_images(text, jsonb, text) to anon": Change(
            "removed", "grant", "to anon on public.fn_settle_images(text,jsonb,text)"
        ),
        "revoke select on table public.devices from authenticated": Change(
            "added", "grant", "to authenticated on public.devices"
        ),
        "alter publication supabase_realtime drop table public.devices": Change(
            "added", "publication", "public.devices in supabase_realtime"
        ),
        "alter table public.device_commands disable trigger mqtt_guard_command_insert": Change(
            "changed", "trigger", "mqtt_guard_command_insert on public.device_commands"
        ),
    },
    {
        "drop function public.fn_settle_images(text, jsonb, text)": Change(
            "added", "function", "public.fn_settle_images(text,jsonb,text)"
        ),
        "drop trigger mqtt_guard_command_insert on public.device_commands": Change(
            "added", "trigger", "mqtt_guard_command_insert on public.device_commands"
        ),
        "alter table public.devices drop column reported_location": Change(
            "added", "column", "public.devices.reported_location"
        ),
        "drop index public.device_commands_due_idx": Change(
            "added", "index", "public.device_commands_due_idx"
        ),
        "drop policy mqtt_members_read on public.devices": Change(
            "added", "policy", "mqtt_members_read on public.devices"
        ),
    },
    # Alone: a bucket is no object of the catalog.
    {"delete from storage.buckets": Change("added", "bucket", "device-images")},
)


@pytest.mark.parametrize("broken", BROKEN, ids=["what is there", "what is gone", "a bucket that is gone"])
def test_what_is_not_as_the_files_have_it_is_named(applied_owner: Owner, broken: dict[str, Change]) -> None:
    applied_owner.run(*broken)
    report = applied_owner.check()
    assert report.trial is not None
    assert set(broken.values()) <= set(report.trial.changes)
    assert report.state == "not as these files have it"
    assert report.verdict.startswith("NOT IN PLACE: apply the migrations again")
    assert not report.is_fine


def test_without_the_trial_what_is_missing_is_still_seen(applied_owner: Owner) -> None:
    applied_owner.run("alter table public.devices drop column reported_location")
    report = applied_owner.check(trial=False)
    assert report.state == "not as these files have it"
    assert not report.is_fine


def test_without_the_trial_it_is_said_what_was_not_compared(applied_owner: Owner) -> None:
    verdict = applied_owner.check(trial=False).verdict
    assert verdict == "ALL IS IN PLACE. Nothing was tried, and the functions' bodies were not compared."


def test_files_on_record_are_counted(applied_owner: Owner) -> None:
    assert applied_owner.find("recorded").text.startswith("names ")


def test_a_default_that_the_files_set_afterwards_is_ours_too(applied_owner: Owner) -> None:
    assert applied_owner.find_all("column_differs", "device_commands.in_queue") == []
