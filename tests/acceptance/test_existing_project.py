"""On a project that has run the Node service for years: its own tables, triggers, types, users and old rows.

The stack's Postgres holds the project before the migrations come; then real processes, and simulated devices.
"""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psycopg
import pytest
from supabase import Client, create_client
from supabase.lib.client_options import SyncClientOptions

from mqtt_service.devstack.auth.routes import SEEDED_PASSWORD
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.device import DeviceOptions, SimulatedDevice
from tests.acceptance.conftest import Database
from tests.acceptance.processes import Worker, dev_stack, eventually, worker
from tests.acceptance.test_seed_tests import (  # noqa: F401 - they run here too, on this module's stack
    device,
    test_1_a_queued_command_is_sent_and_acknowledged,
    test_2_a_device_that_is_mapped_gets_one_welcome_command,
    test_3_a_command_for_an_inactive_device_fails_at_once_and_three_times,
    test_4_the_health_document,
)
from tests.integration.database.existing_project import (
    DEVICE,
    HALF_MAPPED,
    MAC,
    NORTH,
    PENDING_COMMAND,
    PROGRAM,
    WAITING,
    WAITING_MAC,
    create,
)
from tests.started import ROOT

# What the four tests find in the Node service's project: its device, and a site of this name.
SEED_MAC = "AA:BB:CC:DD:EE:FF"
SEED_TEST_ROWS = f"""
insert into public.sites (program_id, name, wake_schedule_cron)
values ('{PROGRAM}', 'Alder North', '0 8,16 * * *');
insert into public.devices
  (device_mac, device_code, site_id, program_id, company_id, provisioning_status, is_active)
select '{SEED_MAC}', 'DEVICE-ESP32S3-001', s.site_id, s.program_id, p.company_id, 'active', true
from public.sites s join public.pilot_programs p using (program_id) where s.name = 'Alder North';
"""
# The project's audit log, extended: whatever changes a row that is old.
NOTE_OLD_ROWS = """
create function public.note_old_row() returns trigger language plpgsql as $$
begin
  insert into audit_log (table_name, operation) values (tg_table_name, 'OLD ROW ' || tg_op);
  return null;
end
$$;
create trigger old_row after update or delete on public.device_commands
  for each row when (old.issued_at < now() - interval '1 day') execute function public.note_old_row();
create trigger old_row after update or delete on public.device_images
  for each row when (old.captured_at < now() - interval '50 days') execute function public.note_old_row();
create trigger old_row after update or delete on public.device_telemetry
  for each row when (old.captured_at < now() - interval '1 day') execute function public.note_old_row();
"""
LONG_AGO = "issued_at < now() - interval '1 day'"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The embedded stack on a data directory in which the project was before."""
    folder = tmp_path_factory.mktemp("existing")
    data = folder / "data"

    async def prepare() -> None:
        async with EmbeddedPostgres(data / "postgres") as postgres:
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                create(connection)
                for script in (SEED_TEST_ROWS, NOTE_OLD_ROWS):
                    connection.execute(script.encode())
                connection.execute("select public.fill_with_old_rows(1000)")

    asyncio.run(prepare())
    with dev_stack(folder, "--data-dir", str(data)) as env:
        yield env


@pytest.fixture
def running_worker(stack: dict[str, str], tmp_path: Path) -> Iterator[Worker]:
    """A worker in whose log, at the end, there is no error, and no write that the project has refused."""
    with worker(stack, tmp_path, RETRY_DELAY="1", POLL_INTERVAL="1") as started:
        yield started
        health = started.health()
        metrics = httpx.get(f"{started.url}/metrics").text
    said = started.process.output
    assert [line for line in said.splitlines() if "ERROR" in line or "Traceback" in line] == []
    assert "Not recorded" not in said
    assert health["refused"] == {"count": 0, "example": None}
    assert "mqtt_service_refused_writes_total" in metrics
    counts = [line for line in metrics.splitlines() if line.startswith("mqtt_service_refused_writes_total")]
    assert {float(line.rpartition(" ")[2]) for line in counts} == {0.0}


@pytest.fixture
def dashboard(stack: dict[str, str]) -> Iterator[Callable[[str], Client]]:
    """Signs a user of the project in, as its dashboard does."""
    with httpx.Client() as http:

        def sign_in(email: str) -> Client:
            options = SyncClientOptions(httpx_client=http)
            client = create_client(stack["SUPABASE_URL"], stack["SUPABASE_ANON_KEY"], options)
            client.auth.sign_in_with_password({"email": email, "password": SEEDED_PASSWORD})
            return client

        yield sign_in


@pytest.fixture
def admin(dashboard: Callable[[str], Client]) -> Client:
    return dashboard("owner@example.test")


@asynccontextmanager
async def awake(stack: dict[str, str], device_id: str, **options: Any) -> AsyncIterator[SimulatedDevice]:
    """A simulated device that is awake for the time of the block, and has nothing to complain of after it."""
    simulated = SimulatedDevice(
        DeviceOptions(device_id, **options), stack["MQTT_HOST"], int(stack["MQTT_PORT"]), rng=Random(1)
    )
    async with simulated:
        yield simulated
    assert simulated.complaints == []


async def found(database: Database, query: str, *parameters: object) -> dict[str, Any]:
    """The first row, as soon as there is one."""

    def look() -> dict[str, Any] | None:
        with database.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute(query.encode(), parameters).fetchone()

    return await asyncio.to_thread(eventually, look, query)


async def obeyed(simulated: SimulatedDevice, command_id: object) -> Mapping[str, Any]:
    """What the device was sent under this id, as soon as it was."""

    def sent(it: SimulatedDevice) -> list[Mapping[str, Any]]:
        return [each.fields for each in it.received if each.command_id == str(command_id)]

    await simulated.wait_for(lambda it: bool(sent(it)), 30)
    return sent(simulated)[0]


async def test_a_device_that_was_there_wakes_gets_what_waited_and_sends_its_picture(
    running_worker: Worker, stack: dict[str, str], database: Database
) -> None:
    async with awake(stack, MAC, camera=CameraOptions(picture_bytes=20_000)) as camera:
        assert camera.camera is not None
        await camera.wait_for(lambda it: bool(it.camera and it.camera.card.confirmed), 30)
        [picture] = camera.camera.card.confirmed
        row = await found(database, "select * from device_images where sha256 = %s", picture.sha256)
        captures = [each.command_id for each in camera.received if each.command_type == "capture_image"]
        next_wake = camera.next_wake
    assert captures == [str(PENDING_COMMAND)]
    assert next_wake is not None
    await found(database, "select from device_commands where command_id = %s and status = 'acknowledged'",
                PENDING_COMMAND)  # fmt: skip

    assert (row["device_id"], row["image_name"], row["status"]) == (DEVICE, picture.name, "complete")
    assert picture.captured_at is not None
    assert row["captured_at"] == picture.captured_at.replace(microsecond=0)
    assert (row["received_chunks"], row["total_chunks"], row["retry_count"]) == (20, 20, 0)
    # The columns that the project generates, from readings flat in metadata; and the same in telemetry.
    assert None not in (row["temperature"], row["humidity"])
    assert float(row["temperature"]) == row["metadata"]["temperature"]
    reading = await found(database, "select * from device_telemetry where image_id = %s", row["image_id"])
    assert (reading["temperature"], reading["humidity"]) == (row["temperature"], row["humidity"])
    assert (reading["captured_at"], reading["site_id"]) == (row["captured_at"], NORTH)

    key = stack["SUPABASE_SERVICE_ROLE_KEY"]
    assert row["image_url"].startswith(
        f"{stack['SUPABASE_URL']}/storage/v1/object/authenticated/device-images/"
    )
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    stored = await asyncio.to_thread(httpx.get, row["image_url"], headers=headers)
    assert stored.status_code == httpx.codes.OK
    assert hashlib.sha256(stored.content).hexdigest() == picture.sha256

    woken = await found(database, "select * from devices where device_id = %s", DEVICE)
    assert (woken["firmware_version"], woken["provisioning_status"]) == ("sim-1", "active")
    assert None not in (woken["battery_voltage"], woken["wifi_rssi"], woken["next_wake_at"])
    assert woken["last_seen_at"] == woken["last_wake_at"].replace(tzinfo=None)
    await found(database, "select from device_wake_sessions where device_id = %s", DEVICE)


async def test_a_device_that_nobody_knows_registers_itself(
    running_worker: Worker, stack: dict[str, str], database: Database
) -> None:
    async with awake(stack, "E0:00:00:00:00:99"):
        query = "select * from devices where device_mac = 'E0:00:00:00:00:99' and firmware_version = 'sim-1'"
        row = await found(database, query)
    assert (row["provisioning_status"], row["is_active"], row["site_id"]) == ("pending_mapping", False, None)
    event = await found(
        database, "select * from device_history where device_id = %s and event_type = 'self_registered'",
        row["device_id"],
    )  # fmt: skip
    assert (event["event_category"], event["severity"]) == ("ProvisioningStep", "info")


async def test_an_admin_maps_a_device_which_is_welcomed_commands_it_and_unmaps_it(
    running_worker: Worker, stack: dict[str, str], database: Database, admin: Client
) -> None:
    mapping = {"device_id": str(WAITING), "site_id": str(NORTH), "program_id": str(PROGRAM)}
    async with awake(stack, WAITING_MAC) as waiting:
        await asyncio.to_thread(admin.table("device_site_assignments").insert(mapping).execute)
        welcome = await found(database, "select * from device_commands where device_id = %s", WAITING)
        await obeyed(waiting, welcome["command_id"])
        ping = {"device_id": str(WAITING), "command_type": "ping", "status": "pending"}
        queued = await asyncio.to_thread(admin.table("device_commands").insert(ping).execute)
        assert isinstance(queued.data[0], dict)
        wire = await obeyed(waiting, queued.data[0]["command_id"])
    assert welcome["command_type"] == "set_wake_schedule"
    assert welcome["command_payload"]["site_name"] == "Existing North"
    assert wire["ping"] is True
    await found(database, "select where 2 = (select count(*) from device_commands"
                          " where device_id = %s and status = 'acknowledged')", WAITING)  # fmt: skip
    row = await found(database, "select * from devices where device_id = %s", WAITING)
    assert (row["provisioning_status"], row["is_active"], row["site_id"]) == ("active", True, NORTH)
    assert row["next_wake_at"] is not None

    update = admin.table("device_site_assignments").update({"is_active": False})
    await asyncio.to_thread(update.eq("device_id", str(WAITING)).execute)
    row = await found(database, "select * from devices where device_id = %s", WAITING)
    assert (row["is_active"], row["site_id"]) == (False, None)
    for event in ("Assignment", "Unassignment"):
        await found(database, "select from device_history where device_id = %s and event_category = %s"
                              " and user_id = 'e0000000-0000-4000-8000-0000000000a1'",
                    WAITING, event)  # fmt: skip


async def test_a_value_that_the_project_refuses_is_logged_once_and_counted_and_costs_nothing_else(
    stack: dict[str, str], database: Database, tmp_path: Path
) -> None:
    """In the words of docs/adoption.md."""
    hello = {
        "device_id": SEED_MAC,
        "status": "alive",
        "pendingImg": 0,
        "pending_list": [],
        "battery_voltage": 25,
    }
    with worker(stack, tmp_path) as started:
        async with awake(stack, SEED_MAC) as simulated:
            await simulated.wait_for(lambda it: it.wakes[-1].answered > 0, 30)
            for version in ("refused-1", "refused-2"):
                await simulated.publish("status", {**hello, "firmware_version": version})
                query = "select from devices where device_mac = %s and firmware_version = %s"
                await found(database, query, SEED_MAC, version)
        said = r"\[DATABASE\] Not recorded \(HELLO\): public\.devices does not take battery_voltage: .*"
        line = await asyncio.to_thread(started.process.says, said)
        metrics = (await asyncio.to_thread(httpx.get, f"{started.url}/metrics")).text
    assert "constraint volts_check on devices refuses it" in line
    assert "(23514)" in line
    assert started.process.output.count("Not recorded") == 1
    assert re.search(r'refused_writes_total\{kind="HELLO"\} 2\.0', metrics)


def test_a_project_that_was_there_gets_no_seed(database: Database) -> None:
    assert database.execute("select name from companies").fetchall() == [("Existing Farms",)]


def test_the_projects_own_policies_still_decide(
    stack: dict[str, str], dashboard: Callable[[str], Client]
) -> None:
    observer = dashboard("observer@example.test")
    seen = observer.table("devices").select("device_id").execute().data
    assert {"device_id": str(DEVICE)} in seen
    assert {"device_id": str(HALF_MAPPED)} not in seen
    assert observer.table("device_site_assignments").select("device_id").execute().data == []
    assert observer.table("device_commands").select("command_id").execute().data != []


def test_a_command_of_a_type_that_is_not_known_is_left_alone_and_named_once(
    running_worker: Worker, database: Database, admin: Client
) -> None:
    row = {"device_id": str(DEVICE), "command_type": "calibrate", "command_payload": {"offset": 4}}
    admin.table("device_commands").insert(row).execute()
    admin.table("device_commands").insert({**row, "command_type": "reboot", "command_payload": {}}).execute()
    running_worker.process.says(r"Sent reboot to DEVICE-ESP32S3-031")
    rows = database.execute(
        "select status, in_queue, attempt, delivered_at from device_commands where command_type = 'calibrate'"
    ).fetchall()
    assert rows == [("pending", False, 0, None)] * 2
    named = [line for line in running_worker.process.output.splitlines() if "calibrate" in line]
    assert len(named) == 1


def test_the_backfill_completes_a_device_that_was_mapped_before(
    running_worker: Worker, stack: dict[str, str], database: Database, directory: Path
) -> None:
    command = [sys.executable, str(ROOT / "scripts/backfill_device_lineage.py"), "--json"]
    finished = subprocess.run(
        command, env=stack, cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert [fixed["device_id"] for fixed in report["fixed"]] == [str(HALF_MAPPED)]
    row = database.execute(
        "select site_id, program_id, is_active, next_wake_at is null from devices where device_id = %s",
        (HALF_MAPPED,),
    ).fetchone()
    assert row == (NORTH, PROGRAM, True, False)
    running_worker.process.says(r"Sent set_wake_schedule to DEVICE-ESP32S3-032")


def test_no_row_of_long_ago_was_changed(running_worker: Worker, database: Database) -> None:
    changed = database.execute("select * from audit_log where operation like 'OLD ROW %'").fetchall()
    assert changed == []
    statuses = database.execute(
        f"select status, in_queue, count(*) > 100 from device_commands where {LONG_AGO} group by 1, 2"
    ).fetchall()
    assert {status for status, *_ in statuses} == {"pending", "sent", "acknowledged", "failed", "expired"}
    assert {in_queue for _, in_queue, _ in statuses} == {False}
