"""Several workers and devices at once, on connections of their own.

Each test fails when its mechanism is taken out of the migrations: `busy` in fn_find_due_commands (first),
the advisory lock in fn_claim_commands (second), fn_lock_devices in fn_settle_commands or in
fn_find_and_lock_devices (third).
"""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, emptied

DEVICES = 100
COMMANDS = 1000


@pytest.fixture
def sessions(shared: psycopg.Connection) -> Iterator[Callable[[int], list[Queue]]]:
    """Makes that many queues, each on a connection of its own."""
    queue = Queue(emptied(shared))
    with ExitStack() as stack:
        yield lambda count: [stack.enter_context(queue.another()) for _ in range(count)]


def backlog(queue: Queue) -> None:
    for number in range(DEVICES):
        queue.device(f"cam-{number}")
    queue.connection.execute(
        "insert into device_commands (device_id, command_type)"
        " select device_id, 'reboot' from generate_series(1, %s), devices",
        (COMMANDS // DEVICES,),
    )


class Wire:
    """What was published, in order, and which devices each worker has in hand."""

    def __init__(self) -> None:
        self.published: list[Row] = []
        self.clashes: list[str] = []
        self._in_hand: dict[str, list[set[str]]] = {}
        self._lock = threading.Lock()

    def take(self, worker: str, commands: list[Row]) -> None:
        """Publish; a device that another worker has in hand is a clash."""
        devices = {command["device_id"] for command in commands}
        with self._lock:
            for other, batches in self._in_hand.items():
                if other != worker and devices & set().union(*batches):
                    self.clashes.append(f"{worker} took a device that {other} had")
            self._in_hand.setdefault(worker, []).append(devices)
            self.published += commands

    def let_go(self, worker: str) -> None:
        """The oldest batch of this worker is done."""
        with self._lock:
            self._in_hand[worker].pop(0)


def test_four_workers_empty_a_backlog_without_sharing_a_device_or_a_command(
    sessions: Callable[[int], list[Queue]],
) -> None:
    workers = sessions(4)
    backlog(workers[0])
    wire = Wire()

    def work(number: int) -> None:
        name = f"w{number}"
        dice = random.Random(number)
        in_hand: list[Row] = []
        while in_hand or len(wire.published) < COMMANDS:
            # The next batch is claimed while the last one is still being published.
            held = [command["command_id"] for command in in_hand]
            commands = workers[number].claim(name, limit=dice.choice([1, 7, 60]), p_held=held)["commands"]
            if commands:
                wire.take(name, commands)
            if in_hand:
                # Let go first: as soon as the database knows, another worker may claim the device.
                wire.let_go(name)
                workers[number].settle(in_hand, worker=name)
            in_hand = commands

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, n) for n in range(4)]:
            future.result(timeout=50)

    assert wire.clashes == []
    assert len({command["command_id"] for command in wire.published}) == len(wire.published) == COMMANDS
    for device in workers[0].rows("select device_id::text from devices"):
        issued = workers[0].rows(
            "select command_id::text from device_commands where device_id = %s"
            " order by issued_at, issue_number",
            device["device_id"],
        )
        published = [c["command_id"] for c in wire.published if c["device_id"] == device["device_id"]]
        assert published == [row["command_id"] for row in issued]
    assert workers[0].rows("select status, count(*) from device_commands group by 1") == [
        {"status": "sent", "count": COMMANDS}
    ]


def test_two_claims_at_once_never_hold_one_device(sessions: Callable[[int], list[Queue]]) -> None:
    first, second = sessions(2)
    backlog(first)
    barrier = threading.Barrier(2)

    def claim(queue: Queue, worker: str) -> set[str]:
        barrier.wait(timeout=10)
        return {command["device_id"] for command in queue.claim(worker, limit=60)["commands"]}

    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            futures = [pool.submit(claim, first, "w1"), pool.submit(claim, second, "w2")]
            held = [future.result(timeout=20) for future in futures]
            assert held[0]
            assert held[1]
            assert not held[0] & held[1]
            first.connection.execute(
                "update device_commands set lease_until = null, lease_worker = null, due_at = issued_at"
            )


def test_settling_and_answering_in_any_order_at_once_ends_in_no_deadlock(
    sessions: Callable[[int], list[Queue]],
) -> None:
    queues = sessions(4)
    backlog(queues[0])
    commands = queues[0].claim(limit=COMMANDS)["commands"]
    barrier = threading.Barrier(4)

    def shuffled(seed: int) -> list[Row]:
        return random.Random(seed).sample(commands, len(commands))

    def settle(queue: Queue, seed: int) -> None:
        barrier.wait(timeout=10)
        part = shuffled(seed)
        for start in range(0, COMMANDS, 200):
            queue.settle(part[start : start + 200])

    def answer(queue: Queue, seed: int) -> None:
        barrier.wait(timeout=10)
        part = [{"topic_id": c["device_mac"], "command_id": c["command_id"]} for c in shuffled(seed)]
        for start in range(0, COMMANDS, 200):
            queue.acknowledge(*part[start : start + 200])

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(settle, queues[n], n) for n in (0, 1)]
        futures += [pool.submit(answer, queues[n], n) for n in (2, 3)]
        for future in futures:
            future.result(timeout=50)
    assert queues[0].rows("select status, count(*) from device_commands group by 1") == [
        {"status": "acknowledged", "count": COMMANDS}
    ]
