"""Faults of our own code: each is seen, and none leaves a process that looks alive and does nothing.

What can be started again is, with backoff; else the process leaves with one clear line and status 1, for the
platform to start a fresh one. The workers of this file are real processes with an injury (bench/injured.py),
all at the same time.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mqtt_service.devstack.stack import Stack
from tests import started
from tests.faults.bench.drills import drill
from tests.faults.bench.fleet import Fleet
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench, running_bench

pytestmark = pytest.mark.asyncio(loop_scope="session")

LEAVING = r"\[SERVICE\] Exiting with status 1, so that the platform starts a new process: "
# How each one ends: what the log says first of the fault, and then of what the service does.
LEAVES = {
    "the_loop_blocks": (LEAVING, r"the event loop is blocked in .*injured\.py, line \d+"),
    "the_queue_hangs": (
        r"The command queue has made no progress for \d+ s",
        LEAVING + "the command queue has stalled",
    ),
    "a_task_raises": (r"Task exception was never retrieved", LEAVING + "a callback, task or thread failed"),
    "the_settling_raises": (r"ZeroDivisionError: a fault of ours", LEAVING + "the settling ended"),
    "a_callback_raises": (r"Exception in callback", LEAVING + "a callback, task or thread failed"),
    "a_thread_raises": (r"The thread some thread failed", LEAVING + "a callback, task or thread failed"),
    "a_part_keeps_failing": (r"The provisioning keeps failing", LEAVING + "the provisioning ended"),
}
RECOVERS = {
    "pahos_thread_raises": (r"paho's thread failed; connecting again", r"✅ Connected to"),
    "a_part_fails_twice": (
        r"The provisioning failed, next start in 1 s",
        r"The provisioning failed, next start in 2 s",
    ),
}
DEADLINE = drill(short=60.0, long=400.0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def injured(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, WorkerProcess]]:
    """A worker for each injury; they are started together, since each takes its time to fail."""
    directory = tmp_path_factory.mktemp("injured")
    async with running_bench(stack, directory) as bench:
        names = [*LEAVES, *RECOVERS, "the_log_blocks"]
        started = await asyncio.gather(*(start(bench, injury) for injury in names))
        workers = dict(zip(names, started, strict=True))
        try:
            async with bench.devices() as fleet:
                chatter = asyncio.create_task(speak(fleet))
                yield workers
                chatter.cancel()
        finally:
            for worker in workers.values():
                await worker.kill()


async def start(bench: Bench, injury: str) -> WorkerProcess:
    log_file = bench.directory / f"{injury}.log"
    main = "tests.faults.bench.injured:main"
    return WorkerProcess(
        started.start([injury], bench.env(injury, {}), bench.directory, log_file, main=main), injury, log_file
    )


async def speak(fleet: Fleet) -> None:
    """Say something every now and then that concerns nobody."""
    while True:
        fleet.say("device/nobody/ack", {"command_ack": "ok"})
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("injury", LEAVES)
async def test_a_fault_that_cannot_be_mended_ends_the_process(
    injured: dict[str, WorkerProcess], injury: str
) -> None:
    """Fails without, in this order, `LoopWatchdog` in watchdog.py, and in supervision.py
    `wait_until_stalled`, the two hooks of `wait_for_unhandled_error` (for tasks and callbacks, and for
    threads), and the limit of failures in `keep_running`.
    """
    worker = injured[injury]
    assert await worker.ended(DEADLINE) == 1, worker.output
    for line in LEAVES[injury]:
        assert worker.said(line), worker.output


async def test_a_log_that_takes_nothing_keeps_no_dead_process(injured: dict[str, WorkerProcess]) -> None:
    """Fails where `exit_now` writes to the log on the thread that ends the process."""
    worker = injured["the_log_blocks"]
    assert await worker.ended(DEADLINE) == 1, worker.output


@pytest.mark.parametrize("injury", RECOVERS)
async def test_a_part_that_fails_is_started_again(injured: dict[str, WorkerProcess], injury: str) -> None:
    """Fails without the `except` in `Client.loop_forever` (client.py), or in `keep_running`."""
    worker = injured[injury]
    fault, cure = RECOVERS[injury]
    await worker.says(fault, deadline=DEADLINE)
    await worker.says(cure, times=2 if "Connected" in cure else 1, deadline=DEADLINE)
    await worker.listens()
    document = await worker.health()
    assert ("provisioning" in document["failing"]) == (injury == "a_part_fails_twice"), document
    await worker.becomes("healthy" if injury == "pahos_thread_raises" else "degraded", DEADLINE)
    assert await worker.stop() < 10
