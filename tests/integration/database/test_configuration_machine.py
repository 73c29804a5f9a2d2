"""Random orders of changes, wakes, sendings, answers and two workers: a device ends with what is desired."""

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.bench.drills import drill
from tests.integration.database.queue_calls import Queue, Row, emptied

WORKERS = st.sampled_from(["w1", "w2"])
CONFIGS = st.dictionaries(st.sampled_from("ab"), st.integers(1, 2), max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("desire"), CONFIGS),
        st.tuples(st.just("visit"), st.booleans()),
        st.tuples(st.just("wake"), WORKERS),
        st.tuples(st.just("send"), WORKERS),
        st.tuples(st.just("lose worker"), WORKERS),
        st.tuples(st.just("obey"), st.booleans()),
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("reject"), st.integers(0, 5)),
        st.tuples(st.just("expire"), st.none()),
    ),
    max_size=24,
)


class World:
    """One device, two workers, and messages that are on their way."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.device = queue.device("d1")
        self.claimed: dict[str, list[Row]] = {"w1": [], "w2": []}
        self.on_the_wire: list[Row] = []  # in the order of publishing
        self.obeyed: list[Row] = []  # and not answered yet
        self.known: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {}

    def desire(self, config: dict[str, Any]) -> None:
        self.queue.connection.execute("update devices set desired_config = %s", (json.dumps(config),))

    def wake(self, worker: str) -> None:
        self.queue.pass_time("1 h")
        before = self.row()
        rows = len(self.commands())
        self.queue.hello("d1", worker=worker)
        added = len(self.commands()) - rows
        assert added <= (1 if before["config_due"] else 0), "a message without a difference"
        other = "w2" if worker == "w1" else "w1"
        self.queue.hello("d1", worker=other)  # which hears the same HELLO
        assert len(self.commands()) == rows + added

    def visit(self, answers: bool) -> None:
        """A whole wake in which nothing goes wrong, but that the answers may be lost."""
        self.wake("w1")
        self.send("w1")
        while self.on_the_wire:
            self.obey(answers=answers)
        while self.obeyed:
            self.answer(0)

    def send(self, worker: str) -> None:
        """Claim, publish, settle; what the claim brings reaches the broker in this order."""
        commands = self.queue.claim(worker)["commands"]
        self.on_the_wire += commands
        self.queue.settle(commands, worker=worker)

    def lose_worker(self, worker: str) -> None:
        """A worker publishes and dies before it settles; its leases run out."""
        commands = self.queue.claim(worker)["commands"]
        self.on_the_wire += commands
        self.queue.lapse(*(UUID(command["command_id"]) for command in commands))

    def obey(self, answers: bool) -> None:
        """The device does what reached it next; its answer may be lost."""
        if self.on_the_wire:
            command = self.on_the_wire.pop(0)
            if command["command_id"] not in self.known:
                self.known[command["command_id"]] = command
                self.config |= command["command_payload"]
            if answers:
                self.obeyed.append(command)

    def answer(self, which: int) -> None:
        """An answer arrives, in whatever order."""
        if self.obeyed:
            command = self.obeyed.pop(which % len(self.obeyed))
            self.queue.acknowledge({"topic_id": "d1", "command_id": command["command_id"]})

    def reject(self, which: int) -> None:
        """The device refuses what reached it, and keeps what it has."""
        waiting = [one for one in self.on_the_wire if one["command_id"] not in self.known]
        if waiting:
            command = waiting[which % len(waiting)]
            self.on_the_wire.remove(command)
            answer = {"topic_id": "d1", "command_id": command["command_id"], "outcome": "rejected"}
            self.queue.acknowledge(answer)
            self.known[command["command_id"]] = command

    def expire(self, _: None) -> None:
        """What is open runs out of time."""
        self.queue.connection.execute(
            "update device_commands set expires_at = now() - interval '1 s'"
            " where status in ('pending', 'sent') and lease_until is null"
        )
        self.queue.claim(limit=0)

    def settle_down(self) -> None:
        """From here on nothing goes wrong, and nothing changes but for one more version."""
        self.desire({"a": 1, "b": 2, "last": True})
        for _ in range(6):
            while self.on_the_wire:
                self.obey(answers=True)
            while self.obeyed:
                self.answer(0)
            self.wake("w1")
            self.send("w1")

    def row(self) -> Row:
        return self.queue.rows("select * from devices")[0]

    def commands(self) -> list[Row]:
        return self.queue.rows("select * from device_commands")


@settings(
    max_examples=drill(15, 30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_a_device_ends_with_what_is_desired_whatever_happened_before(
    shared: psycopg.Connection, steps: list[tuple[str, Any]]
) -> None:
    world = World(Queue(emptied(shared)))
    for name, argument in steps:
        getattr(world, name.replace(" ", "_"))(argument)
    world.settle_down()
    row = world.row()
    desired = {"a": 1, "b": 2, "last": True}
    assert {key: world.config.get(key) for key in desired} == desired
    assert {key: row["reported_config"].get(key) for key in desired} == desired
    assert (row["config_due"], row["config_unconfirmed"]) == (False, [])
    assert row["reported_config_version"] == row["desired_config_version"]


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(emptied(shared))


def test_a_rejected_version_leaves_what_the_device_had(queue: Queue) -> None:
    world = World(queue)
    world.desire({"a": 1})
    for step in ("wake", "send"):
        getattr(world, step)("w1")
    world.obey(answers=True)
    world.answer(0)
    world.desire({"a": 2})
    for step in ("wake", "send"):
        getattr(world, step)("w1")
    world.reject(0)
    row = world.row()
    assert (row["reported_config"], row["config_due"], row["config_unconfirmed"]) == ({"a": 1}, False, [])
