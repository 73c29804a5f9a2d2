"""A worker with a fault in its code: `python -m tests.faults.bench.injured <injury>` in place of the worker.

Each injury takes effect once the worker has been at work for a moment.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import mqtt_service.service
from mqtt_service import supervision, watchdog
from mqtt_service.adapters.supabase.commands import Settlement
from mqtt_service.config import load_settings
from mqtt_service.devices.provisioning import Provisioner
from mqtt_service.queue import settling
from mqtt_service.queue.command_queue import CommandQueueProcessor
from mqtt_service.worker_process import run_worker
from tests.faults.bench.drills import LONG

_POLLS_BEFORE = 4


def fail(*_: object, **__: object) -> Any:
    """Stand in for anything."""
    raise ZeroDivisionError("a fault of ours")


def at_some_poll(injure: Callable[[CommandQueueProcessor], None]) -> None:
    """Have this done by the command queue, between two polls, once."""
    poll, polls = CommandQueueProcessor._poll, iter(range(1_000_000))

    async def injured_poll(queue: CommandQueueProcessor) -> float:
        if next(polls) == _POLLS_BEFORE:
            injure(queue)
        return await poll(queue)

    CommandQueueProcessor._poll = injured_poll  # type: ignore[method-assign, assignment]


def the_loop_blocks() -> None:
    """The event loop's thread waits for something that never comes."""
    at_some_poll(lambda _: time.sleep(3600))


def the_log_blocks() -> None:
    """As above, inside the log, whose lock nobody gets any more."""

    def stick(_: CommandQueueProcessor) -> None:
        for handler in logging.getLogger().handlers:
            handler.emit = lambda _: time.sleep(3600)  # type: ignore[method-assign, assignment]
        logging.getLogger("mqtt_service").info("never written")

    at_some_poll(stick)


def the_queue_hangs() -> None:
    """The loop turns, and the queue waits for ever."""

    def hang(queue: CommandQueueProcessor) -> None:
        queue._gateway.claim = lambda **_: asyncio.Event().wait()  # type: ignore[method-assign, assignment]

    at_some_poll(hang)


def a_task_raises() -> None:
    """A task that nobody awaits, in the worker's own code."""

    def injure(queue: CommandQueueProcessor) -> None:
        nobody: Any = None
        asyncio.get_running_loop().create_task(queue.wait_until_sent_is_recorded(nobody))

    at_some_poll(injure)


def the_settling_raises() -> None:
    """What follows the writing of a command's outcome."""
    settling._log_outcome = fail
    at_some_poll(lambda queue: queue._settler.settle(Settlement(uuid4(), 1, "released", "none")))


def a_callback_raises() -> None:
    """What follows the handling of a message from a device, for a message that nobody knows."""

    def injure(queue: CommandQueueProcessor) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(queue._sender._receiver._finish, loop.create_future())  # type: ignore[attr-defined]

    at_some_poll(injure)


def a_thread_raises() -> None:
    """Some thread."""
    at_some_poll(lambda _: threading.Thread(target=fail, name="some thread").start())


def pahos_thread_raises() -> None:
    """The MQTT client's own thread, at the next message, over the connection that is there."""

    def injure(queue: CommandQueueProcessor) -> None:
        queue._sender._connection._client._packet_read = fail  # type: ignore[attr-defined]  # behind the protocols

    at_some_poll(injure)


def a_part_fails_twice() -> None:
    """Provisioning, which then works."""
    run, starts = Provisioner.run, iter(range(1_000_000))

    async def injured_run(self: Provisioner) -> None:
        if next(starts) < 2:
            fail()
        await run(self)

    Provisioner.run = injured_run  # type: ignore[method-assign]


def a_part_keeps_failing() -> None:
    """Provisioning, always."""
    Provisioner.run = fail  # type: ignore[method-assign]


def main() -> int:
    """Run the worker with the injury that the first argument names."""
    globals()[sys.argv[1]]()
    if not LONG:
        watchdog._MAX_MISSED_CHECKS = 3
        supervision._MAX_FAILURES = 3
        mqtt_service.service._STALLED_AFTER = 0.5
    return run_worker(load_settings())


if __name__ == "__main__":
    raise SystemExit(main())
