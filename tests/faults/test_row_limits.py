"""An API returns so many rows and no more: what it cuts off must not stay leased, unseen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LIMIT = 7
_SIGNATURE = "text, int, double precision, int, double precision, double precision, uuid[], double precision"
# The worker's claim as it would be if it came as rows: the API stops after so many of them.
_CUT = f"""
alter function public.fn_claim_commands({_SIGNATURE}) rename to fn_claim_all_commands;
create function public.fn_claim_commands(
  p_worker text, p_limit int, p_lease_seconds double precision, p_max_retries int,
  p_retry_delay_seconds double precision, p_command_ttl_seconds double precision, p_held uuid[],
  p_standby_seconds double precision) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_claim constant jsonb := public.fn_claim_all_commands(
    p_worker, p_limit, p_lease_seconds, p_max_retries, p_retry_delay_seconds, p_command_ttl_seconds, p_held,
    p_standby_seconds);
begin
  return jsonb_set(v_claim, '{{commands}}', coalesce((
    select jsonb_agg(command order by place)
    from jsonb_array_elements(v_claim -> 'commands') with ordinality as c (command, place)
    where place <= {_LIMIT}), '[]'));
end
$$;
grant execute on function public.fn_claim_commands({_SIGNATURE}) to service_role;
notify pgrst, 'reload schema';
"""
_WHOLE = f"""
drop function public.fn_claim_commands({_SIGNATURE});
alter function public.fn_claim_all_commands({_SIGNATURE}) rename to fn_claim_commands;
notify pgrst, 'reload schema';
"""


@asynccontextmanager
async def _cut_claims(bench: Bench) -> AsyncIterator[None]:
    await bench.database.all(_CUT)
    try:
        yield
    finally:
        await bench.database.all(_WHOLE)


async def test_commands_that_a_cut_answer_hid_come_with_the_next_claim_and_not_after_their_lease(
    bench: Bench,
) -> None:
    """Take out what a claim hands out again (answer '{}' in fn_find_unseen_commands)."""
    ids = [row["device_id"] for row in await bench.database.add_active_devices(5)]
    async with _cut_claims(bench), bench.devices() as fleet:
        await bench.database.queue_each(ids, 8)
        async with bench.worker(LEASE_DURATION="300", POLL_INTERVAL="0.2") as worker:

            async def acknowledged() -> bool:
                return await bench.database.statuses() == {"acknowledged": 40}

            await eventually(acknowledged, "all 40, seven at a time", 30)
            assert worker.said(rf"Processing {_LIMIT} pending command\(s\)")
    assert await bench.database.count("attempt <> 1 or lease_worker is not null") == 0
    assert fleet.repeats() == 0
    assert all(numbers == list(range(1, 9)) for numbers in fleet.numbers().values())


async def test_every_call_of_the_worker_is_answered_in_one_row(bench: Bench) -> None:
    """Take out the single jsonb of any fn_: declare it `returns setof …`.

    But for the one that the backfill reads in pages, in the order of a key, and the one that people ask.
    """
    found = await bench.database.all(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace and proretset"
        " and has_function_privilege('service_role', oid, 'execute') and proname like 'fn\\_%%'"
    )
    assert {row["proname"] for row in found} == {
        "fn_find_devices_with_incomplete_lineage",
        "fn_command_numbers",
    }
