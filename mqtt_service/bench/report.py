"""What the benchmark found in one run on one machine: for a person, for a document and for a program."""

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from rich.table import Table

_COLUMNS = ("measure", "ratio", "rounds", "goal", "on this machine")
# Above this, the places after the point say nothing.
_WHOLE_FROM = 100.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One ratio and the goal it is held against (None: there is none); `figures` are this machine's own.

    Where the name ends with a unit, or says "requests" or "kB", the ratio is that number itself.

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


def machine() -> dict[str, float | str]:
    """What the figures were taken on: cores, the load of the last minute before, Python, the system."""
    return {
        "cores": os.cpu_count() or 1,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def as_document(
    measures: Sequence[Measure], on: Mapping[str, float | str] | None = None
) -> dict[str, object]:
    """One JSON object; `figures` end with their unit, or `_per_s`. `on`: what `machine` returned."""
    return {
        "machine": dict(on or {}),
        "measures": [
            {**asdict(measure), "ratio": measure.ratio, "reached": measure.reached} for measure in measures
        ],
    }


def as_table(measures: Sequence[Measure]) -> Table:
    """One line a ratio; what follows the goal is information, and only about this machine."""
    table = Table(box=None, pad_edge=False)
    first, *others, last = _COLUMNS
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    table.add_column(last)
    for measure in measures:
        table.add_row(*_cells(measure))
    return table


def as_markdown(measures: Sequence[Measure], on: Mapping[str, float | str]) -> str:
    """The same table for a document, and below it what it was taken on."""
    rows = [_COLUMNS, ("---", "---:", "---:", "---:", "---"), *(_cells(measure) for measure in measures)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nTaken on: {', '.join(f'{name} {value}' for name, value in on.items())}.\n"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that `share` (0…1) of them do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def _cells(measure: Measure) -> tuple[str, ...]:
    return (
        measure.name,
        _number(measure.ratio),
        _range(measure.rounds),
        _goal(measure),
        ", ".join(f"{name} {value:,.4g}" for name, value in measure.figures.items()),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE_FROM else f"{value:.3f}"


def _range(rounds: Sequence[float]) -> str:
    return f"{_number(min(rounds))}–{_number(max(rounds))}" if len(rounds) > 1 else "–"


def _goal(measure: Measure) -> str:
    if measure.goal is None:
        return "–"
    sign = "≥" if measure.better == "higher" else "≤"
    return f"{'✓' if measure.reached else '✗'} {sign} {measure.goal:g}"
