"""Any two moves on one command at once, from two sessions: as if one had come after the other.

The first session makes its move and keeps its transaction open; the second begins meanwhile; the first
commits, or takes it back. Row and answers must then be those of one of the two orders, one after the other.
A claim alone may do less: what another holds it leaves to the next claim, and it never waits for a row.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from itertools import product

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, copied, emptied

HOUR = 3600.0
LEASE, DELAY = 3 * HOUR, HOUR

_BLOCKED = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"

Answer = object
Move = Callable[[Queue, str], Answer]


@pytest.fixture(scope="module")
def shared(server_url: str, migrated_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, migrated_template) as connection:
        Queue(emptied(connection)).device("d1")
        yield connection


# How a command can stand, and what w1, a device and a person may do then


def begin(queue: Queue, state: str) -> None:
    """One command of one device, in this state; w1 had its attempt 1, if anybody had one."""
    queue.connection.execute("delete from device_commands; delete from mqtt_private.acknowledgements")
    queue.connection.execute("update devices set is_active = true where not is_active")
    command = queue.command(queue.rows("select device_id from devices")[0]["device_id"])
    if state not in {"waiting", "overdue", "unmapped"}:
        claimed = queue.claim("w1", p_lease_seconds=LEASE)["commands"]
    if state == "lapsed":
        queue.lapse(command)
    elif state in {"sent", "sent and overdue"}:
        queue.settle(claimed)
    elif state in {"failed", "failed and due"}:
        queue.settle(claimed, "failed", delay=DELAY if state == "failed" else 0)
    elif state == "unmapped":
        queue.connection.execute("update devices set is_active = false")
    if "overdue" in state:
        queue.change(command, "expires_at = now() - interval '1 s'")


STATES = (
    "waiting",
    "leased",
    "lapsed",
    "sent",
    "failed",
    "failed and due",
    "overdue",
    "sent and overdue",
    "unmapped",
)


def the_command(queue: Queue) -> str:
    return str(queue.rows("select command_id from device_commands")[0]["command_id"])


def claim(queue: Queue, worker: str) -> Answer:
    """Claims, expires what is overdue, tries again what has failed, rescues what a dead worker had."""
    answer = queue.claim(
        worker, p_lease_seconds=LEASE, p_retry_delay_seconds=DELAY, p_command_ttl_seconds=24 * HOUR
    )
    return ([row["attempt"] for row in answer["commands"]], len(answer["failed"]), len(answer["expired"]))


NOTHING: Answer = ([], 0, 0)


def settle(queue: Queue, _: str, outcome: str) -> Answer:
    attempt = [{"command_id": the_command(queue), "attempt": 1}]
    [answer] = queue.settle(attempt, outcome, "w1", delay=DELAY)
    return answer["result"]


def acknowledge(queue: Queue, worker: str, outcome: str) -> Answer:
    ack = {"topic_id": "d1", "command_id": the_command(queue), "outcome": outcome}
    [answer] = queue.acknowledge(ack, worker=worker, delay=DELAY)
    return answer["result"]


def move(queue: Queue, _: str, status: str) -> Answer:
    """A person's move."""
    try:
        with queue.connection.transaction():
            queue.connection.execute("update device_commands set status = %s", (status,))
    except psycopg.errors.CheckViolation:
        return "refused"
    return "done"


MOVES: dict[str, Move] = {
    "claim": claim,
    "settle as sent": partial(settle, outcome="sent"),
    "settle as failed": partial(settle, outcome="failed"),
    "release": partial(settle, outcome="released"),
    "acknowledge": partial(acknowledge, outcome="success"),
    "acknowledge a failure": partial(acknowledge, outcome="failed"),
    "cancel": partial(move, status="cancelled"),
    "retry": partial(move, status="pending"),
}
PAIRS = list(product(MOVES, MOVES))


def row(queue: Queue) -> Row:
    """What the row says; times to the hour from now."""
    return queue.rows(
        """
        select status, retry_count, attempt, lease_worker, delivered_at is not null as delivered,
               acknowledged_at is not null as acknowledged,
               greatest(round(extract(epoch from due_at - now()) / 3600), 0) as due,
               round(extract(epoch from lease_until - now()) / 3600) as lease
        from device_commands
        """
    )[0]


Outcome = tuple[Row, Answer, Answer]


class Sessions:
    """Two sessions of the workers w2 and w1, and a third that sees whether they wait."""

    def __init__(self, one: Queue, other: Queue, observer: Queue, pool: ThreadPoolExecutor) -> None:
        self._one, self._other, self._observer, self._pool = one, other, observer, pool
        self._state: str | None = None  # how the command stands, unless a move was committed
        self.alone = cache(self._alone)
        self.untouched = cache(self._untouched)
        self._in_order = cache(self._in_this_order)

    def one_after_the_other(self, state: str, first: str, second: str) -> list[Outcome]:
        """What both orders come to."""
        found, told, answer = self._in_order(state, second, "w1", first, "w2")
        return [self._in_order(state, first, "w2", second, "w1"), (found, answer, told)]

    def _in_this_order(self, state: str, first: str, worker: str, second: str, successor: str) -> Outcome:
        with self._taken_back(state):
            told = MOVES[first](self._one, worker), MOVES[second](self._one, successor)
            return (row(self._one), *told)

    def _alone(self, state: str, name: str, worker: str) -> tuple[Row, Answer]:
        with self._taken_back(state):
            answer = MOVES[name](self._one, worker)
            return row(self._one), answer

    def _untouched(self, state: str) -> Row:
        """The row before anybody's move."""
        self._begin(state)
        return row(self._one)

    def _begin(self, state: str) -> None:
        if self._state != state:
            begin(self._one, state)
            self._state = state

    @contextmanager
    def _taken_back(self, state: str) -> Iterator[None]:
        """A transaction that leaves the command as it stood."""
        self._begin(state)
        with self._one.connection.transaction(force_rollback=True):
            yield

    def at_once(self, state: str, first: str, second: str, end: str) -> Outcome:
        """Both moves, the second begun before the first ends."""
        self._begin(state)
        self._state = None
        self._one.connection.execute("begin")
        told = MOVES[first](self._one, "w2")
        future = self._pool.submit(MOVES[second], self._other, "w1")
        # One of them comes about: a claim or the like that hangs is ended by the database.
        while wait([future], timeout=0.002).not_done and not self._waits():
            pass
        blocked = not future.done()
        self._one.connection.execute(end.encode())
        answer = future.result(timeout=10)
        assert first == "claim" or second != "claim" or not blocked, "a claim waited for a row"
        return row(self._one), told, answer

    def _waits(self) -> bool:
        return bool(self._observer.rows(_BLOCKED, self._other.connection.info.backend_pid))


@pytest.fixture(scope="module")
def sessions(shared: psycopg.Connection) -> Iterator[Sessions]:
    one = Queue(shared)
    with one.another() as other, one.another() as observer, ThreadPoolExecutor(1) as pool:
        other.connection.execute("set statement_timeout = '10 s'")
        yield Sessions(one, other, observer, pool)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_moves_at_once_are_as_one_after_the_other(sessions: Sessions, first: str, second: str) -> None:
    """Fails when any of these is taken out of the migrations (each was tried): a `for update skip locked` of
    fn_expire_commands or fn_fail_undeliverable_commands; `for update` in fn_acknowledge_command;
    fn_lock_devices in fn_settle_commands; its conditions on attempt and worker.
    """
    for state in STATES:
        allowed = sessions.one_after_the_other(state, first, second)
        if second == "claim":
            allowed.append((*sessions.alone(state, first, "w2"), NOTHING))
        assert sessions.at_once(state, first, second, "commit") in allowed, state


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_move_that_is_taken_back_leaves_the_other_alone(
    sessions: Sessions, first: str, second: str
) -> None:
    """A worker's or the database's death in the middle: the transaction is rolled back.

    Fails like the test above where `skip locked` is taken out, since a claim would wait.
    """
    for state in STATES:
        found, _, answer = sessions.at_once(state, first, second, "rollback")
        left = (sessions.untouched(state), NOTHING)
        assert (found, answer) == sessions.alone(state, second, "w1") or (
            second == "claim" and (found, answer) == left
        ), state
