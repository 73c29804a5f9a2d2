"""A simulated device's radio: messages get lost, doubled and out of order, by chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

T = TypeVar("T")
Scope = Literal["chunks", "data", "all"]


@dataclass(frozen=True)
class RadioOptions:
    """How bad it is: `loss` and `duplicates` are chances from 0 to 1, each message's own.

    `shuffle`: what is sent in one go, such as the chunks of a picture, arrives in any order. `scope` says
    what is affected: "chunks", "data" (metadata too, which then may come after its chunks), or "all" (HELLOs
    and acknowledgements too; a device whose HELLO was lost hangs, unless it has more to say).
    """

    loss: float = 0.0
    duplicates: float = 0.0
    shuffle: bool = False
    scope: Scope = "chunks"


class Radio:
    """Loses, doubles and shuffles messages; what becomes of each follows from `rng` alone."""

    def __init__(self, options: RadioOptions, rng: Random) -> None:
        self._options = options
        self._rng = rng

    def affects(self, scope: Scope) -> bool:
        """Whether it also loses and doubles messages that only this scope or a wider one covers."""
        scopes: tuple[Scope, ...] = ("chunks", "data", "all")
        return scopes.index(scope) <= scopes.index(self._options.scope)

    def transmit(self, burst: Sequence[T]) -> list[T]:
        """Return which of the messages that are sent in one go reach the broker, in their order there."""
        transmitted = [message for message in burst for _ in range(self._copies())]
        if self._options.shuffle:
            self._rng.shuffle(transmitted)
        return transmitted

    def _copies(self) -> int:
        if self._rng.random() < self._options.loss:
            return 0
        return 2 if self._rng.random() < self._options.duplicates else 1
