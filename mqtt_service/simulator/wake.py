"""A wake of a simulated device: what happened in it, and when it is over."""

from dataclasses import dataclass, field
from typing import Literal

Ending = Literal["asleep", "hung"]


@dataclass(frozen=True)
class SleepOptions:
    """After how many seconds of silence a wake is over.

    `linger`: it knows its next wake time, and no picture is left of which the service knows. `settle`: one is
    left, so that the service may have more to say; longer than the service waits for a silent device.
    `patience`: it was not told when to wake. A real device would stay awake for ever; this one is found hung.
    """

    linger: float = 0.3
    settle: float = 30.0
    patience: float = 60.0

    def silence(self, *, told: bool, unfinished: bool) -> float:
        """Return how long the silence lasts that ends the wake."""
        if not told:
            return self.patience
        return self.settle if unfinished else self.linger


@dataclass
class Wake:
    """One wake; times are the event loop's clock in seconds.

    `told`: it knows its next wake time. `hellos` is more than 1 after a reboot or a lost connection;
    `answered` counts those after which it heard something, first at `answered_at`. `ended` is None while it
    lasts. `sent` are the names of the pictures that were sent in full, `acknowledged` of those that had their
    ACK_OK.
    """

    hellos: int = 0
    answered: int = 0
    hello_at: float | None = None
    answered_at: float | None = None
    told: bool = False
    sent: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    ended: Ending | None = None
    ended_at: float | None = None
    _waits: bool = False

    @property
    def answer_seconds(self) -> float | None:
        """From its HELLO to the first answer; None where there was none."""
        if self.hello_at is None or self.answered_at is None:
            return None
        return self.answered_at - self.hello_at

    def say_hello(self, now: float) -> None:
        """Note a HELLO."""
        self.hellos += 1
        self._waits = True
        if self.hello_at is None:
            self.hello_at = now

    def hear(self, now: float) -> None:
        """Note a message from the service."""
        if self._waits:
            self._waits = False
            self.answered += 1
            self.answered_at = self.answered_at or now
