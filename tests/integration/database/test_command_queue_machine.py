"""Claims, settlements, answers, people and time in random order, from several sessions, against a model.

After each step every row must say what `command_model` says, and each call must answer what the model does.
MQTT_SERVICE_LONG_DRILLS=1 runs longer ones, and more of them.

It fails when any of these is taken out of the migrations (each was tried): `c.attempt = r.attempt` in
fn_settle_commands, the fence; `busy` in fn_find_due_commands, so that two workers hold one device; the query
of fn_find_unseen_commands, so that a claim whose response was lost waits for its lease; `held` in
fn_find_due_commands, `bool_and` or the `skip locked` in fn_lease_commands; the look-up of the ref in
fn_acknowledge_once, or `duplicate_of` or `ours` in fn_find_duplicate_acknowledgement, so that an answer
counts twice; a final state in fn_command_may_become. The long run also finds that `c.lease_worker = p_worker`
in fn_settle_commands, the lease in fn_expire_commands, or `p_sent_at` in fn_find_duplicate_acknowledgement is
gone.
"""

import json
import os
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.database.command_model import DELAY, LEASE, TTL, Model
from tests.integration.database.queue_calls import Queue, emptied

LONG = os.environ.get("MQTT_SERVICE_LONG_DRILLS") == "1"
EXAMPLES, STEPS = (2000, 100) if LONG else (30, 50)

DEVICES = 2
WORKERS = 3
RETRIES = 3
FINAL = {"acknowledged", "rejected", "cancelled"}

_LATER = """
do $$
begin
  set local session_replication_role = replica; -- the guards would take this for somebody's change
  update public.device_commands
  set issued_at = issued_at - step, scheduled_for = scheduled_for - step, expires_at = expires_at - step,
      due_at = due_at - step, lease_until = lease_until - step, delivered_at = delivered_at - step,
      acknowledged_at = acknowledged_at - step, progress_at = progress_at - step,
      answer_due_at = answer_due_at - step
  from (select interval '{hours} h' as step) clock;
  update mqtt_private.acknowledgements set received_at = received_at - interval '{hours} h';
  update mqtt_private.replies set sent_at = sent_at - interval '{hours} h';
end
$$
"""
_ROWS = """
select command_id, status, retry_count, attempt, lease_worker, delivered_at is not null as delivered,
  acknowledged_at is not null as acknowledged,
  done_after_cancel_at is not null as done_after_cancel,
  extract(epoch from due_at - now())::float8 / 3600 as due,
  extract(epoch from answer_due_at - now())::float8 / 3600 as answer_due,
  extract(epoch from lease_until - now())::float8 / 3600 as lease
from public.device_commands
"""

devices = st.integers(0, DEVICES - 1)
slots = st.integers(0, WORKERS - 1)
picks = st.integers(0, 5)
outcomes = st.sampled_from(["sent", "sent", "failed", "released"])
rarely = st.sampled_from([False, False, False, True])
parts = st.sampled_from([slice(None), slice(None), slice(1), slice(1, None)])
limits = st.sampled_from([200, 200, 200, 2, 1, 0])
retry_limits = st.sampled_from([RETRIES, RETRIES, RETRIES, 1])


class Worker:
    """A worker's session, and what it believes to have in hand: a command's number, and its attempt."""

    def __init__(self, queue: Queue, slot: int) -> None:
        self.queue = queue
        self.slot = slot
        self.lives = 0
        self.held: dict[int, int] = {}

    @property
    def name(self) -> str:
        return f"w{self.slot}:{self.lives}"


class CommandQueue(RuleBasedStateMachine):
    """Each rule does one thing to the database and to the model; see `rows_are_as_the_model_says`."""

    def __init__(self, shared: psycopg.Connection, workers: list[Queue]) -> None:
        super().__init__()
        self.person = Queue(emptied(shared))
        self.model = Model(active=[True] * DEVICES)
        self.workers = [Worker(queue, slot) for slot, queue in enumerate(workers)]
        self.devices = [self.person.device(f"d{n}") for n in range(DEVICES)]
        self.commands: list[UUID] = []
        self.numbers: dict[str, int] = {}
        self.refs: list[tuple[str, dict[str, Any]]] = []
        self.reports: list[tuple[Worker, str, dict[int, int], str, bool]] = []
        self.seen: dict[int, tuple[str, int]] = {}

    def recent(self, pick: int) -> int:
        """The number of one of the newest commands: older ones are mostly done with."""
        return len(self.commands) - 1 - pick % len(self.commands)

    # People and time

    @initialize(pick=picks)
    def begin(self, pick: int) -> None:
        for device in range(DEVICES):
            self.queue_some(device, [0, pick % 2], 0.0, None)

    @rule(
        device=devices,
        priorities=st.lists(st.sampled_from([0, 0, 1]), min_size=1, max_size=3),
        wait=st.sampled_from([0.0, 0.0, 0.0, DELAY]),
        life=st.sampled_from([None, None, LEASE, 5.5]),
        patience=st.sampled_from([None, LEASE, LEASE, DELAY]),
        repeatable=st.booleans(),
    )
    def queue(
        self,
        device: int,
        priorities: list[int],
        wait: float,
        life: float | None,
        patience: float | None,
        repeatable: bool,
    ) -> None:
        self.queue_some(device, priorities, wait, life, patience, repeatable=repeatable)

    def queue_some(
        self,
        device: int,
        priorities: list[int],
        wait: float,
        life: float | None,
        patience: float | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        query = """
            insert into public.device_commands
              (device_id, command_type, priority, scheduled_for, expires_at, execution_timeout)
            values (%s, %s, %s, nullif(now() + make_interval(secs => %s * 3600), now()),
                    now() + make_interval(secs => %s * 3600), make_interval(secs => %s * 3600))
            returning command_id"""
        kind = "update_config" if repeatable else "reboot"
        for priority in priorities:
            [row] = self.person.rows(query, self.devices[device], kind, priority, wait, life, patience)
            number = self.model.queue(device, priority, wait, life, patience, repeatable=repeatable)
            self.commands.append(row["command_id"])
            self.numbers[str(row["command_id"])] = number

    @rule(pick=picks, what=st.sampled_from(["cancel", "try again", "map", "unmap"]))
    def a_person_interferes(self, pick: int, what: str) -> None:
        row = self.model.rows[self.recent(pick)]
        if what == "cancel" and row.status != "cancelled":  # writing the same word moves nothing
            assert self.moves(row.number, "cancelled") == self.model.cancel(row.number)
        elif what == "try again" and row.status != "pending":
            # The delivery on wake of what was sent, and not answered, makes the same move.
            assert self.moves(row.number, "pending") == self.model.retry(row.number)
        elif what in {"map", "unmap"}:
            self.model.active[row.device] = what == "map"
            self.person.rows(
                "update public.devices set is_active = %s where device_id = %s returning device_id",
                what == "map", self.devices[row.device],
            )  # fmt: skip

    def moves(self, number: int, status: str) -> bool:
        """Whether the table lets the command become this."""
        try:
            with self.person.connection.transaction():
                self.person.change(self.commands[number], f"status = '{status}'")
        except psycopg.errors.CheckViolation:
            return False
        return True

    @rule(hours=st.sampled_from([1, 1, 2, 2, 3, 21]))
    def time_passes(self, hours: int) -> None:
        self.person.connection.execute(_LATER.format(hours=hours).encode())
        self.model.now += hours

    # Workers

    @rule(slot=slots, limit=limits, max_retries=retry_limits, lost=rarely)
    def claim(self, slot: int, limit: int, max_retries: int, lost: bool) -> None:
        self.claim_without(slot, limit, max_retries, lost=lost)

    def claim_without(
        self,
        slot: int,
        limit: int,
        max_retries: int,
        *,
        lost: bool = False,
        locked: frozenset[int] = frozenset(),
    ) -> None:
        """Claim while another transaction holds the `locked` rows; a lost answer is not noted."""
        worker = self.workers[slot]
        answer = worker.queue.claim(
            worker.name, limit, p_lease_seconds=LEASE * 3600, p_max_retries=max_retries,
            p_retry_delay_seconds=DELAY * 3600, p_command_ttl_seconds=TTL * 3600,
            p_held=[self.commands[number] for number in worker.held],
        )  # fmt: skip
        expected = self.model.claim(worker.name, limit, worker.held, max_retries=max_retries, locked=locked)
        taken = [(self.numbers[row["command_id"]], row["attempt"]) for row in answer["commands"]]
        assert taken == expected.commands
        assert {self.numbers[row["command_id"]] for row in answer["failed"]} == expected.failed
        assert {self.numbers[row["command_id"]] for row in answer["expired"]} == expected.expired
        assert answer["more"] == expected.more
        if not lost:
            worker.held.update(taken)

    @precondition(lambda self: self.busy)
    @rule(pick=picks, part=parts, outcome=outcomes, again=st.booleans())
    def settle(self, pick: int, part: slice, outcome: str, again: bool) -> None:
        """Report some of what a worker holds."""
        worker = self.busy[pick % len(self.busy)]
        chosen = dict(list(worker.held.items())[part])
        self.reports.append((worker, worker.name, chosen, outcome, again))
        self.check_settled(worker, chosen, outcome, again, self.report(worker, chosen, outcome, again))
        for number in chosen:
            del worker.held[number]

    def settle_again(self, pick: int) -> None:
        worker, name, chosen, outcome, again = self.reports[-1 - pick % len(self.reports)]
        if worker.name == name:
            self.check_settled(worker, chosen, outcome, again, self.report(worker, chosen, outcome, again))

    def report(self, worker: Worker, chosen: dict[int, int], outcome: str, again: bool) -> list[Any]:
        results = [
            {
                "command_id": str(self.commands[n]),
                "attempt": a,
                "outcome": outcome,
                "error": "x",
                "retry": again,
            }
            for n, a in chosen.items()
        ]
        answer: list[Any] = worker.queue.call(
            "fn_settle_commands", p_worker=worker.name, p_results=json.dumps(results),
            p_max_retries=RETRIES, p_retry_delay_seconds=DELAY * 3600,
        )  # fmt: skip
        return answer

    def check_settled(
        self, worker: Worker, chosen: dict[int, int], outcome: str, again: bool, answer: list[Any]
    ) -> None:
        expected = [
            self.model.settle(worker.name, n, a, outcome, again=again, max_retries=RETRIES)
            for n, a in chosen.items()
        ]
        assert [row["result"] for row in answer] == expected
        for number, row in zip(chosen, answer, strict=True):
            model = self.model.rows[number]
            assert (row["status"], row["retry_count"]) == (model.status, model.retries)
            assert row["final"] == (model.status not in {"pending", "sent"} and model.due is None)

    @precondition(lambda self: self.busy)
    @rule(pick=picks, dies=rarely)
    def die(self, pick: int, dies: bool) -> None:
        """Kill a worker; its successor knows nothing, and has another name."""
        if dies:
            worker = self.busy[pick % len(self.busy)]
            worker.lives += 1
            worker.held.clear()

    @property
    def busy(self) -> list[Worker]:
        """The workers that have something in hand, or believe so."""
        return [worker for worker in self.workers if worker.held]

    # Devices

    @rule(
        hearers=st.permutations(range(WORKERS)),
        count=st.integers(1, WORKERS),
        pick=picks,
        named=st.booleans(),
        misled=rarely,
        outcome=st.sampled_from(["success", "success", "failed", "rejected", "in_progress", "in_progress"]),
    )
    def answer(
        self, hearers: list[int], count: int, pick: int, named: bool, misled: bool, outcome: str
    ) -> None:
        """Some workers bring an answer, with its command's id or without, each under a ref of its own."""
        row = self.model.rows[self.recent(pick)]
        number = row.number if named else None
        device = (row.device + misled) % DEVICES
        command_id = None if number is None else str(self.commands[number])
        for slot in hearers[:count]:
            ack = {"ref": f"r{len(self.refs)}", "topic_root": "device", "topic_id": f"d{device}",
                   "outcome": outcome, "command_id": command_id,
                   "response": {"it": outcome, "id": command_id}}  # fmt: skip
            self.refs.append((self.workers[slot].name, ack))
            self.bring(slot, ack, number)

    @rule(slot=slots, device=devices, twice=rarely)
    def say(self, slot: int, device: int, twice: bool) -> None:
        """A worker tells a device something that has no row."""
        reply = {"reply_id": str(uuid4()), "device_id": str(self.devices[device]), "reply_type": "reboot"}
        worker = self.workers[slot]
        noted = [
            worker.queue.call("fn_record_replies", p_worker=worker.name, p_replies=json.dumps([reply]))
            for _ in range(1 + twice)
        ]
        self.model.say(device)
        assert noted == [{"recorded": 1}, {"recorded": 0}][: 1 + twice]

    def answer_again(self, pick: int) -> None:
        name, ack = self.refs[-1 - pick % len(self.refs)]
        for slot, worker in enumerate(self.workers):
            if worker.name == name:
                self.bring(slot, ack, self.numbers.get(ack["command_id"]))

    @precondition(lambda self: self.refs or self.reports)
    @rule(pick=picks, report=st.booleans())
    def a_call_is_made_again(self, pick: int, report: bool) -> None:
        """Its response was lost, so the same worker sends the same again, perhaps much later."""
        if report and self.reports:
            self.settle_again(pick)
        elif self.refs:
            self.answer_again(pick)

    def bring(self, slot: int, ack: dict[str, Any], number: int | None) -> None:
        self.model.moment += 1
        worker = self.workers[slot]
        [told] = worker.queue.call(
            "fn_acknowledge_commands", p_acks=json.dumps([ack]), p_worker=worker.name,
            p_max_retries=RETRIES, p_retry_delay_seconds=DELAY * 3600,
        )  # fmt: skip
        expected = self.model.acknowledge(
            worker.name, ack["ref"], int(ack["topic_id"][1:]), ack["outcome"],
            number=number, words=str(ack["response"]), max_retries=RETRIES,
        )  # fmt: skip
        assert {"result": told["result"], "number": self.numbers.get(told.get("command_id"))} == expected

    # Two at once: what holds a row keeps others from it, and nobody waits

    @rule(slot=slots, limit=limits, pick=picks, commits=st.booleans())
    def claim_while_a_person_cancels(self, slot: int, limit: int, pick: int, commits: bool) -> None:
        number = self.recent(pick)
        connection = self.person.connection
        connection.execute("begin")
        allowed = self.moves(number, "cancelled")
        self.claim_without(slot, limit, RETRIES, locked=frozenset({number} if allowed else ()))
        connection.execute("commit" if commits else "rollback")
        if commits and allowed:
            self.model.cancel(number)

    @precondition(lambda self: self.busy)
    @rule(slot=slots, pick=picks, limit=limits, outcome=outcomes)
    def claim_while_another_settles(self, slot: int, pick: int, limit: int, outcome: str) -> None:
        settling = self.busy[pick % len(self.busy)]
        if settling is self.workers[slot]:
            return
        ours = {n: a for n, a in settling.held.items() if self.model.may_settle(settling.name, n, a)}
        settling.queue.connection.execute("begin")
        answer = self.report(settling, ours, outcome, again=True)
        self.claim_without(slot, limit, RETRIES, locked=frozenset(ours))
        settling.queue.connection.execute("commit")
        self.check_settled(settling, ours, outcome, True, answer)
        for number in ours:
            del settling.held[number]

    # What must hold after every step

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        self.model.moment += 1
        for row in self.person.rows(_ROWS):
            model = self.model.rows[self.numbers[str(row["command_id"])]]
            assert (row["status"], row["retry_count"], row["attempt"], row["lease_worker"]) == (
                model.status, model.retries, model.attempt, model.worker
            )  # fmt: skip
            assert (row["delivered"], row["acknowledged"]) == (model.delivered is not None, model.answered)
            assert row["done_after_cancel"] == model.done_after_cancel
            assert self.hour(row["due"]) == model.due
            assert self.hour(row["answer_due"]) == model.answer_due
            assert self.hour(row["lease"]) == model.lease
            self.check_history(model.number, row["status"], row["attempt"])

    def hour(self, hours_from_now: float | None) -> float | None:
        """On the model's clock, to the half hour."""
        return None if hours_from_now is None else self.model.now + round(hours_from_now * 2) / 2

    def check_history(self, number: int, status: str, attempt: int) -> None:
        """A final state is final, whatever the model thinks, and attempts only grow."""
        was, attempts = self.seen.get(number, ("pending", 0))
        assert was not in FINAL or status == was
        assert was != "expired" or status in {"expired", "acknowledged"}
        assert attempts <= attempt <= attempts + 1
        self.seen[number] = (status, attempt)

    @invariant()
    def a_device_is_with_one_worker(self) -> None:
        assert not self.person.rows(
            "select device_id from public.device_commands where lease_until > now()"
            " group by device_id having count(distinct lease_worker) > 1"
        )

    def teardown(self) -> None:
        """End what a failed step has left open."""
        for queue in (self.person, *(worker.queue for worker in self.workers)):
            queue.connection.rollback()


def test_any_order_of_steps_ends_as_the_model_says(shared: psycopg.Connection) -> None:
    """See the head of this file for what to take out."""
    with ExitStack() as sessions:
        workers = [sessions.enter_context(Queue(shared).another()) for _ in range(WORKERS)]
        for worker in workers:
            worker.connection.execute("set lock_timeout = '5 s'")  # a claim that waits would wait for us
        run_state_machine_as_test(
            lambda: CommandQueue(shared, workers),  # type: ignore[arg-type]  # any factory will do
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
