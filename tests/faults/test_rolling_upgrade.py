"""An upgrade of the schema beneath a running worker: it goes on, and the next one finds all in place.

The worker that runs throughout is of this version, on the schema of the first release, as when the program is
deployed before the migrations are applied. The code of that release is not in this tree. What it calls,
parameter by parameter, is held against the newer schema in
tests/integration/database/test_old_workers_calls.py; and with MQTT_SERVICE_OLD_CODE set to a folder that
holds its `mqtt_service/`, the drill runs that.
"""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mqtt_service.devstack import stack as devstack
from mqtt_service.devstack.migrations import apply_migrations
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.devstack.stack import running_stack
from mqtt_service.migrations import supabase_folder
from tests.faults.bench.drills import drill, report
from tests.faults.bench.given_back import claimed_again, given_back
from tests.faults.bench.rig import Bench, running_bench
from tests.faults.test_rolling_deploy import load, under_way
from tests.integration.database.test_migrations import FIRST_SET
from tests.requirements import require
from tests.started import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="session")

MORE = drill(short=100, long=2000)
OLD_CODE = os.environ.get("MQTT_SERVICE_OLD_CODE", str(ROOT))


@pytest_asyncio.fixture(loop_scope="session")
async def older(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench whose database has the migrations of the first release, and no more."""
    require("mosquitto")
    folder = tmp_path / "released"
    (folder / "migrations").mkdir(parents=True)
    for file in FIRST_SET:
        shutil.copy(file, folder / "migrations")
    shutil.copy(str(supabase_folder() / "seed.sql"), folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devstack, "supabase_folder", lambda: folder)
        patched.setattr(devstack, "EmbeddedPostgres", EmbeddedPostgres)  # a new cluster, not a prepared one
        async with running_stack(data_dir=None) as stack, running_bench(stack, tmp_path) as bench:
            yield bench


async def test_migrations_are_applied_beneath_a_worker_and_the_next_takes_over(older: Bench) -> None:
    """Fails where a new function takes the place of an old one without a default for what is new."""
    bench = older
    async with bench.devices() as fleet, bench.worker("old", PYTHONPATH=OLD_CODE) as old, load(bench) as end:
        await under_way(fleet, MORE)
        applied = await apply_migrations(bench.stack.db_url, supabase_folder() / "migrations")
        assert len(applied) > 10
        await under_way(fleet, MORE)
        async with bench.worker("new") as new:
            await under_way(fleet, MORE)
            assert new.said("schema") == []
            took = await old.stop()
            await under_way(fleet, MORE)
            count = await end()
            assert (await new.health())["status"] == "healthy"
        assert fleet.repeats() <= given_back(old, new)
        report(commands=count, repeats=fleet.repeats(), stopped_in=f"{took:.1f} s")
    assert await bench.database.count("retry_count > 0") == 0
    assert await bench.database.count("attempt > 1") <= claimed_again(old, new)
