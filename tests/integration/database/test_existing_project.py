"""A project with triggers, types, checks and rows of its own takes the migrations; every flow runs on it."""

from collections.abc import Iterator
from datetime import UTC
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.applying import apply
from tests.integration.database.existing_project import (
    ADMIN,
    DEVICE,
    HALF_MAPPED,
    MAC,
    MORNING,
    NORTH,
    PENDING_COMMAND,
    PROGRAM,
    SOUTH,
    WAITING,
    WAITING_MAC,
    Project,
    create,
)
from tests.integration.database.queue_calls import Row, copied

UNDEFINED_COLUMN = "perform no_such_column from devices"
FORBIDDEN = "raise exception 'permission denied for table secrets' using errcode = '42501'"
LOCKED = "raise exception 'could not obtain lock' using errcode = '55P03'"
TROUBLES = pytest.mark.parametrize(
    ("trouble", "code"),
    [(UNDEFINED_COLUMN, "42703"), (FORBIDDEN, "42501"), (LOCKED, "55P03"), ("raise exception 'no'", "P0001")],
)


@pytest.fixture(scope="module")
def adopted(server_url: str, adopted_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, adopted_template) as connection:
        yield connection


@pytest.fixture
def project(adopted: psycopg.Connection) -> Iterator[Project]:
    """What a test changes is undone after it."""
    with adopted.transaction(force_rollback=True):
        yield Project(adopted)


@pytest.fixture
def own_project(server_url: str, adopted_template: str) -> Iterator[Project]:
    """A copy of the test's own, whose every statement is a transaction."""
    with copied(server_url, adopted_template) as connection:
        yield Project(connection)


# Commands


def test_a_command_that_waited_is_claimed_settled_and_acknowledged(project: Project) -> None:
    claimed = project.claim()
    assert claimed["refused"] == []
    [command] = [c for c in claimed["commands"] if c["command_id"] == str(PENDING_COMMAND)]
    assert [result["result"] for result in project.settle([command])] == ["settled"]
    assert (
        project.acknowledge({"topic_id": MAC, "command_id": str(PENDING_COMMAND)})[0]["result"]
        == "acknowledged"
    )
    assert project.row(PENDING_COMMAND)["status"] == "acknowledged"


def test_a_command_expires(project: Project) -> None:
    command = project.command(DEVICE, expires_at="2026-01-01")
    assert str(command) in [c["command_id"] for c in project.claim()["expired"]]


def test_a_command_that_was_not_answered_is_sent_again_on_wake(project: Project) -> None:
    command = project.command(DEVICE, "update_config", command_payload='{"a": 1}')
    project.settle(project.claim()["commands"])
    project.pass_time("1 minute")
    assert project.hello(MAC)["redelivered"] >= 1
    assert str(command) in [c["command_id"] for c in project.claim()["commands"]]


# HELLO


def test_a_hello_is_written_to_every_column_that_the_project_has(project: Project) -> None:
    answer = project.hello(
        MAC, firmware_version="1.2.3", battery_voltage=3.71, wifi_rssi=-61, location="ward 4"
    )
    assert (answer["result"], answer["warnings"]) == ("known", [])
    row = project.one("select * from devices where device_id = %s", DEVICE)
    assert (row["firmware_version"], float(row["battery_voltage"]), row["wifi_rssi"]) == ("1.2.3", 3.71, -61)
    assert row["last_seen_at"] == row["last_wake_at"].astimezone(UTC).replace(tzinfo=None)
    assert project.rows("select from device_wake_sessions where device_id = %s", DEVICE)


def test_a_battery_that_is_low_gives_the_projects_own_alert(project: Project) -> None:
    project.hello(MAC, battery_voltage=3.2)
    assert project.one("select severity from device_alerts where device_id = %s", DEVICE) == {
        "severity": "critical"
    }


def test_a_firmware_name_that_is_too_long_is_cut_and_a_voltage_out_of_range_left_out(
    project: Project,
) -> None:
    answer = project.hello(
        MAC, firmware_version="1.2.3-with-a-very-long-suffix", battery_voltage=25, wifi_rssi=-61
    )
    assert answer["result"] == "known"
    [warning] = answer["warnings"]
    assert "public.devices does not take battery_voltage: constraint volts_check" in warning
    row = project.one("select * from devices where device_id = %s", DEVICE)
    assert (row["firmware_version"], row["battery_voltage"], row["wifi_rssi"]) == (
        "1.2.3-with-a-very-lo",
        None,
        -61,
    )


def test_a_signal_beyond_smallint_is_left_out(project: Project) -> None:
    answer = project.hello(MAC, firmware_version="1.2.3", wifi_rssi=-70_000)
    assert "does not take wifi_rssi: smallint out of range (22003)" in answer["warnings"][0]
    assert project.one("select firmware_version from devices where device_id = %s", DEVICE) == {
        "firmware_version": "1.2.3"
    }


def test_a_new_device_registers_itself_with_an_event_in_the_projects_own_words(project: Project) -> None:
    answer = project.hello("E0:00:00:00:00:99")
    assert (answer["result"], answer["device_code"]) == ("created", "DEVICE-ESP32S3-034")
    event = project.one("select * from device_history where event_type = 'self_registered'")
    assert (event["event_category"], event["severity"]) == ("ProvisioningStep", "info")


# Pictures


def test_a_picture_that_has_no_time_is_of_now_where_the_project_demands_a_time(project: Project) -> None:
    answer = project.image(MAC)
    assert (answer["result"], answer["captured_at"], answer["warnings"]) == ("receiving", None, [])
    again = project.image(MAC, captured_at=MORNING)
    assert (again["image_id"], again["captured_at"]) == (answer["image_id"], MORNING)


def test_a_picture_has_all_that_is_known_at_once_and_the_readings_for_the_generated_columns(
    project: Project,
) -> None:
    answer = project.image(
        MAC, captured_at=MORNING, image_size=7, temperature=25.25, humidity=45.5, pressure=1013.2,
        gas_resistance=11.6, metadata={"environmental": {"temperature": 25.25}},
    )  # fmt: skip
    assert answer["warnings"] == []
    row = project.one("select * from device_images where image_id = %s", UUID(answer["image_id"]))
    assert (float(row["temperature"]), float(row["humidity"])) == (25.25, 45.5)
    assert row["metadata"] == {
        "environmental": {"temperature": 25.25},
        "temperature": 25.25, "humidity": 45.5, "pressure": 1013.2, "gas_resistance": 11.6,
    }  # fmt: skip
    reading = project.one("select * from device_telemetry")
    assert (float(reading["temperature"]), reading["gas_resistance"]) == (25.25, 12)
    assert (reading["site_id"], reading["program_id"]) == (NORTH, PROGRAM)


def test_one_reading_that_a_check_refuses_costs_that_reading_alone(project: Project) -> None:
    answer = project.image(
        MAC, captured_at=MORNING, temperature=25, humidity=100.4, pressure=1013.2, gas_resistance=11
    )
    [warning] = answer["warnings"]
    assert (
        "public.device_telemetry does not take humidity: constraint device_telemetry_humidity_check"
        in warning
    )
    row = project.one("select temperature, humidity, pressure, gas_resistance from device_telemetry")
    assert [None if v is None else float(v) for v in row.values()] == [25, None, 1013.2, 11]


def test_a_reading_that_a_generated_column_cannot_hold_costs_no_picture(project: Project) -> None:
    answer = project.image(MAC, captured_at=MORNING, temperature=123456.5, metadata={"firmware": "x"})
    assert answer["result"] == "receiving"
    assert any("the readings in metadata" in warning for warning in answer["warnings"])
    row = project.one("select metadata from device_images where image_id = %s", UUID(answer["image_id"]))
    assert row["metadata"] == {"firmware": "x"}


def test_a_picture_ends_in_every_way(project: Project) -> None:
    first = project.image(MAC, image_name="a.jpg", captured_at=MORNING)
    assert project.settle_image(first["image_id"], "asked", missing_requests=1)["result"] == "asked"
    assert (
        project.settle_image(first["image_id"], "failed", missing_requests=2, error="lost")["result"]
        == "failed"
    )
    row = project.one("select * from device_images where image_id = %s", UUID(first["image_id"]))
    assert (row["missing_requests"], row["retry_count"]) == (2, 2)
    event = project.one("select * from device_history where event_type = 'image_failed'")
    assert (event["event_category"], event["severity"], event["site_id"]) == ("ErrorEvent", "warning", NORTH)
    assert project.image(MAC, image_name="a.jpg", captured_at=MORNING)["image_id"] == first["image_id"]
    assert project.settle_image(first["image_id"], "complete", sha256="1")["result"] == "complete"
    assert project.image(MAC, image_name="a.jpg", captured_at=MORNING)["result"] == "complete"
    for expected in ("complete", "duplicate"):
        other = project.image(MAC, image_name="b.jpg")
        assert project.settle_image(other["image_id"], "complete", sha256="2")["result"] == expected


@pytest.mark.parametrize(("public", "kind"), [(False, "authenticated"), (True, "public")])
def test_a_stored_picture_has_its_address_in_image_url(project: Project, public: bool, kind: str) -> None:
    project.connection.execute("update storage.buckets set public = %s where id = 'device-images'", (public,))
    answer = project.image(MAC, captured_at=MORNING)
    project.call(
        "fn_settle_images", p_worker="w1", p_api_url="https://api.example.test",
        p_results=f'[{{"image_id": "{answer["image_id"]}", "outcome": "complete"}}]',
    )  # fmt: skip
    row = project.one(
        "select image_url, storage_path from device_images where image_id = %s", UUID(answer["image_id"])
    )
    address = f"https://api.example.test/storage/v1/object/{kind}/device-images/{row['storage_path']}"
    assert row["image_url"] == address


def test_a_picture_that_was_not_finished_fails_and_one_of_the_old_service_is_left_alone(
    project: Project,
) -> None:
    old = project.insert(
        "device_images", "image_id", device_id=DEVICE, image_name="old-2.jpg", captured_at=MORNING,
        status="receiving",
    )  # fmt: skip
    answer = project.image(MAC, captured_at=MORNING)
    with project.connection.transaction():
        project.connection.execute("set local session_replication_role = replica")
        project.connection.execute("update public.device_images set updated_at = now() - interval '2 hours'")
    project.claim()
    assert (
        project.one("select status from device_images where image_id = %s", UUID(answer["image_id"]))[
            "status"
        ]
        == "failed"
    )
    assert project.one("select status from device_images where image_id = %s", old)["status"] == "receiving"


def test_a_pending_row_that_the_project_made_becomes_the_row_of_the_picture(project: Project) -> None:
    theirs = project.one("select image_id from device_images where image_name = 'announced.jpg'")["image_id"]
    answer = project.image(MAC, image_name="announced.jpg", captured_at=MORNING)
    assert answer["image_id"] == str(theirs)
    row = project.one("select * from device_images where image_name = 'announced.jpg'")
    assert (row["status"], row["captured_at"].isoformat()) == ("receiving", MORNING)


def test_pictures_that_a_hello_lists_are_pending_and_become_those_that_come(project: Project) -> None:
    assert project.hello(MAC, pending_names=["c.jpg", "d.jpg"])["warnings"] == []
    listed = project.one(
        "select image_id from device_images where image_name = 'c.jpg' and status = 'pending'"
    )
    assert project.image(MAC, image_name="c.jpg", captured_at=MORNING)["image_id"] == str(listed["image_id"])
    assert len(project.rows("select from device_images where image_name = 'c.jpg'")) == 1


def test_a_pending_picture_that_is_refused_costs_neither_the_others_nor_the_answer(project: Project) -> None:
    project.refuse("device_images", "new.image_name = 'c.jpg'", UNDEFINED_COLUMN, when="before insert")
    answer = project.hello(MAC, pending_names=["c.jpg", "d.jpg", "e.jpg"])
    assert (answer["result"], answer["holds_lease"]) == ("known", True)
    assert "the pending picture c.jpg is not listed: function their_rule()" in answer["warnings"][0]
    listed = project.rows("select image_name from device_images where listed_at is not null order by 1")
    assert [row["image_name"] for row in listed] == ["d.jpg", "e.jpg"]


# Mapping


def map_device(connection: psycopg.Connection, device: UUID, site: UUID) -> None:
    connection.execute(
        "insert into device_site_assignments (device_id, site_id, program_id, assigned_by_user_id)"
        " values (%s, %s, %s, %s)",
        (device, site, PROGRAM, ADMIN),
    )


def test_an_admin_maps_remaps_and_unmaps_a_device_from_the_dashboard(project: Project) -> None:
    with project.signed_in() as connection:
        map_device(connection, WAITING, NORTH)
    row = project.one("select * from devices where device_id = %s", WAITING)
    assert (row["provisioning_status"], row["is_active"], row["site_id"]) == ("active", True, NORTH)
    event = project.one(
        "select * from device_history where device_id = %s and event_type = 'mapped'", WAITING
    )
    assert (event["event_category"], event["user_id"], event["site_id"]) == ("Assignment", ADMIN, NORTH)
    with project.signed_in() as connection:
        connection.execute(
            "update device_site_assignments set is_active = false where device_id = %s", (WAITING,)
        )
        map_device(connection, WAITING, SOUTH)
    assert project.one("select site_id from devices where device_id = %s", WAITING) == {"site_id": SOUTH}
    with project.signed_in() as connection:
        connection.execute(
            "update device_site_assignments set is_active = false where device_id = %s", (WAITING,)
        )
    assert project.one("select is_active from devices where device_id = %s", WAITING) == {"is_active": False}
    categories = project.rows("select event_category from device_history where device_id = %s", WAITING)
    assert {row["event_category"] for row in categories} == {
        "Assignment",
        "Unassignment",
        "ConfigurationChange",
    }


def test_a_mapped_device_is_welcomed_once(project: Project) -> None:
    with project.signed_in() as connection:
        map_device(connection, WAITING, NORTH)
    [welcome] = project.call("fn_queue_welcome_commands")
    assert project.row(UUID(welcome["command_id"]))["device_id"] == WAITING
    assert project.call("fn_queue_welcome_commands") == []
    assert project.hello(WAITING_MAC)["commands"] == 1


def test_the_backfill_completes_a_device_that_has_an_assignment_alone(project: Project) -> None:
    incomplete = project.rows("select * from fn_find_devices_with_incomplete_lineage()")
    [row] = [row for row in incomplete if row["device_id"] == HALF_MAPPED]
    answer = project.call(
        "fn_initialize_device_after_mapping", p_device_id=HALF_MAPPED, p_site_id=row["assigned_site_id"],
        p_program_id=row["assigned_program_id"],
    )  # fmt: skip
    assert answer["success"]
    assert project.call("fn_validate_device_provisioning", p_device_id=HALF_MAPPED)["valid"]


# One row's trouble


@TROUBLES
def test_a_device_whose_row_a_trigger_refuses_is_answered_and_so_are_the_others(
    project: Project, trouble: str, code: str
) -> None:
    project.refuse("devices", f"new.device_id = '{DEVICE}'", trouble)
    answers = project.hellos({"topic_id": WAITING_MAC}, {"topic_id": MAC}, {"topic_id": "E0:00:00:00:00:98"})
    assert [answer["result"] for answer in answers] == ["known", "known", "created"]
    assert answers[1]["holds_lease"]
    assert answers[1]["commands"] >= 1
    assert answers[1]["next_wake_at"]
    [warning] = answers[1]["warnings"]
    assert "function their_rule() of the project, called by trigger their_rule on devices," in warning
    assert f"({code})" in warning
    assert answers[0]["warnings"] == []


def test_a_deferred_constraint_refuses_the_row_that_breaks_it_and_no_other(project: Project) -> None:
    project.run(
        "create function their_check() returns trigger language plpgsql as $$ begin"
        " if new.wifi_rssi = -99 then raise exception 'too far away'; end if; return null; end $$;"
        " create constraint trigger their_check after update on devices deferrable initially deferred"
        " for each row execute function their_check()"
    )
    answers = project.hellos(
        {"topic_id": MAC, "wifi_rssi": -99, "firmware_version": "2"}, {"topic_id": WAITING_MAC}
    )
    assert "does not take wifi_rssi" in answers[0]["warnings"][0]
    assert (answers[1]["result"], answers[1]["warnings"]) == ("known", [])
    row = project.one("select firmware_version, wifi_rssi from devices where device_id = %s", DEVICE)
    assert row == {"firmware_version": "2", "wifi_rssi": None}


@TROUBLES
def test_a_device_that_may_not_register_is_told_why_and_when_to_come_back(
    project: Project, trouble: str, code: str
) -> None:
    project.refuse("devices", "new.device_mac = 'n1'", trouble, when="before insert")
    answers = project.hellos({"topic_id": "n1"}, {"topic_id": "n2"})
    assert [answer["result"] for answer in answers] == ["refused", "created"]
    assert f"({code})" in answers[0]["error"]
    assert answers[0]["next_wake_at"]


def test_a_redelivery_that_is_refused_costs_no_answer(project: Project) -> None:
    project.command(DEVICE, "update_config", command_payload='{"a": 1}')
    project.settle(project.claim()["commands"])
    project.pass_time("1 minute")
    project.refuse("device_commands", "new.status = 'pending'", UNDEFINED_COLUMN)
    answer = project.hello(MAC)
    assert (answer["result"], answer["holds_lease"]) == ("known", True)
    assert "are not sent again: function their_rule() of the project" in answer["warnings"][0]


@TROUBLES
def test_history_that_is_refused_stops_no_mapping_no_registration_and_no_picture(
    project: Project, trouble: str, code: str
) -> None:
    project.refuse("device_history", "true", trouble, when="before insert")
    with project.signed_in() as connection:
        map_device(connection, WAITING, NORTH)
    assert project.one("select is_active from devices where device_id = %s", WAITING) == {"is_active": True}
    assert project.hello("n1")["result"] == "created"
    answer = project.image(MAC, captured_at=MORNING)
    assert project.settle_image(answer["image_id"], "failed", error=code)["result"] == "failed"


def test_an_event_whose_category_the_project_lacks_is_missing_and_stops_nothing(project: Project) -> None:
    project.run("alter type event_category rename value 'ProvisioningStep' to 'Other'")
    assert project.hello("n1")["result"] == "created"
    assert project.rows("select from device_history where event_type = 'self_registered'") == []
    project.run("alter table device_history alter column event_category drop not null")
    assert project.hello("n2")["result"] == "created"
    assert project.one("select event_category from device_history where event_type = 'self_registered'") == {
        "event_category": None
    }


def test_a_severity_that_is_an_enum_in_other_words_gets_ours(project: Project) -> None:
    answer = project.image(MAC, captured_at=MORNING)
    project.settle_image(answer["image_id"], "failed", error="lost")
    assert project.one("select severity from device_history where event_type = 'image_failed'") == {
        "severity": "warning"
    }


@TROUBLES
def test_a_picture_whose_completion_is_refused_is_not_complete_and_the_others_are(
    project: Project, trouble: str, code: str
) -> None:
    project.refuse("device_images", "new.image_name = 'a.jpg' and new.status = 'complete'", trouble)
    first, second = (project.image(MAC, image_name=name, captured_at=MORNING) for name in ("a.jpg", "b.jpg"))
    answers = project.settle_images(
        {"image_id": first["image_id"], "outcome": "complete"},
        {"image_id": second["image_id"], "outcome": "complete"},
    )
    assert [answer["result"] for answer in answers] == ["refused", "complete"]
    assert f"({code})" in answers[0]["error"]
    assert project.settle_image(first["image_id"], "failed", error="x")["result"] == "failed"


@TROUBLES
def test_a_picture_whose_row_is_refused_is_refused_alone_with_the_reason(
    project: Project, trouble: str, code: str
) -> None:
    project.refuse("device_images", "new.image_name = 'a.jpg'", trouble, when="before insert")
    answers = project.images(*({"topic_id": MAC, "image_name": name} for name in ("a.jpg", "b.jpg")))
    assert [answer["result"] for answer in answers] == ["refused", "receiving"]
    assert f"({code})" in answers[0]["error"]
    assert answers[0]["next_wake_at"]


def test_a_stale_picture_that_cannot_fail_stops_no_claim_and_no_other_picture(own_project: Project) -> None:
    for name in ("a.jpg", "b.jpg"):
        own_project.image(MAC, image_name=name, captured_at=MORNING)
    with own_project.connection.transaction():
        own_project.connection.execute("set local session_replication_role = replica")
        own_project.connection.execute(
            "update public.device_images set updated_at = now() - interval '2 hours'"
        )
    own_project.refuse("device_images", "new.image_name = 'a.jpg'", UNDEFINED_COLUMN)
    assert own_project.claim()["commands"]
    states = own_project.rows(
        "select image_name, status from device_images where image_name in ('a.jpg', 'b.jpg') order by 1"
    )
    assert [row["status"] for row in states] == ["receiving", "failed"]


def test_pictures_and_hellos_go_on_where_the_worker_may_not_write_to_devices(project: Project) -> None:
    project.run(
        "revoke update on devices from service_role; grant update (device_id) on devices to service_role"
    )
    answer = project.hello(MAC, battery_voltage=3.7)
    assert (answer["result"], answer["holds_lease"]) == ("known", True)
    assert "permission denied for table devices (42501)" in answer["warnings"][0]
    assert project.image(MAC, captured_at=MORNING)["result"] == "receiving"


def test_a_welcome_that_is_refused_stops_no_other_and_is_named(project: Project) -> None:
    with project.signed_in() as connection:
        map_device(connection, WAITING, NORTH)
    project.call(
        "fn_initialize_device_after_mapping", p_device_id=HALF_MAPPED, p_site_id=NORTH, p_program_id=PROGRAM
    )
    project.refuse("device_commands", f"new.device_id = '{WAITING}'", UNDEFINED_COLUMN, when="before insert")
    answers = {row["device_id"]: row for row in project.call("fn_queue_welcome_commands")}
    assert answers[str(HALF_MAPPED)]["command_id"]
    assert answers[str(WAITING)]["command_id"] is None
    assert "their_rule" in answers[str(WAITING)]["error"]
    project.run("drop trigger their_rule on device_commands")
    assert [row["device_id"] for row in project.call("fn_queue_welcome_commands")] == [str(WAITING)]


def test_welcomes_that_are_refused_each_time_leave_room_for_the_others(project: Project) -> None:
    devices = sorted(project.device(f"AA:00:00:00:00:{n:02}") for n in range(4))
    project.rows("update devices set welcome_due = device_id = any (%s) returning 1", devices)
    project.refuse("device_commands", f"new.device_id <> '{devices[-1]}'", "raise exception 'no'",
                   when="before insert")  # fmt: skip
    for _ in range(60):
        if any(row["command_id"] for row in project.call("fn_queue_welcome_commands", p_limit=2)):
            break
    assert project.rows("select device_id from devices where welcome_due order by device_id") == [
        {"device_id": device} for device in devices[:3]
    ]


def test_pictures_that_are_refused_each_time_leave_room_for_the_others(project: Project) -> None:
    project.run("alter table device_images disable trigger user")
    project.rows(
        "insert into device_images (device_id, image_name, captured_at, status, upload_path, updated_at)"
        " select %s, n || '.jpg', now(), 'receiving', n || '.jpg',"
        " now() - interval '1 day' + n * '1 s'::interval"
        " from generate_series(1, 121) n returning 1",
        DEVICE,
    )
    project.run("alter table device_images enable trigger user")
    project.refuse("device_images", "new.status = 'failed' and new.image_name <> '121.jpg'",
                   "raise exception 'no'")  # fmt: skip
    failed = "select image_name from device_images where status = 'failed' and upload_path like '%%.jpg'"
    for _ in range(30):
        project.claim()
        if project.rows(failed):
            break
    assert project.rows(failed) == [{"image_name": "121.jpg"}]


def test_a_backfill_that_the_project_refuses_says_why(project: Project) -> None:
    project.refuse("devices", f"new.device_id = '{HALF_MAPPED}'", UNDEFINED_COLUMN)
    answer = project.call(
        "fn_initialize_device_after_mapping", p_device_id=HALF_MAPPED, p_site_id=NORTH, p_program_id=PROGRAM
    )
    assert not answer["success"]
    assert "(42703)" in answer["error"]


# Types and columns


def test_a_time_of_capture_with_a_default_is_the_devices_or_none(project: Project) -> None:
    project.run(
        "alter table device_images alter column captured_at drop not null,"
        "  alter column captured_at set default now()"
    )
    project.hello(MAC, pending_names=["c.jpg"])
    assert project.one("select captured_at from device_images where image_name = 'c.jpg'") == {
        "captured_at": None
    }
    assert project.image(MAC, image_name="e.jpg")["captured_at"] is None
    answer = project.image(MAC, image_name="c.jpg", captured_at=MORNING)
    assert answer["captured_at"] == MORNING


def test_columns_of_other_types_take_what_they_can_hold(own_project: Project) -> None:
    own_project.run(
        "create domain short as varchar(5);"
        " alter table device_images alter column total_chunks type text,"
        "  alter column error_code type numeric(3, 1), drop column humidity,"
        "  alter column location type short, alter column max_chunk_size type bigint;"
        " alter table device_telemetry alter column pressure type integer using pressure::integer,"
        "  alter column program_id type text using program_id::text,"
        "  drop constraint device_telemetry_program_id_fkey"
    )
    answer = own_project.image(
        MAC, captured_at=MORNING, location="ward 42", max_chunk_size=128, error_code=7, pressure=1013.6
    )
    assert answer["warnings"] == []
    row = own_project.one("select * from device_images where image_id = %s", UUID(answer["image_id"]))
    assert (row["total_chunks"], row["error_code"], row["location"]) == ("3", 7, "ward ")
    reading = own_project.one("select pressure, program_id from device_telemetry")
    assert reading == {"pressure": 1014, "program_id": str(PROGRAM)}


def test_states_that_are_enums_are_written_and_read(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        create(connection)
        project = Project(connection)
        project.run(
            "drop view active_devices; alter table devices drop constraint devices_provisioning_status_check;"
            " create type device_state as enum ('pending_mapping', 'mapped', 'active');"
            " alter table devices alter column provisioning_status drop default,"
            "  alter column provisioning_status type device_state using provisioning_status::device_state,"
            "  alter column provisioning_status set default 'pending_mapping';"
            " alter table device_images drop constraint device_images_status_check;"
            " create type image_state as enum ('pending', 'complete', 'failed', 'archived');"
            " alter table device_images alter column status drop default,"
            "  alter column status type image_state using status::image_state,"
            "  alter column status set default 'pending'"
        )
        apply(connection)
        assert project.hello("n1", pending_names=["c.jpg"])["result"] == "created"
        answer = project.image("n1", image_name="c.jpg", captured_at=MORNING)
        assert project.settle_image(answer["image_id"], "failed", error="lost")["result"] == "failed"
        assert project.settle_image(answer["image_id"], "complete", sha256="1")["result"] == "complete"
        with project.signed_in() as person:
            map_device(person, WAITING, NORTH)
        with project.signed_in() as person:
            person.execute("delete from device_site_assignments where device_id = %s", (WAITING,))
        state = project.one("select provisioning_status from devices where device_id = %s", WAITING)
        assert state == {"provisioning_status": "inactive"}
        assert len(project.rows("select * from fn_find_devices_with_incomplete_lineage()")) == 2


def test_a_column_that_the_project_demands_refuses_new_rows_with_the_remedy(project: Project) -> None:
    project.run("alter table device_images add column camera text; update device_images set camera = 'old';"
                " alter table device_images alter column camera set not null")  # fmt: skip
    answer = project.image(MAC, captured_at=MORNING)
    assert answer["result"] == "refused"
    assert "column camera of device_images refuses it" in answer["error"]
    assert "give the column a default" in answer["error"]


def test_a_check_that_names_a_function_of_the_project_finds_it(project: Project) -> None:
    project.run(
        "create function is_sane(v numeric) returns boolean language sql immutable as $$ select v < 90 $$;"
        " create domain degrees as numeric check (is_sane(value));"
        " alter table device_telemetry alter column temperature type degrees,"
        "  add constraint sane check (is_sane(humidity))"
    )
    answer = project.image(MAC, captured_at=MORNING, temperature=95, humidity=95, pressure=1000)
    assert "device_telemetry does not take humidity: constraint sane" in answer["warnings"][0]
    assert "device_telemetry does not take temperature: constraint degrees_check" in answer["warnings"][0]
    row = project.one("select temperature, humidity, pressure from device_telemetry")
    assert (row["temperature"], row["humidity"], float(row["pressure"])) == (None, None, 1000)


def test_two_values_that_a_trigger_refuses_are_found_though_it_names_no_column(project: Project) -> None:
    project.refuse("device_telemetry", "new.humidity > 90 or new.pressure > 1100", "raise exception 'no'",
                   when="before insert")  # fmt: skip
    project.image(MAC, captured_at=MORNING, temperature=20, humidity=95, pressure=1200, gas_resistance=7)
    row = project.one("select temperature, humidity, pressure, gas_resistance, site_id from device_telemetry")
    assert (float(row["temperature"]), row["gas_resistance"], row["site_id"]) == (20, 7, NORTH)
    assert (row["humidity"], row["pressure"]) == (None, None)


def test_the_migrations_can_be_applied_to_it_again(project: Project) -> None:
    before = project.rows("select * from device_images order by image_id")
    apply(project.connection)
    assert project.rows("select * from device_images order by image_id") == before
    assert project.hello(MAC)["warnings"] == []


# Signed-in clients where people were granted the whole table

OPERATOR = UUID("e0000000-0000-4000-8000-0000000000a9")
_MAKE_OPERATOR = f"""
insert into auth.users (id, email) values ('{OPERATOR}', 'operator@example.test');
insert into company_members (company_id, user_id, role)
values ((select company_id from companies), '{OPERATOR}', 'operator');
update devices set company_id = (select company_id from companies) where device_id = '{DEVICE}';
alter function note_change() security definer set search_path = public;
"""
_WORKERS_COLUMNS = """
due_at, lease_worker, lease_until, attempt, redelivery_count, no_listener, response, in_queue, delivery_notice
"""
_WRITTEN = {
    "due_at": "'2099-01-01'",
    "lease_worker": "'me'",
    "lease_until": "'infinity'",
    "attempt": "7",
    "redelivery_count": "-100",
    "no_listener": "true",
    "response": "'{}'",
    "in_queue": "false",
    "delivery_notice": "'all is well'",
}


@pytest.fixture
def operated(project: Project) -> Project:
    """The project with an operator whom its own table of people does not know, and whose acts it audits."""
    project.run(_MAKE_OPERATOR)
    return project


def _workers_columns(project: Project, command: UUID) -> Row:
    return project.one(f"select {_WORKERS_COLUMNS} from device_commands where command_id = %s", command)


def test_an_operator_changes_nothing_that_the_worker_alone_writes(operated: Project) -> None:
    before = _workers_columns(operated, PENDING_COMMAND)
    written = ", ".join(f"{column} = {value}" for column, value in _WRITTEN.items())
    with operated.signed_in(OPERATOR) as person:
        query = f"update device_commands set notes = 'seen', {written} where command_id = %s"
        assert person.execute(query.encode(), (PENDING_COMMAND,)).rowcount == 1
    assert operated.row(PENDING_COMMAND)["notes"] == "seen"
    assert _workers_columns(operated, PENDING_COMMAND) == before
    assert PENDING_COMMAND in operated.claim_ids()


def test_an_operator_inserts_nothing_that_the_worker_alone_writes(operated: Project) -> None:
    values = ", ".join(_WRITTEN.values())
    with operated.signed_in(OPERATOR) as person:
        query = (
            f"insert into device_commands (device_id, command_type, {', '.join(_WRITTEN)})"
            f" values (%s, 'reboot', {values}) returning command_id, issued_at"
        )
        [(command, issued_at)] = person.execute(query.encode(), (DEVICE,)).fetchall()
    assert _workers_columns(operated, command) == {
        "due_at": issued_at,
        "lease_worker": None,
        "lease_until": None,
        "attempt": 0,
        "redelivery_count": 0,
        "no_listener": False,
        "response": None,
        "in_queue": True,
        "delivery_notice": None,
    }


def test_an_operator_still_cancels_and_tries_again(operated: Project) -> None:
    failed = operated.command(DEVICE)
    operated.change(failed, "status = 'failed', due_at = null")
    with operated.signed_in(OPERATOR) as person:
        query = "update device_commands set status = %s, due_at = 'infinity' where command_id = %s"
        person.execute(query, ("pending", failed))
        person.execute(query, ("cancelled", PENDING_COMMAND))
    claimed = operated.claim_ids()
    assert failed in claimed
    assert PENDING_COMMAND not in claimed


@pytest.mark.parametrize("user", [OPERATOR, ADMIN])
def test_who_queued_a_command_is_left_to_the_client(operated: Project, user: UUID) -> None:
    with operated.signed_in(user) as person:
        query = (
            "insert into device_commands (device_id, command_type, created_by_user_id)"
            " values (%s, 'reboot', %s) returning created_by_user_id"
        )
        for written in (None, ADMIN):
            assert person.execute(query, (DEVICE, written)).fetchone() == (written,)


def test_who_queued_a_command_may_be_a_text(own_project: Project) -> None:
    own_project.run(_MAKE_OPERATOR)
    own_project.run(
        "alter table device_commands drop constraint device_commands_created_by_user_id_fkey,"
        " alter column created_by_user_id type text"
    )
    assert own_project.row(own_project.command(DEVICE))["created_by_user_id"] is None
    named = own_project.command(DEVICE, created_by_user_id="the scheduler")
    assert own_project.row(named)["created_by_user_id"] == "the scheduler"
