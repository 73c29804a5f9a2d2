"""Doctor against a whole stack: all is well, and each of eight things broken is named with its cure."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from mqtt_service.config import Settings
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.stack import Stack, running_stack
from mqtt_service.doctor.broker import inspect_session
from mqtt_service.doctor.broker_connection import connected
from mqtt_service.doctor.checkup import checkup
from mqtt_service.doctor.findings import CHECKS, Finding
from mqtt_service.doctor.run import examine
from mqtt_service.metrics import REGISTRY
from mqtt_service.migrations import read_migrations
from mqtt_service.part_options import mqtt_options
from tests.integration.worker.harness import Rows, eventually, rows, running_worker, settings
from tests.integration.worker.mosquitto import Mosquitto, free_port
from tests.integration.worker.test_mqtt_refusals import make_certificates, run_program

pytestmark = pytest.mark.asyncio(loop_scope="session")

# What a worker's rows look like; a look must leave them as they are.
_ROWS = """
select md5(string_agg(t::text, '|' order by t::text)) as hash from (
  select d::text as t from public.devices d union all select c::text from public.device_commands c
  union all select h::text from public.device_history h union all select o.name from storage.objects o
) everything
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack of these tests' own: they break it."""
    async with running_stack(data_dir=tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def database(stack: Stack) -> AsyncIterator[Rows]:
    async with rows(stack) as view:
        yield view


async def look(chosen: Settings, *, broker: bool = True) -> dict[str, Finding]:
    """Every finding by its name; one of each."""
    found = [finding async for finding in examine(chosen, broker=broker)]
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding for finding in found}


def dropped(reason: str) -> float:
    """How many messages the workers of this process did not use, for this reason."""
    return REGISTRY.get_sample_value("mqtt_service_dropped_messages_total", {"reason": reason}) or 0.0


def wrong(found: dict[str, Finding]) -> set[str]:
    """What is not well; whether a worker ran lately depends on the tests before."""
    return {name for name, finding in found.items() if finding.state in {"broken", "warning"}} - {"workers"}


def of_stack(stack: Stack, **changes: object) -> Settings:
    return settings(stack, port=0, **changes)


async def look_at_broker(chosen: Settings) -> dict[str, Finding]:
    async with checkup(chosen, mqtt_options(chosen), read_migrations()) as made:
        return {finding.name: finding async for finding in made.broker()}


@asynccontextmanager
async def broken(database: Rows, breaks: str, mends: str) -> AsyncIterator[None]:
    await database.all(breaks)
    try:
        yield
    finally:
        await database.all(mends)


async def test_all_is_well_and_nothing_is_changed(stack: Stack, database: Rows) -> None:
    await database.all("insert into public.devices (device_mac) values ('02:00:00:00:0D:0C')")
    async with running_worker(stack) as worker:
        before, malformed, probes = await database.one(_ROWS), dropped("malformed"), dropped("probe")
        found = await look(of_stack(stack))
        await eventually(lambda: dropped("probe") == probes + 6, "what doctor published, at the worker")
        assert dropped("malformed") == malformed
        assert await database.one(_ROWS) == before
        assert worker.link.connected
    assert list(found) == [name for name in CHECKS if name != "settings"]
    assert {finding.name: finding.seen for finding in found.values() if finding.state != "ok"} == {
        "migrations_check": "not looked at: set SUPABASE_DB_URL for it (with the extra database)"
    }
    assert "the event came" in found["row_events"].seen


async def test_the_session_that_was_tried_is_ended(stack: Stack) -> None:
    options = mqtt_options(of_stack(stack))
    assert [finding.state for finding in await inspect_session(options)] == ["ok"]
    again = replace(options, client_id=f"{options.client_id}-session", session_expiry=0)
    async with connected(again) as connection:
        assert not connection.ready.result().session_present


async def test_the_command_says_all_that_and_ends_with_status_0(stack: Stack, tmp_path: Path) -> None:
    environment = {**os.environ, **stack.env(), "PORT": "0"}
    command = [sys.executable, "-m", "mqtt_service", "doctor", "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    document = json.loads(done.stdout)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert list(found) == list(CHECKS)
    assert found["migrations_check"]["seen"].startswith("ALL IS IN PLACE")
    assert {finding["state"] for name, finding in found.items() if name != "workers"} == {"ok"}
    assert stack.keys.service_role_key.encode() not in done.stdout


async def test_a_key_of_another_project_is_named_and_the_rest_is_left_out(stack: Stack) -> None:
    foreign = JwtKeys.generate().service_role_key
    found = await look(of_stack(stack, SUPABASE_SECRET_KEY=foreign), broker=False)
    assert wrong(found) == {"key"}
    assert "refuses the key (401)" in found["key"].seen
    assert found["key"].cure.startswith("set SUPABASE_SECRET_KEY to a secret key of this project")
    assert found["schema"].seen == "not looked at: Key: key is broken"
    assert found["queue"].state == "skipped"


@pytest.mark.parametrize("kind", ["publishable_key", "anon_key"])
async def test_a_public_key_is_named_for_what_it_is(stack: Stack, kind: str) -> None:
    key = getattr(stack.keys, kind)
    found = await look(of_stack(stack, SUPABASE_SECRET_KEY=key), broker=False)
    assert wrong(found) == {"key"}
    assert f"is {'a publishable' if kind == 'publishable_key' else 'the anon'} key" in found["key"].seen
    assert "to a secret key" in found["key"].cure
    assert all(key not in finding.seen + finding.cure for finding in found.values())


@pytest.mark.parametrize("kind", ["secret_key", "service_role_key"])
async def test_both_kinds_of_secret_key_are_fine(stack: Stack, kind: str) -> None:
    chosen = of_stack(stack, SUPABASE_SECRET_KEY=getattr(stack.keys, kind))
    async with checkup(chosen, mqtt_options(chosen), read_migrations()) as made:
        found = {finding.name: finding async for finding in made.project()}
    assert not wrong(found)


async def test_a_function_that_is_missing_is_named_with_its_migration(stack: Stack, database: Rows) -> None:
    rename = "alter function public.{} rename to {}"
    name = "fn_record_replies"
    async with broken(database, rename.format(name, "gone"), rename.format("gone", name)):
        found = await look(of_stack(stack), broker=False)
    assert found["functions"].seen == "missing: fn_record_replies"
    assert "_mqtt_service_" in found["functions"].cure
    assert wrong(found) == {"functions"}


async def test_migrations_that_are_missing_are_named(stack: Stack, database: Rows) -> None:
    files = read_migrations()
    rename = "alter function public.{} rename to {}"
    async with broken(
        database, rename.format("fn_examine_project", "gone"), rename.format("gone", "fn_examine_project")
    ):
        found = await look(of_stack(stack), broker=False)
    assert found["schema"].seen == f"the database lacks the migrations up to {files[-1].file}"
    assert found["schema"].cure.startswith("apply them: mqtt-service migrations")
    assert found["ring"].seen == "not looked at: Database: schema is broken"
    assert found["pictures"].state == "ok"
    assert wrong(found) == {"schema"}


async def test_a_table_out_of_the_publication_is_named(stack: Stack, database: Rows) -> None:
    change = "alter publication supabase_realtime {} table public.devices"
    async with broken(database, change.format("drop"), change.format("add")):
        found = await look(of_stack(stack), broker=False)
    assert found["publication"].cure == ("run: alter publication supabase_realtime add table public.devices;")
    assert wrong(found) == {"publication", "row_events"}


async def test_what_is_switched_off_or_forbidden_in_the_database_is_named(
    stack: Stack, database: Rows
) -> None:
    trigger = "alter table public.device_commands {} trigger mqtt_ring_insert"
    right = "{} update on public.device_history {} service_role"
    async with (
        broken(database, trigger.format("disable"), trigger.format("enable")),
        broken(database, right.format("revoke", "from"), right.format("grant", "to")),
    ):
        found = await look(of_stack(stack), broker=False)
    assert found["triggers"].cure == (
        "run: alter table public.device_commands enable trigger mqtt_ring_insert;"
    )
    assert "public.device_history to service_role" in found["grants"].cure
    assert wrong(found) == {"triggers", "grants"}


async def test_a_broker_that_is_down_is_named(stack: Stack) -> None:
    port = free_port()
    found = await look_at_broker(of_stack(stack, mqtt_port=port))
    assert wrong(found) == {"broker_answers"}
    assert f"nothing listens on 127.0.0.1:{port}" in found["broker_answers"].seen
    assert found["broker_answers"].cure == "start the broker, check MQTT_PORT"


async def test_a_ca_that_did_not_sign_the_brokers_certificate_is_named(stack: Stack, tmp_path: Path) -> None:
    tls = make_certificates(tmp_path, "IP:127.0.0.1")
    other = tmp_path / "other"
    other.mkdir()
    make_certificates(other, "IP:127.0.0.1")
    async with Mosquitto(tmp_path, *tls) as broker:
        chosen = {"mqtt_port": broker.port, "mqtt_tls": True}
        found = await look_at_broker(of_stack(stack, **chosen, mqtt_ca_file=other / "ca.pem"))
        assert wrong(found) == {"certificate"}
        assert found["certificate"].cure.startswith("set MQTT_CA_FILE to the CA that signed it")
        right = await look_at_broker(of_stack(stack, **chosen, mqtt_ca_file=tmp_path / "ca.pem"))
    assert wrong(right) == {"certificate"}  # it works, and ends within 21 days
    assert right["certificate"].cure == "renew the broker's certificate"


async def test_rights_that_the_broker_does_not_give_are_named(stack: Stack, tmp_path: Path) -> None:
    """Mosquitto agrees to every subscription, and delivers nothing on what may not be read."""
    run_program("mosquitto_passwd", "-b -c passwords deaf right", tmp_path)
    run_program("mosquitto_passwd", "-b passwords mute right", tmp_path)
    (tmp_path / "acl").write_text(
        "user deaf\ntopic write device/#\ntopic write ESP32CAM/#\ntopic read ESP32CAM/+/ack\n"
        "user mute\ntopic read device/#\ntopic read ESP32CAM/#\ntopic write device/+/cmd\n"
    )
    files = [f"password_file {tmp_path}/passwords", f"acl_file {tmp_path}/acl"]
    async with Mosquitto(tmp_path, *files, anonymous=False) as broker:
        access = {"mqtt_port": broker.port, "mqtt_password": "right"}
        deaf = await look_at_broker(of_stack(stack, **access, mqtt_username="deaf"))
        mute = await look_at_broker(of_stack(stack, **access, mqtt_username="mute"))
        nobody = await look_at_broker(of_stack(stack, **access, mqtt_username="nobody"))
    assert wrong(deaf) == {"subscribe"}
    assert "device/<id>/ack, device/<id>/status" in deaf["subscribe"].seen
    assert deaf["subscribe"].cure.startswith("let MQTT_USERNAME read device/+/{ack,status,data}")
    assert wrong(mute) == {"publish"}
    assert mute["publish"].seen == (
        "the broker refuses messages on ESP32CAM/<id>/cmd, device/<id>/ack, ESP32CAM/<id>/ack"
    )
    assert mute["publish"].cure.startswith("let MQTT_USERNAME write device/+/cmd")
    assert wrong(nobody) == {"credentials"}
    assert nobody["credentials"].cure == "check MQTT_USERNAME and MQTT_PASSWORD"


async def test_a_second_worker_with_the_same_id_is_named(stack: Stack) -> None:
    chosen = of_stack(stack, mqtt_client_id="twice")
    async with running_worker(stack, mqtt_client_id="twice") as first:
        alone = await look(chosen, broker=False)
        async with running_worker(stack, mqtt_client_id="twice"):
            await asyncio.wait_for(first.link.taken_over.wait(), 20)
            both = await look(chosen, broker=False)
    assert alone["client_id"].state == "ok"
    assert wrong(both) == {"client_id"}
    assert "two workers used MQTT_CLIENT_ID twice" in both["client_id"].seen
    assert both["client_id"].cure.startswith("give each running copy a MQTT_CLIENT_ID of its own")
