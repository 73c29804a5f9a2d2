"""Programs that run as long as we do."""

import asyncio
import sys
from pathlib import Path

from mqtt_service.devstack.child import Child

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""
WILLING = """
import signal
signal.signal(signal.SIGTERM, lambda *_: exit(7))
print("up", flush=True)
signal.pause()
"""


async def started(code: str, log_file: Path) -> Child:
    child = await Child.start([sys.executable, "-c", code], log_file=log_file)
    async with asyncio.timeout(10):
        while True:
            if "up" in child.log:
                return child
            await asyncio.sleep(0.01)  # the pause between two looks


async def test_its_exit_status_is_the_programs_own(tmp_path: Path) -> None:
    child = await Child.start([sys.executable, "-c", "exit(3)"], log_file=tmp_path / "log")
    assert await child.wait() == 3
    assert child.exit_status == 3
    await child.stop()


async def test_a_program_that_takes_its_leave_is_given_the_time(tmp_path: Path) -> None:
    child = await started(WILLING, tmp_path / "log")
    assert child.exit_status is None
    assert await child.stop() == 7


async def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = await started(STUBBORN, tmp_path / "log")
    await child.stop(seconds=0.2)
    assert child.exit_status is not None
    assert child.exit_status != 0


async def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    child = await started(WILLING, tmp_path / "log")
    assert [await child.stop(), await child.stop()] == [7, 7]
