"""What the benchmark found: ratios of one run on one machine, for a person and for a machine."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Measure:
    """One ratio and the goal it is held against (None: there is none); `figures` are this machine's own.

    `better` says on which side of the goal it is good. `ratio` is the median of `rounds`.
    """

    name: str
    rounds: Sequence[float]
    better: Literal["higher", "lower"]
    goal: float | None = None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None where there is none."""
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.better == "higher" else self.ratio <= self.goal


def as_document(measures: Sequence[Measure]) -> dict[str, object]:
    """One JSON object; `figures` are seconds, milliseconds (`_ms`) or a second's counts (`_per_s`)."""
    return {
        "measures": [
            {**asdict(measure), "ratio": measure.ratio, "reached": measure.reached} for measure in measures
        ]
    }


def as_table(measures: Sequence[Measure]) -> Table:
    """One line a ratio; what follows the goal is information, and only about this machine."""
    table = Table(box=None, pad_edge=False)
    table.add_column("measure")
    for column in ("ratio", "rounds", "goal"):
        table.add_column(column, justify="right")
    table.add_column("on this machine")
    for measure in measures:
        table.add_row(
            measure.name,
            f"{measure.ratio:.3f}",
            _range(measure.rounds),
            _goal(measure),
            ", ".join(f"{name} {value:,.4g}" for name, value in measure.figures.items()),
        )
    return table


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that `share` (0…1) of them do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def _range(rounds: Sequence[float]) -> str:
    return f"{min(rounds):.3f}–{max(rounds):.3f}" if len(rounds) > 1 else "–"


def _goal(measure: Measure) -> str:
    if measure.goal is None:
        return "–"
    sign = "≥" if measure.better == "higher" else "≤"
    return f"{'✓' if measure.reached else '✗'} {sign} {measure.goal:g}"
