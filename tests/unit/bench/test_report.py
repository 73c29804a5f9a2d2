"""The benchmark's figures: medians, percentiles, and when a goal is reached."""

import json

import pytest
from rich.console import Console

from mqtt_service.bench.report import Measure, as_document, as_markdown, as_table, machine, percentile


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1.0], 0.5, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 51)], 0.99, 50.0),
    ],
)
def test_a_percentile_is_a_value_that_was_seen(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_a_ratio_is_the_median_of_its_rounds() -> None:
    assert Measure("m", [0.1, 0.9, 0.3], "higher").ratio == 0.3


@pytest.mark.parametrize(
    ("better", "goal", "reached"),
    [
        ("higher", 0.5, True), ("higher", 0.51, False), ("lower", 0.5, True), ("lower", 0.49, False),
        ("higher", None, None),
    ],
)  # fmt: skip
def test_a_goal_is_reached_on_the_side_that_is_better(
    better: str, goal: float | None, reached: bool | None
) -> None:
    measure = Measure("m", [0.5], better, goal)  # type: ignore[arg-type]  # the cases above are both literals
    assert measure.reached is reached
    document = json.loads(json.dumps(as_document([measure])))["measures"][0]
    assert (document["ratio"], document["reached"]) == (0.5, reached)


def test_the_table_shows_ratio_rounds_goal_and_figures() -> None:
    measure = Measure("speed", [0.4, 0.6, 0.5], "higher", 0.5, {"per_s": 1234.5})
    console = Console(width=120)
    with console.capture() as shown:
        console.print(
            as_table([measure, Measure("size", [2.0], "lower", 1.0), Measure("more", [1.0], "lower")])
        )
    text = shown.get()
    for expected in ("0.500", "0.400–0.600", "✓ ≥ 0.5", "per_s 1,234", "✗ ≤ 1"):
        assert expected in text


def test_the_document_has_a_row_for_each_measure_and_names_the_machine() -> None:
    measures = [Measure("speed", [0.5], "higher", 0.5, {"per_s": 1234.5}), Measure("kB", [1234.5], "lower")]
    lines = as_markdown(measures, {"cores": 2, "load_before": 0.5}).splitlines()
    assert lines[0].startswith("| measure | ratio |")
    assert "| speed | 0.500 | – | ✓ ≥ 0.5 | per_s 1,234 |" in lines
    assert "| kB | 1,234 | – | – |  |" in lines
    assert lines[-1] == "Taken on: cores 2, load_before 0.5."


def test_the_machine_is_named_by_its_cores_and_its_load() -> None:
    on = machine()
    assert int(on["cores"]) >= 1
    assert as_document([], on)["machine"] == on
