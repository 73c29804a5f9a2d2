"""Columns of a project before the migrations: what will be added, is different, or stands in the way."""

from mqtt_service.adoption.findings import Level
from tests.integration.database.adoption.conftest import Owner


def test_a_missing_column_will_be_added_with_its_type_and_default(node_owner: Owner) -> None:
    finding = node_owner.find("column_missing", "devices.welcome_due")
    assert finding.text == "will be added: boolean not null default false"
    assert finding.level is Level.NOTE


def test_a_column_that_is_as_ours_is_not_mentioned(node_owner: Owner) -> None:
    node_owner.run("alter table device_commands add column delivered_at timestamptz")
    findings = node_owner.check(trial=False).findings
    assert [each for each in findings if each.subject.endswith("delivered_at")] == []


DIFFERENT = (
    (
        "devices",
        "firmware_version varchar(20)",
        "character varying(20), ours text: a value that does not fit",
    ),
    ("devices", "wake_schedule_cron short_text", "a value that the domain's checks refuse"),
    (
        "devices",
        "last_seen_at timestamp",
        "without time zone, ours timestamp with time zone: written without",
    ),
    ("devices", "wifi_rssi smallint", "smallint, ours integer: a value that does not fit"),
    ("devices", "battery_voltage integer", "integer, ours numeric: fractions are rounded"),
    ("device_images", "site_id text", "text, ours uuid: written as text"),
    ("device_history", "severity levels", "levels, ours text: its own words are written"),
    ("device_images", "status text default 'new'", "has the default 'new'::text, ours 'receiving'"),
    ("device_images", "location text not null default 'here'", "gets its default"),
)


def test_columns_that_differ_are_said_with_how_they_are_treated(node_owner: Owner) -> None:
    node_owner.run(
        "create domain short_text as text check (length(value) < 50)",
        "create type levels as enum ('info', 'warning', 'error', 'critical')",
        *(f"alter table {table} add column {definition}" for table, definition, _ in DIFFERENT),
    )
    found = {each.subject: each for each in node_owner.find_all("column_differs")}
    for table, definition, words in DIFFERENT:
        finding = found[f"public.{table}.{definition.split()[0]}"]
        assert words in finding.text
        assert finding.level is Level.NOTE


def test_an_enum_that_lacks_words_of_ours_is_said_with_how_to_add_them(node_owner: Owner) -> None:
    node_owner.run(
        "create type levels as enum ('info', 'fatal')",
        "alter table device_history add column severity levels not null default 'info'",
    )
    finding = node_owner.find("column_differs", "device_history.severity")
    assert "lacks warning, error: the migrations add them" in finding.text
    assert finding.level is Level.LOOK
    assert finding.sql == (
        "alter type public.levels add value if not exists 'warning';\n"
        "alter type public.levels add value if not exists 'error';"
    )


def test_an_enum_that_the_migrations_widen_is_said_to_need_the_words_for_the_trial(node_owner: Owner) -> None:
    node_owner.run(
        "create type states as enum ('pending', 'receiving', 'complete')",
        "alter table device_images add column status states not null default 'pending'",
    )
    finding = node_owner.find("column_differs", "device_images.status")
    assert "lacks failed: the migrations add them" in finding.text
    assert finding.sql == "alter type public.states add value if not exists 'failed';"


def test_a_column_that_must_not_be_empty_where_ours_may_is_said_with_a_default(node_owner: Owner) -> None:
    node_owner.run("alter table device_images add column location text not null")
    finding = node_owner.find("column_differs", "device_images.location")
    assert "must not be empty, ours may" in finding.text
    assert finding.sql == "alter table public.device_images alter column location set default '';"


def test_a_time_of_capture_that_is_demanded_needs_nothing_to_be_done(node_owner: Owner) -> None:
    node_owner.run(
        "alter table device_images add column captured_at timestamptz not null",
        "create table device_telemetry (device_id uuid, captured_at timestamptz not null)",
    )
    finding = node_owner.find("column_differs", "captured_at")
    assert finding.subject == "public.device_images.captured_at"
    assert "it is when it was first heard of" in finding.text
    assert (finding.level, finding.sql) == (Level.NOTE, None)


def test_a_required_column_without_the_default_that_ours_has_is_said_with_that_default(
    node_owner: Owner,
) -> None:
    node_owner.run("alter table device_commands add column retry_count integer not null")
    finding = node_owner.find("column_differs", "device_commands.retry_count")
    assert finding.level is Level.LOOK
    assert finding.sql == "alter table public.device_commands alter column retry_count set default 0;"


def test_a_key_that_is_not_made_by_itself_must_get_its_default(node_owner: Owner) -> None:
    node_owner.run("alter table devices alter column device_id drop default")
    finding = node_owner.find("column_differs", "devices.device_id")
    assert finding.level is Level.BY_HAND
    assert finding.sql == "alter table public.devices alter column device_id set default gen_random_uuid();"


def test_a_generated_column_that_the_worker_writes_must_be_changed_by_hand(node_owner: Owner) -> None:
    node_owner.run("alter table device_images add column sha256 text generated always as ('none') stored")
    finding = node_owner.find("column_differs", "device_images.sha256")
    assert "nothing can be written into it" in finding.text
    assert finding.level is Level.BY_HAND
    node_owner.run(finding.sql or "")
    assert node_owner.find_all("column_differs", "device_images.sha256") == []


def test_a_type_that_takes_no_value_of_ours_must_be_changed_by_hand(node_owner: Owner) -> None:
    node_owner.run("alter table devices add column wifi_rssi boolean")
    finding = node_owner.find("column_differs", "devices.wifi_rssi")
    assert "which Postgres does not turn into it" in finding.text
    assert finding.level is Level.BY_HAND
    assert finding.sql == (
        "alter table public.devices alter column wifi_rssi type integer using wifi_rssi::integer;"
    )


def test_a_number_of_its_own_that_a_row_gets_is_left_to_the_trial(node_owner: Owner) -> None:
    finding = node_owner.find("column_differs", "device_history.history_id")
    assert "it fills itself" in finding.text
    assert finding.level is Level.LOOK


def test_a_column_that_the_worker_only_reads_is_of_no_concern(node_owner: Owner) -> None:
    node_owner.run("create table sites (site_id uuid primary key, name varchar(9) not null default 'none')")
    assert node_owner.find("column_differs", "sites.name").text.endswith("the worker only reads it")


# Columns that we know nothing of ----------------------------------------------------------------------------


REQUIRED = {
    "text not null": "set default ''",
    "varchar(9) not null": "set default ''",
    "integer not null": "set default 0",
    "numeric(4, 1) not null": "set default 0",
    "boolean not null": "set default false",
    "timestamptz not null": "set default now()",
    "date not null": "set default current_date",
    "jsonb not null": "set default '{}'",
    "text[] not null": "set default '{}'",
    "uuid not null": "set default gen_random_uuid()",
    "text not null unique": "set default gen_random_uuid()::text",
    "integer not null unique": "drop not null",
    "kind not null": "set default 'it''s one'",
    "positive not null": "drop not null",
    "inet not null": "drop not null",
    "uuid not null references devices": "drop not null",
}


def test_required_columns_of_the_project_are_said_with_what_lets_the_workers_rows_in(
    node_owner: Owner,
) -> None:
    node_owner.run(
        "create type kind as enum ('it''s one', 'other')",
        "create domain positive as integer check (value > 0)",
        *(f"alter table device_images add column petri_{n} {kind}" for n, kind in enumerate(REQUIRED)),
    )
    found = {each.subject: each for each in node_owner.find_all("required_column")}
    for number, change in enumerate(REQUIRED.values()):
        finding = found[f"public.device_images.petri_{number}"]
        assert finding.level is Level.BY_HAND
        assert "must not be empty, has no default, and is unknown to the worker" in finding.text
        assert finding.sql == f"alter table public.device_images alter column petri_{number} {change};"
        node_owner.run(finding.sql)
    assert node_owner.find_all("required_column") == []


def test_columns_that_fill_themselves_or_may_be_empty_are_not_in_the_way(node_owner: Owner) -> None:
    node_owner.run(
        "create domain filled as text not null default 'x'",
        "alter table device_images add column a text, add column b text not null default 'x',"
        " add column c integer generated always as identity, add column d filled,"
        " add column e integer generated always as (1) stored",
    )
    assert node_owner.find_all("required_column") == []


def test_a_required_column_in_a_table_that_the_worker_does_not_write_is_not_in_the_way(
    node_owner: Owner,
) -> None:
    node_owner.run("create table sites (site_id uuid primary key, area integer not null)")
    assert node_owner.find_all("required_column") == []


# Tables -----------------------------------------------------------------------------------------------------


def test_tables_are_said_to_be_there_with_their_rows_or_to_be_made(node_owner: Owner) -> None:
    node_owner.run("insert into devices values (gen_random_uuid(), 'a')")
    assert node_owner.find("table", "public.devices").text == "is there, with 1 row"
    assert node_owner.find("table_missing", "public.device_telemetry").text == "is not there: will be made"
    assert "visits" in node_owner.find("private_tables_missing").text


def test_a_view_in_the_place_of_a_table_must_be_renamed(node_owner: Owner) -> None:
    node_owner.run("create view device_telemetry as select 1 as one")
    assert node_owner.find("not_a_table", "device_telemetry").level is Level.BY_HAND


def test_a_key_of_another_name_must_be_renamed(owner: Owner) -> None:
    owner.run("create table devices (id uuid primary key)")
    finding = owner.find("key_missing", "devices.device_id")
    assert finding.level is Level.BY_HAND
    assert finding.sql == "alter table public.devices rename column <key> to device_id;"


def test_a_key_that_repeats_must_be_made_unique(owner: Owner) -> None:
    owner.run(
        "create table devices (device_id uuid not null default gen_random_uuid(), device_mac text not null)"
    )
    finding = owner.find("key_not_unique", "devices.device_id")
    assert finding.level is Level.BY_HAND
    owner.run(finding.sql or "")
    assert owner.find_all("key_not_unique") == []
