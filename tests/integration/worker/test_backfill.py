"""The backfill as an operator runs it, interrupted and refused.

On more devices than the API shows at once: tests/acceptance/test_first_evening.py.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mqtt_service.devstack.faults import RestFault
from mqtt_service.devstack.stack import Stack, running_stack
from tests.integration.worker.harness import COMPANY, PROGRAM, SITE, Rows, eventually, rows
from tests.started import run, start

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

SCRIPT = Path(__file__).parents[3] / "scripts" / "backfill_device_lineage.py"
COMMAND = ("backfill", "--json")
OTHER_COMPANY = "b0000000-0000-4000-8000-000000000001"
OTHER_PROGRAM = "b0000000-0000-4000-8000-000000000011"
AT_ONCE = 8
FIXABLE = {"MAPPED": 120, "WELCOMED": 30, "RUNNING": 10}
UNFIXABLE = {"FOREIGN": 10, "UNMAPPED": 10}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    """A stack of its own: a worker of another test would welcome these devices."""
    async with running_stack(data_dir=None) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def database(stack: Stack) -> AsyncIterator[Rows]:
    async with rows(stack) as view:
        await view.all("delete from public.devices where device_code like 'OLD-%%'")
        yield view


async def add_old_devices(database: Rows, kind: str, count: int) -> None:
    """Devices as they stood before there were triggers: only their assignments say where they are.

    MAPPED: assigned, never made active. WELCOMED: so too, but was given its schedule. RUNNING: active, with
    no next wake. FOREIGN: another company's. CONTRADICTORY: assigned to a program that is not the site's.
    UNMAPPED: assigned nowhere.
    """
    active = kind == "RUNNING"
    await database.all("set session_replication_role = replica")
    await database.all(
        """
        insert into public.devices
            (device_mac, device_code, provisioning_status, is_active, company_id, program_id, site_id)
        select upper(substr(md5(%s || n), 1, 12)), format('OLD-%%s-%%s', %s::text, n), %s, %s, %s, %s, %s
        from generate_series(1, %s) n
        """,
        kind, kind, "active" if active else "pending_mapping", active,
        COMPANY if active else OTHER_COMPANY if kind == "FOREIGN" else None,
        PROGRAM if active else None, SITE if active else None, count,
    )  # fmt: skip
    if kind != "UNMAPPED":
        await database.all(
            """
            insert into public.device_site_assignments (device_id, site_id, program_id, assigned_at)
            select device_id, %s, %s, now() - interval '30 days'
            from public.devices where device_code like %s
            """,
            SITE, OTHER_PROGRAM if kind == "CONTRADICTORY" else PROGRAM, f"OLD-{kind}-%",
        )  # fmt: skip
    if kind == "WELCOMED":
        await database.all(
            """
            insert into public.device_commands (device_id, command_type, command_payload, status, issued_at)
            select device_id, 'set_wake_schedule', '{"wake_schedule_cron": "0 8 * * *"}', 'acknowledged',
                now() - interval '29 days'
            from public.devices where device_code like 'OLD-WELCOMED-%%'
            """
        )
    await database.all("set session_replication_role = origin")


Outcome = tuple[int, dict[str, Any]]


async def run_script(stack: Stack, directory: Path, *options: str) -> Outcome:
    """Exit status and report of the script."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, "--json", *options,
        cwd=directory,
        env={"PATH": os.environ.get("PATH", os.defpath), **stack.env()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output)


async def run_backfill(stack: Stack, directory: Path, **settings: str) -> Outcome:
    """The same of `mqtt-service backfill`, which the script runs."""
    finished = await asyncio.to_thread(run, COMMAND, {**stack.env(), **settings}, directory, timeout=120)
    return finished.returncode, json.loads(finished.stdout)


async def queue_welcomes(database: Rows) -> None:
    """What a worker does all the time."""
    while (await database.one("select public.fn_queue_welcome_commands() as queued"))["queued"]:
        pass


async def count_active(database: Rows) -> int:
    """How many of the devices are complete: active, somewhere, with a next wake."""
    row = await database.one(
        """
        select count(*) as n from public.devices
        where device_code like 'OLD-%%' and is_active and provisioning_status = 'active' and site_id = %s
            and program_id = %s and company_id = %s and next_wake_at > now()
        """,
        SITE, PROGRAM, COMPANY,
    )  # fmt: skip
    count: int = row["n"]
    return count


async def schedules_given(database: Rows) -> dict[str, set[int]]:
    """For each kind of device, the numbers of set_wake_schedule commands that its devices have."""
    counted = await database.all(
        """
        select split_part(d.device_code, '-', 2) as kind, count(c.command_id) as n
        from public.devices d left join public.device_commands c
            on c.device_id = d.device_id and c.command_type = 'set_wake_schedule'
        where d.device_code like 'OLD-%%' group by d.device_id
        """
    )
    return {row["kind"]: {other["n"] for other in counted if other["kind"] == row["kind"]} for row in counted}


async def test_an_interrupted_backfill_goes_on_where_it_was_and_welcomes_nobody_twice(
    stack: Stack, database: Rows, tmp_path: Path
) -> None:
    for kind, count in {**FIXABLE, **UNFIXABLE}.items():
        await add_old_devices(database, kind, count)
    fixable = sum(FIXABLE.values())
    assert await count_active(database) == 0

    status, report = await run_script(stack, tmp_path, "--dry-run")
    assert (status, report["fixable"], report["remaining_fixable"]) == (0, fixable, fixable)
    assert report["fixed"] == []
    assert await count_active(database) == 0

    printed = tmp_path / "printed"
    first = start(COMMAND, stack.env(), tmp_path, printed, errors=tmp_path / "said")

    async def well_under_way() -> bool:
        return await count_active(database) >= 20

    await eventually(well_under_way, "20 completed devices", 60)
    first.send_signal(signal.SIGINT)
    status = await asyncio.to_thread(first.wait, 120)
    report = json.loads(printed.read_text())
    assert (status, report["remaining"]) == (130, None)
    done = await count_active(database)
    assert len(report["fixed"]) <= done < fixable
    await queue_welcomes(database)

    status, report = await run_backfill(stack, tmp_path)
    assert (status, report["error"], report["remaining_fixable"], report["failed"]) == (0, None, 0, [])
    # The database may have completed some more, whose answers nobody waited for.
    assert fixable - done - AT_ONCE <= len(report["fixed"]) <= fixable - done
    assert await count_active(database) == fixable
    skipped = {item["device_code"]: item["reason"] for item in report["skipped"]}
    assert len([code for code in skipped if code.startswith("OLD-")]) == sum(UNFIXABLE.values())
    assert skipped["OLD-UNMAPPED-1"] == "it is assigned to no site: map it to one"
    assert "company" in skipped["OLD-FOREIGN-1"]
    await queue_welcomes(database)

    once = {"MAPPED": {1}, "WELCOMED": {1}, "RUNNING": {0}, "FOREIGN": {0}, "UNMAPPED": {0}}
    assert await schedules_given(database) == once
    status, report = await run_backfill(stack, tmp_path)
    assert (status, report["fixed"]) == (0, [])
    await queue_welcomes(database)
    assert await schedules_given(database) == once


async def test_a_device_that_the_database_refuses_fails_with_its_reason(
    stack: Stack, database: Rows, tmp_path: Path
) -> None:
    await add_old_devices(database, "CONTRADICTORY", 1)
    await add_old_devices(database, "MAPPED", 2)
    status, report = await run_backfill(stack, tmp_path)
    assert status == 1
    assert sorted(item["device_code"] for item in report["fixed"]) == ["OLD-MAPPED-1", "OLD-MAPPED-2"]
    (failed,) = report["failed"]
    assert failed["device_code"] == "OLD-CONTRADICTORY-1"
    assert "belongs to another program" in failed["reason"]
    assert report["remaining_fixable"] == 1


async def test_a_busy_project_and_a_lost_response_cost_time_and_nothing_else(
    stack: Stack, database: Rows, tmp_path: Path
) -> None:
    await add_old_devices(database, "MAPPED", 20)
    call = "rpc/fn_initialize_device_after_mapping"
    stack.faults.add_rest(RestFault(match=call, kind="status", times=2))
    stack.faults.add_rest(RestFault(match=call, kind="lose_response", times=2))
    status, report = await run_backfill(stack, tmp_path)
    await queue_welcomes(database)
    assert (status, len(report["fixed"])) == (0, 20)
    assert await schedules_given(database) == {"MAPPED": {1}}


async def test_a_wrong_key_is_a_wrong_configuration(stack: Stack, tmp_path: Path) -> None:
    status, report = await run_backfill(stack, tmp_path, SUPABASE_SECRET_KEY="sb_secret_wrong")
    assert status == 2
    assert "SUPABASE_SECRET_KEY" in report["error"]
