"""What the rows of device_commands must say, worked out in Python: what the state machine checks by.

Time is in whole hours that pass at once; leases, delays and deadlines end at half hours, so the few seconds
that a test takes decide nothing. `moment` counts steps, for what is ordered within an hour.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

LEASE, DELAY, TTL = 1.5, 2.5, 20.5
_FEW = 20  # of each device that a claim takes before the rest of any

_MOVES: dict[str, dict[str, str]] = {
    "success": {**dict.fromkeys(("pending", "sent", "failed", "expired"), "acknowledged"),
                "acknowledged": "duplicate"},
    "failed": {"pending": "failed", "sent": "failed", "failed": "duplicate"},
    "rejected": {**dict.fromkeys(("pending", "sent", "failed"), "rejected"), "rejected": "duplicate"},
    "in_progress": dict.fromkeys(("pending", "sent", "failed", "expired", "cancelled"), "in_progress"),
}  # fmt: skip


@dataclass
class Row:
    """One command. `number` is its place in the order of issue, hours as in the module's head,
    `leased` and `delivered` are moments."""

    number: int
    device: int
    priority: int
    due: float | None
    waits_until: float
    deadline: float
    own_deadline: bool = False  # it has an expires_at
    status: str = "pending"
    retries: int = 0
    attempt: int = 0
    worker: str | None = None
    lease: float | None = None
    leased: int = 0
    delivered: int | None = None
    answered: bool = False
    patience: float | None = None  # its execution_timeout
    repeatable: bool = False
    delivered_hour: int = 0
    progress_hour: int | None = None
    done_after_cancel: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts in the order of publishing."""
        return (-self.priority, self.number)

    def settle_down(self, status: str) -> None:
        """Leave the queue in this status."""
        self.status, self.due, self.worker, self.lease = status, None, None, None

    def reach(self, moment: int, hour: int) -> None:
        """The broker has it, as of now."""
        self.settle_down("sent")
        self.delivered, self.delivered_hour, self.progress_hour = moment, hour, None

    @property
    def answer_due(self) -> float | None:
        """When it fails unless the device says something."""
        if self.status != "sent" or self.patience is None:
            return None
        return max(self.delivered_hour, self.progress_hour or 0) + self.patience


@dataclass
class Answer:
    """A device's answer as one worker brought it; `repeats` is the ref of another worker's."""

    ref: str
    worker: str
    device: int
    words: str
    hour: int
    result: dict[str, object]
    repeats: str | None


def _session(worker: str) -> str:
    return worker.partition(":")[0]


@dataclass
class Claimed:
    """The model of fn_claim_commands' answer: commands as (number, attempt)."""

    commands: list[tuple[int, int]]
    failed: set[int]
    expired: set[int]
    more: bool


@dataclass
class Model:
    """All commands of a few devices; every method does to them what its namesake in the database must do."""

    active: list[bool]
    now: int = 0
    moment: int = 0
    rows: list[Row] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    replies: list[tuple[int, int, int]] = field(default_factory=list)  # device, hour, moment

    def queue(
        self,
        device: int,
        priority: int,
        wait: float,
        life: float | None,
        patience: float | None = None,
        *,
        repeatable: bool = False,
    ) -> int:
        """`life` None: as long as commands live that say nothing."""
        due = self.now + wait
        row = Row(len(self.rows), device, priority, due, due, due + TTL)
        if life is not None:
            row.deadline, row.own_deadline = self.now + life, True
        row.patience, row.repeatable = patience, repeatable
        self.rows.append(row)
        return row.number

    # Claims

    def claim(
        self,
        worker: str,
        limit: int,
        held: Collection[int],
        *,
        max_retries: int,
        locked: Collection[int] = (),
    ) -> Claimed:
        free = [row for row in self.rows if row.number not in locked]
        expired = self._expire(free)
        failed = self._fail(free, max_retries)
        unseen = sorted(
            (
                row
                for row in free
                if self._leased(row) and row.worker == worker and row.number not in held
                if row.status == "pending" and self.active[row.device]
            ),
            key=lambda row: row.rank,
        )[:limit]
        due = self._due_for(worker, held)
        fresh = self._lease(due, limit - len(unseen), locked)
        for row in fresh:
            row.status, row.worker, row.attempt = "pending", worker, row.attempt + 1
            row.lease = row.due = self.now + LEASE
            row.leased = self.moment
        taken = sorted([*unseen, *fresh], key=lambda row: row.rank)
        more = len(due) > len(fresh) and bool(taken)
        for row in taken:
            if row.deadline <= self.now:  # under a lease, or behind more than one claim looks at
                row.settle_down("expired")
                failed.add(row.number)
        return Claimed(
            [(row.number, row.attempt) for row in taken if row.status == "pending"], failed, expired, more
        )

    def _leased(self, row: Row) -> bool:
        return row.lease is not None and row.lease > self.now

    def _is_due(self, row: Row) -> bool:
        return row.due is not None and row.due <= self.now and not self._leased(row)

    def _expire(self, rows: Iterable[Row]) -> set[int]:
        overdue = [
            row
            for row in rows
            if row.deadline <= self.now and not self._leased(row)
            if row.status in {"pending", "sent"} or row.due is not None
        ]
        for row in overdue:
            row.settle_down("expired")
        return {row.number for row in overdue}

    def _fail(self, rows: Iterable[Row], max_retries: int) -> set[int]:
        failed = set()
        for row in rows:
            used_up = row.status == "failed" and row.retries >= max_retries
            if self._is_due(row) and (used_up or not self.active[row.device]):
                self._count_failure(row, max_retries, again=True, counted=not used_up)
                failed.add(row.number)
            elif row.answer_due is not None and row.answer_due <= self.now:
                self._count_failure(row, max_retries, again=row.repeatable)  # the device may have done it
                failed.add(row.number)
        return failed

    def _count_failure(self, row: Row, max_retries: int, *, again: bool, counted: bool = True) -> None:
        row.settle_down("failed")
        row.retries += counted
        if again and counted and row.retries < max_retries:
            row.due = self.now + DELAY

    def _due_for(self, worker: str, held: Collection[int]) -> list[Row]:
        busy = {row.device for row in self.rows if self._leased(row) and row.worker != worker}
        return sorted(
            (
                row
                for row in self.rows
                if self._is_due(row) and row.device not in busy and row.number not in held
            ),
            key=lambda row: row.rank,
        )

    def _lease(self, due: Sequence[Row], limit: int, locked: Collection[int]) -> list[Row]:
        """The rows to lease: a locked one keeps back those behind it, and no device the others."""
        of_device: dict[int, list[Row]] = {}
        for row in due:
            of_device.setdefault(row.device, []).append(row)
        firsts = [rows[0] for rows in of_device.values() if self.active[rows[0].device]]
        free = [row for row in firsts if row.number not in locked]
        open_devices = {row.device for row in sorted(free, key=lambda row: row.rank)[:limit]}
        turns = {row.number: turn for rows in of_device.values() for turn, row in enumerate(rows, 1)}
        waiting = sorted(
            (row for row in due if row.device in open_devices),
            key=lambda row: (turns[row.number] > _FEW, row.rank),
        )[:limit]
        stuck = {row.device: turns[row.number] for row in reversed(waiting) if row.number in locked}
        return [row for row in waiting if turns[row.number] < stuck.get(row.device, len(turns) + 1)]

    # Settling

    def settle(
        self, worker: str, number: int, attempt: int, outcome: str, *, again: bool, max_retries: int
    ) -> str:
        """`settled` or `stale`."""
        row = self.rows[number]
        if self.may_settle(worker, number, attempt):
            if outcome == "sent":
                row.reach(self.moment, self.now)
            elif outcome == "failed":
                self._count_failure(row, max_retries, again=again)
            else:
                row.settle_down("pending")
                row.due = row.waits_until
            return "settled"
        said = {"sent": {"sent", "acknowledged"}, "failed": {"failed"}, "released": {"pending"}}[outcome]
        same = row.attempt == attempt and row.worker is None and row.status in said
        return "settled" if same else "stale"

    def may_settle(self, worker: str, number: int, attempt: int) -> bool:
        """Whether this worker still has this attempt: the fence."""
        row = self.rows[number]
        return row.attempt == attempt and row.worker == worker and row.status == "pending"

    # Answers

    def acknowledge(
        self,
        worker: str,
        ref: str,
        device: int,
        outcome: str,
        *,
        number: int | None,
        words: str,
        max_retries: int,
    ) -> dict[str, object]:
        """What is told of one answer: its result and its command's number, None where there is none."""
        known = next((answer for answer in self.answers if answer.ref == ref), None)
        if known is not None:
            told = known.result
        else:
            told = self._answer(worker, ref, device, outcome, number, words, max_retries)
        self.answers = [answer for answer in self.answers if answer.hour >= self.now - 1]
        return told

    def say(self, device: int) -> None:
        """Tell a device something that has no row."""
        self.replies = [(told, hour, moment) for told, hour, moment in self.replies
                        if told != device or hour >= self.now - 1]  # fmt: skip
        self.replies.append((device, self.now, self.moment))

    def _answer(
        self,
        worker: str,
        ref: str,
        device: int,
        outcome: str,
        number: int | None,
        words: str,
        max_retries: int,
    ) -> dict[str, object]:
        if number is None and any(
            row.device == device and row.lease is not None and row.lease > self.now and row.worker != worker
            for row in self.rows
        ):
            return {"result": "early", "number": None}
        row = self.rows[number] if number is not None else self._meant(device)
        same = self._same_answer(worker, device, words)
        if same is not None:
            told = {**same.result, "result": "duplicate"}
        else:
            named = number is not None or outcome == "in_progress"  # progress is never about a reply
            told = self._take_for_reply(device, row, named=named) or self._take(
                device, outcome, row, max_retries
            )
        repeats = None if same is None else same.ref
        self.answers.append(Answer(ref, worker, device, words, self.now, told, repeats))
        return told

    def _take_for_reply(self, device: int, row: Row | None, *, named: bool) -> dict[str, object] | None:
        """None where the answer is not for what was said without a row, after the command was sent."""
        since = -1 if row is None or row.status == "pending" or row.delivered is None else row.delivered
        later = [reply for reply in self.replies if reply[:2] == (device, self.now) and reply[2] > since]
        if named or not later:
            return None
        self.replies.remove(later[-1])
        return {"result": "reply", "number": None}

    def _take(self, device: int, outcome: str, row: Row | None, max_retries: int) -> dict[str, object]:
        if row is None:
            return {"result": "unknown_command", "number": None}
        if row.device != device:
            return {"result": "wrong_device", "number": None}
        result = _MOVES[outcome].get(row.status, "ignored")
        if row.status == "pending" and row.attempt == 0 and outcome != "success":
            result = "ignored"  # it was never given to a worker
        if result in {"acknowledged", "rejected", "failed", "in_progress"}:
            self._apply(result, row, max_retries)
        elif row.status == "cancelled" and outcome == "success":
            row.done_after_cancel = True
        return {"result": result, "number": row.number}

    def _apply(self, result: str, row: Row, max_retries: int) -> None:
        if row.delivered is None:
            row.delivered, row.delivered_hour = self.moment, self.now
        if result == "failed":
            self._count_failure(row, max_retries, again=True)
        elif result != "in_progress":
            row.settle_down(result)
            row.answered = row.answered or result == "acknowledged"
        else:
            if row.due is not None:  # to be sent, or tried again: the device has it
                row.settle_down("sent")
            row.progress_hour = self.now

    def _meant(self, device: int) -> Row | None:
        """The command that an answer without an id is for."""
        mine = [row for row in self.rows if row.device == device]
        delivered = [row for row in mine if row.delivered is not None]
        last = max(delivered, key=lambda row: (row.delivered or 0, row.rank), default=None)
        if last is not None and (
            last.status in {"sent", "pending", "expired"}
            or (last.status == "cancelled" and not last.done_after_cancel)
        ):
            return last
        waiting = [row for row in delivered if row.status in {"sent", "pending"}]
        if waiting:
            return max(waiting, key=lambda row: (row.delivered or 0, row.rank))
        begun = [row for row in mine if row.status == "pending" and row.due is not None and row.attempt > 0]
        if begun:
            return max(begun, key=lambda row: (row.lease is not None, row.lease or 0, row.rank))
        return last if last is not None and last.status in {"failed", "cancelled"} else None

    def _same_answer(self, worker: str, device: int, words: str) -> Answer | None:
        """The answer by which another worker brought this message; a worker's lives are one session."""
        session = _session(worker)
        taken = {answer.repeats for answer in self.answers if _session(answer.worker) == session}
        return next(
            (
                answer
                for answer in self.answers
                if (answer.device, answer.words) == (device, words)
                if answer.hour >= self.now - 1 and _session(answer.worker) != session
                if answer.repeats is None and answer.ref not in taken
            ),
            None,
        )

    # People

    def cancel(self, number: int) -> bool:
        """Whether it was allowed."""
        allowed = self.rows[number].status in {"pending", "failed"}
        if allowed:
            self.rows[number].settle_down("cancelled")
        return allowed

    def retry(self, number: int) -> bool:
        """Whether it was allowed: a person's retry, or a delivery on wake."""
        row = self.rows[number]
        allowed = row.status in {"failed", "sent"}
        if allowed:
            row.settle_down("pending")
            row.due = self.now
            if not row.own_deadline or row.deadline <= self.now:  # its life begins again
                row.own_deadline = False
                row.waits_until = max(row.waits_until, self.now)
                row.deadline = row.waits_until + TTL
        return allowed
