"""A wake of a simulated device: what happened in it, and when it is over."""

from dataclasses import dataclass, field
from typing import Literal

Ending = Literal["asleep", "hung"]


@dataclass(frozen=True)
class SleepOptions:
    """After how many seconds of silence a wake is over.

    `linger`: it knows its next wake time, and the service knows of no picture that is left. `settle`: one is
    left, so the service may have more to say; longer than the service waits for a silent device. `patience`:
    it was not told when to wake. A real device would stay awake for ever; this one counts as hung.
    """

    linger: float = 0.3
    settle: float = 30.0
    patience: float = 60.0

    def silence(self, *, knows_next_wake: bool, unfinished: bool) -> float:
        """Return how long the silence lasts that ends the wake."""
        if not knows_next_wake:
            return self.patience
        return self.settle if unfinished else self.linger


@dataclass
class Wake:
    """One wake; times are the event loop's clock in seconds.

    `heartbeats` counts its HELLOs: more than one after a reboot or a lost connection; `answered` those after
    which it heard something, first at `answered_at`. `ended` is None while it lasts. `sent` are the names of
    the pictures that were sent in full, `acknowledged` of those that were confirmed with ACK_OK, the last of
    them at `acknowledged_at`.
    """

    heartbeats: int = 0
    answered: int = 0
    heartbeat_at: float | None = None
    answered_at: float | None = None
    knows_next_wake: bool = False
    sent: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    acknowledged_at: float | None = None
    ended: Ending | None = None
    ended_at: float | None = None
    _unanswered: bool = False

    @property
    def answer_seconds(self) -> float | None:
        """From its HELLO to the first answer; None where there was none."""
        if self.heartbeat_at is None or self.answered_at is None:
            return None
        return self.answered_at - self.heartbeat_at

    def note_heartbeat(self, now: float) -> None:
        """Count a HELLO."""
        self.heartbeats += 1
        self._unanswered = True
        if self.heartbeat_at is None:
            self.heartbeat_at = now

    def note_acknowledged(self, name: str, now: float) -> None:
        """Take note of an ACK_OK for a picture that was on the card."""
        self.acknowledged.append(name)
        self.acknowledged_at = now

    def note_answer(self, now: float) -> None:
        """Take note of a message from the service: an answer, if it is the first after a HELLO."""
        if self._unanswered:
            self._unanswered = False
            self.answered += 1
            self.answered_at = self.answered_at or now
