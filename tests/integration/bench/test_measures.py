"""The benchmark's parts on sizes that say nothing: each gives its ratios, and calls are counted.

No time is asserted: what a figure is depends on the machine. How often the API is asked does not.
"""

import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mqtt_service.bench.costs import measure_costs
from mqtt_service.bench.cpu import measure_cpu
from mqtt_service.bench.endurance import measure_endurance
from mqtt_service.bench.far import measure_far
from mqtt_service.bench.peers import measure_peers
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig, running_rig
from mqtt_service.bench.scale import measure_scale
from tests.requirements import require

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMMANDS = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    require("mosquitto")
    async with running_rig(tmp_path_factory.mktemp("rig"), devices=10) as running:
        yield running


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    assert all(measure.ratio >= 0 and math.isfinite(measure.ratio) for measure in measures)
    return {measure.name: measure for measure in measures}


async def test_the_cpu_of_the_worker_and_of_bare_paho_is_measured_for_each_exchange(rig: Rig) -> None:
    measures = by_name(await measure_cpu(rig, COMMANDS, pictures=2, chunks=5, rounds=1))
    assert list(measures) == [
        "CPU a dispatched command / bare paho", "CPU a full cycle / bare paho", "CPU a chunk / bare paho",
    ]  # fmt: skip
    assert all(measure.figures["paho_us"] > 0 for measure in measures.values())
    assert await rig.all("select from public.device_commands") == []


async def test_an_idle_worker_asks_once_a_poll_and_a_busy_one_for_many_commands_at_once(rig: Rig) -> None:
    poll, window = 0.3, 1.8
    found = await measure_costs(rig, window, COMMANDS, pictures=2, chunks=5, poll_interval=poll)
    measures = by_name(found)
    # One more, since both ends of the window may see one.
    assert measures["requests an idle hour, from the window"].figures["calls_seen"] <= window / poll + 1
    assert measures["requests a command under load"].ratio <= 0.5
    assert measures["requests a picture under load"].ratio <= 10
    assert measures["kB from Supabase a command under load"].ratio > 0
    assert measures["kB from Supabase a picture under load"].figures["kB_to_supabase"] > 5
    assert measures["memory of the idle worker, MB"].ratio > 1


async def test_a_worker_whose_api_is_far_away_publishes_all(rig: Rig) -> None:
    measures = by_name(await measure_far(rig, COMMANDS, samples=2))
    assert measures["dispatch, API 40 ms away / beside it"].figures["commands_per_s"] > 0


async def test_each_peer_asks_more_often_for_a_command_than_the_worker(rig: Rig) -> None:
    measures = by_name(await measure_peers(rig, COMMANDS, samples=3, poll_interval=0.3))
    assert len(measures) == 6
    queue, polling = (
        measures[f"requests a command / {peer}"] for peer in ("procrastinate", "polling service")
    )
    assert queue.figures["requests"] <= 0.5
    assert queue.figures["peer_requests"] >= 2  # one to fetch the job, one to finish it
    assert polling.figures["peer_requests"] >= 1 + 1 / 50  # an update a row, a poll for each 50 rows


async def test_more_workers_and_more_devices_are_held_against_the_fewest(rig: Rig) -> None:
    measures = by_name(await measure_scale(rig, COMMANDS, workers=(2,), devices=(5, 20)))
    assert [measure.name for measure in measures.values() if measure.ratio == 1] == [
        "cycle with 2 worker(s) / with 2", "cycle with 5 devices / with 5",
    ]  # fmt: skip
    assert await rig.value("select count(*) from public.devices where device_code like 'BENCH-%%'") == 20


async def test_what_many_commands_leave_is_removed_as_a_worker_removes_it(rig: Rig) -> None:
    found = by_name(await measure_endurance(rig, COMMANDS, rounds=2))
    assert list(found) == [
        "endurance: memory after the last round / half way", "endurance: rows after the last round / before",
        "endurance: tables after the last round / half way", "endurance: rate of the last round / the first",
    ]  # fmt: skip
    assert found["endurance: rows after the last round / before"].reached
    assert await rig.all("select from mqtt_private.acknowledgements") == []
