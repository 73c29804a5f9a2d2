"""What a claim costs beside rows that do not concern it.

Those are a million finished, as many changes, a hundred thousand for later, and as many schedules with a
thousand rollouts.

Databases of one server hold the same devices; each claim is timed in one after the other, and rolled
back, so that the next finds the same rows.
"""

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from mqtt_service.bench.report import Measure
from mqtt_service.devstack.migrations import apply_migrations
from mqtt_service.devstack.postgres import EmbeddedPostgres
from mqtt_service.migrations import supabase_folder

Connection = psycopg.AsyncConnection[tuple[object, ...]]

DEVICES = 200
DUE = 100
_MAX_RATIO = 1.1
# A claim of commands takes longer, and so does the sweep after it, than a claim of nothing.
_FEWER_WITH_COMMANDS = 5
# By itself, vacuum leaves dead index entries where they are few beside a large table: that would be measured.
_VACUUM = "vacuum (index_cleanup on) public.device_commands"

_DEVICES = """
insert into public.devices (device_mac, device_code, provisioning_status, is_active)
select '0A' || lpad(to_hex(n), 10, '0'), 'BENCH-' || n, 'active', true from generate_series(1, %s) n
"""
# Without triggers, which would take minutes for so many rows; the columns are as the triggers leave them.
# Narrow, so that no page has room for one row more: a claim that fills such gaps would be slow by our making.
_FINISHED = """
insert into public.device_commands (device_id, command_type, status, issued_at, delivered_at, acknowledged_at)
select d.device_id, 'reboot', (array['acknowledged', 'failed', 'expired', 'cancelled'])[1 + n %% 4],
       at, at, case when n %% 4 = 0 then at end
from (select n, now() - n * interval '5 seconds' as at from generate_series(1, %(rows)s) n) n
join (select device_id, row_number() over () - 1 as place, count(*) over () as of from public.devices) d
    on d.place = n %% d.of
"""
_LATER = """
insert into public.device_commands (device_id, command_type, scheduled_for, due_at)
select d.device_id, 'capture_image', at, at
from (
    select n, now() + interval '1 hour' + n * interval '10 seconds' as at from generate_series(1, %(rows)s) n
) n
join (select device_id, row_number() over () - 1 as place, count(*) over () as of from public.devices) d
    on d.place = n %% d.of
"""
# None of them is due: of the rollouts, some wait for their next minute, and some for their devices.
_FLEET = """
with company as (
    insert into public.companies (name) values ('bench') returning company_id
), schedules as (
    insert into public.command_schedules (company_id, name, target, command_type, cron, next_run_at)
    select company_id, 'bench', '{}', 'ping', '0 6 * * *',
        now() + interval '1 hour' + n * interval '1 second'
    from company, generate_series(1, %(rows)s) n
), rollouts as (
    insert into public.command_rollouts
        (company_id, name, target, command_type, all_released, next_release_at)
    select company_id, 'bench', '{}', 'ping', n %% 2 = 0,
        case when n %% 2 = 1 then now() + interval '1 hour' end
    from company, generate_series(1, %(rows)s / 100) n
    returning rollout_id
), counts as (
    insert into public.rollout_counts (rollout_id, sent) select rollout_id, 100 from rollouts
)
insert into public.rollout_devices (rollout_id, device_id, command_id, state)
select rollout_id, gen_random_uuid(), gen_random_uuid(), 'sent' from rollouts, generate_series(1, 100)
"""
# A change of a status each, as the triggers write them.
_CHANGES = """
insert into public.device_command_changes (command_id, device_id, at, from_status, to_status, changed_by, who)
select gen_random_uuid(), d.device_id, now() - n * interval '5 seconds', 'pending', 'sent', 'worker', 'bench'
from generate_series(1, %(rows)s) n
join (select device_id, row_number() over () - 1 as place, count(*) over () as of from public.devices) d
    on d.place = n %% d.of
"""
_DUE = """
insert into public.device_commands (device_id, command_type, due_at)
select device_id, 'capture_image', now() from public.devices order by device_code limit %s
"""
_NONE_DUE = "delete from public.device_commands where due_at <= now()"
_CLAIM = "select public.fn_claim_commands('bench', 200)"


async def measure_claims(directory: Path, finished: int, later: int, repeats: int) -> list[Measure]:
    """The median time of a claim beside such rows, over that of one without; of nothing, and of commands."""
    async with AsyncExitStack() as parts:
        postgres = await parts.enter_async_context(EmbeddedPostgres(directory / "claims"))
        databases = {
            "empty": await parts.enter_async_context(_database(postgres.url, "empty", "", 0)),
            f"{finished:,} finished": await parts.enter_async_context(
                _database(postgres.url, "finished", _FINISHED, finished)
            ),
            f"{finished:,} changes": await parts.enter_async_context(
                _database(postgres.url, "changes", _CHANGES, finished)
            ),
            f"{later:,} for later": await parts.enter_async_context(
                _database(postgres.url, "later", _LATER, later)
            ),
            f"{later:,} schedules, {later // 100:,} rollouts": await parts.enter_async_context(
                _database(postgres.url, "fleet", _FLEET, later)
            ),
        }
        busy = await _times(databases, max(repeats // _FEWER_WITH_COMMANDS, 1))
        for connection in databases.values():
            await connection.execute(_NONE_DUE)
        idle = await _times(databases, repeats)
        return [*_ratios(idle, "idle claim"), *_ratios(busy, f"claim of {DUE}")]


@asynccontextmanager
async def _database(server: str, name: str, filling: str, rows: int) -> AsyncIterator[Connection]:
    """A database of this server with our schema, devices, these rows, and commands that are due."""
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute(f"create database bench_{name}")
    url = make_conninfo(server, dbname=f"bench_{name}")
    await apply_migrations(url, supabase_folder() / "migrations")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute(_DEVICES, (DEVICES,))
        if rows:
            await connection.execute(filling, {"rows": rows})
        await connection.execute(_DUE, (DUE,))
        await connection.execute("reset session_replication_role")
        await connection.execute("vacuum (analyze)")
        yield connection


async def _times(databases: dict[str, Connection], repeats: int) -> dict[str, list[float]]:
    """Seconds of each claim; the databases take turns, so that whatever slows the machine slows them all."""
    times: dict[str, list[float]] = {name: [] for name in databases}
    for _ in range(repeats):
        for name, connection in databases.items():
            await connection.execute(_VACUUM)  # a claim that was rolled back leaves dead rows behind
            await _claim(connection)  # reads what the next one finds in memory
            times[name].append(await _claim(connection))
    return times


async def _claim(connection: Connection) -> float:
    async with connection.transaction(force_rollback=True):
        await connection.execute("set local role service_role")
        began = time.perf_counter()
        await connection.execute(_CLAIM)
        return time.perf_counter() - began


def _ratios(times: dict[str, list[float]], what: str) -> list[Measure]:
    (_, empty), *others = times.items()
    bare = statistics.median(empty)
    return [
        Measure(
            f"{what} beside {name} / beside none",
            [statistics.median(taken) / bare],
            "lower",
            _MAX_RATIO,
            {"ms": statistics.median(taken) * 1000, "alone_ms": bare * 1000},
        )
        for name, taken in others
    ]
