"""Doctor against a whole stack: all is well and stays as it is, and what is broken is named with its cure.

What an owner meets first, as processes: tests/acceptance/test_first_evening.py.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from mqtt_service.config import Settings
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
from tests.integration.worker.mosquitto import Mosquitto
from tests.integration.worker.test_mqtt_refusals import run_program

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
