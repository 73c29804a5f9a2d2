"""Doctor against a whole stack: all is well, and each of eight things broken is named with its cure."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from mqtt_service.config import Settings
from mqtt_service.devstack.stack import Stack, running_stack
from mqtt_service.doctor.command import examine
from mqtt_service.doctor.findings import CHECKS, Finding
from mqtt_service.migrations import read_migrations
from tests.integration.worker.harness import Rows, eventually, rows, running_worker, settings
from tests.integration.worker.mosquitto import Mosquitto, free_port
from tests.integration.worker.test_mqtt_refusals import make_certificates

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


def wrong(found: dict[str, Finding]) -> set[str]:
    return {name for name, finding in found.items() if finding.state in {"broken", "warning"}}


def of_stack(stack: Stack, **changes: object) -> Settings:
    return settings(stack, port=0, **changes)


async def test_all_is_well_and_nothing_is_changed(stack: Stack, database: Rows) -> None:
    await database.all("insert into public.devices (device_mac) values ('02:00:00:00:0D:0C')")
    async with running_worker(stack) as worker:
        before = await database.one(_ROWS)
        found = await look(of_stack(stack))
        assert await database.one(_ROWS) == before
        assert worker.link.connected
    assert list(found) == [name for name in CHECKS if name != "settings"]
    assert {finding.name: finding.seen for finding in found.values() if finding.state != "ok"} == {
        "migrations_check": "not looked at: set SUPABASE_DB_URL for it (with the extra database)"
    }
    assert "the event came" in found["row_events"].seen
