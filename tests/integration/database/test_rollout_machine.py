"""Random lives of a rollout, checked after each step against a model in Python.

Time is in half minutes that pass at once: the rollout's own times are moved back.
"""

from collections import Counter
from dataclasses import dataclass, field

import psycopg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.bench.drills import drill
from tests.integration.database.queue_calls import Queue, emptied
from tests.integration.database.test_rollouts import PLACES, progress, row_of, set_status, start
from tests.integration.database.test_schedules import devices

# What a command in a status may become here, and how its rollout counts it.
MOVES = {
    "pending": ("sent", "acknowledged", "rejected", "expired", "cancelled", "failed"),
    "sent": ("acknowledged", "rejected", "expired", "failed", "pending"),
    "expired": ("acknowledged",),
}
COUNTED = {"acknowledged": "succeeded", "rejected": "failed", "expired": "failed"}
FAILURES = ("failed", "cancelled")
MOST = 6


@dataclass
class Model:
    """What a rollout must look like; times in half minutes from its start."""

    total: int
    rate: int
    growth: int
    threshold: float
    minimum: int
    status: str = "running"
    now: int = 0
    minute: int | None = None  # the last one began then
    due: int | None = 0
    all_released: bool = False
    grown_at: int = 0
    commands: list[str] = field(default_factory=list)  # their statuses, in the order of release
    counts: Counter[str] = field(default_factory=Counter)  # as the last claim counted them
    before: Counter[str] = field(default_factory=Counter)  # … when it was resumed after it had stopped

    def count(self) -> bool:
        """Count as a claim does; returns whether something changed."""
        counts = Counter(COUNTED.get(status, status) for status in self.commands)
        changed = counts != self.counts
        self.counts = counts
        return changed

    def passes_threshold(self) -> bool:
        failures = sum(self.counts[name] - self.before[name] for name in FAILURES)
        ended = failures + self.counts["succeeded"] - self.before["succeeded"]
        return ended >= self.minimum and failures > self.threshold * ended

    def claim(self) -> None:
        changed = self.count()
        is_due = self.due is not None and self.now >= self.due
        if self.status != "running" or not (changed or is_due):
            return
        if self.passes_threshold():
            self.status, self.due = "stopped", None
        elif self.all_released:
            self.end_or_wait()
        else:
            self.grow()
            if is_due:
                self.release()

    def grow(self) -> None:
        while self.growth > 1 and self.rate < MOST and self.counts["succeeded"] - self.grown_at >= self.rate:
            self.grown_at += self.rate
            self.rate = min(self.rate * self.growth, MOST)

    def release(self) -> None:
        count = min(self.rate, self.total - len(self.commands))
        self.commands += ["pending"] * count
        self.counts["pending"] += count
        self.minute = self.now
        if count == self.rate:
            self.due = self.now + 2
        else:
            self.all_released = True
            self.end_or_wait()

    def end_or_wait(self) -> None:
        self.due = None
        if not self.counts["pending"] + self.counts["sent"]:
            self.status = "finished"

    def resume(self) -> None:
        if self.status == "stopped":
            self.before = self.counts.copy()
        self.status = "running"
        self.due = self.now if self.minute is None else max(self.now, self.minute + 2)

    def cancel(self) -> None:
        self.status, self.due = "cancelled", None
        self.commands = ["cancelled" if status == "pending" else status for status in self.commands]


class RolloutMachine(RuleBasedStateMachine):
    """One rollout, its devices' answers, and the people who pause and cancel it."""

    queue: Queue

    @initialize(
        total=st.sampled_from([20, 12, 16, 5]),
        rate=st.integers(1, 4),
        growth=st.integers(1, 3),
        threshold=st.sampled_from([0.0, 0.3, 1.0]),
        minimum=st.integers(1, 4),
    )
    def begin(self, total: int, rate: int, growth: int, threshold: float, minimum: int) -> None:
        emptied(self.queue.connection).execute(PLACES.encode())
        devices(self.queue, total)
        self.model = Model(total, rate, growth, threshold, minimum)
        self.rollout = start(
            self.queue, rate_per_minute=rate, growth_factor=growth, max_rate_per_minute=MOST,
            failure_threshold=threshold, failure_minimum=minimum,
        )  # fmt: skip

    @rule(rolled_back=st.booleans())
    def claim(self, rolled_back: bool) -> None:
        call = "select mqtt_private.fn_run_rollouts(clock_timestamp())"
        if rolled_back:
            with self.queue.connection.transaction(force_rollback=True):
                self.queue.connection.execute(call)
        else:
            self.queue.connection.execute(call)
            self.model.claim()

    @rule(halves=st.integers(1, 4))
    def time_passes(self, halves: int) -> None:
        self.queue.connection.execute(
            "update command_rollouts set minute_began_at = minute_began_at - %(by)s * interval '30 s',"
            " next_release_at = next_release_at - %(by)s * interval '30 s'",
            {"by": halves},
        )
        self.model.now += halves

    @rule(halves=st.integers(2, 3))
    def a_minute_passes(self, halves: int) -> None:
        self.time_passes(halves)
        self.claim(rolled_back=False)

    @precondition(lambda self: any(status in MOVES for status in self.model.commands))
    @rule(data=st.data())
    def some_commands_move(self, data: st.DataObject) -> None:
        movable = [n for n, status in enumerate(self.model.commands) if status in MOVES]
        for number in data.draw(st.lists(st.sampled_from(movable), min_size=1, max_size=6, unique=True)):
            self.move(number, data.draw(st.sampled_from(MOVES[self.model.commands[number]])))

    @precondition(lambda self: any(status in MOVES for status in self.model.commands))
    @rule()
    def all_succeed(self) -> None:
        for number, status in enumerate(self.model.commands):
            if status in MOVES:
                self.move(number, "acknowledged")

    def move(self, number: int, status: str) -> None:
        self.queue.connection.execute(
            "update device_commands set status = %s, due_at = case when %s = 'pending' then now() end"
            " where command_id = ("
            " select command_id from device_commands order by device_id offset %s limit 1)",
            (status, status, number),
        )
        self.model.commands[number] = status

    @precondition(lambda self: self.model.status == "running" and self.model.now % 4 == 1)
    @rule()
    def somebody_pauses_it(self) -> None:
        set_status(self.queue, self.rollout, "paused")
        self.model.status, self.model.due = "paused", None

    @precondition(lambda self: self.model.status in {"paused", "stopped"})
    @rule()
    def somebody_resumes_it(self) -> None:
        set_status(self.queue, self.rollout, "running")
        self.model.resume()

    @precondition(lambda self: self.model.status not in {"finished", "cancelled"} and self.model.now > 14)
    @rule()
    def somebody_cancels_it(self) -> None:
        set_status(self.queue, self.rollout, "cancelled")
        self.model.cancel()

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        model, row = self.model, progress(self.queue, self.rollout)
        assert row["status"] == model.status
        names = ("pending", "sent", "succeeded", "failed", "cancelled")
        assert {name: row[name] for name in names} == {name: model.counts[name] for name in names}
        assert row_of(self.queue, self.rollout)["current_rate"] == model.rate
        found = self.queue.rows("select device_id, status from device_commands order by device_id")
        assert [one["status"] for one in found] == model.commands


def test_a_rollout_lives_as_the_model_says(shared: psycopg.Connection) -> None:
    RolloutMachine.queue = Queue(shared)
    run_state_machine_as_test(
        RolloutMachine, settings=settings(max_examples=drill(15, 30), stateful_step_count=40, deadline=None)
    )
