"""Names, units and words of metrics are those that Prometheus asks for (`promtool check metrics`)."""

import asyncio
import re

import pytest
from prometheus_client import Metric

from mqtt_service.loop_lag import measure_loop_lag
from mqtt_service.metrics import COMMAND_OUTCOMES, REGISTRY, child
from tests.integration.worker.harness import eventually

ALL = list(REGISTRY.collect())
# Prometheus' best practices for naming: base units, plural; and what `promtool check metrics` looks for.
OTHER_UNITS = "milliseconds|microseconds|minutes|hours|days|kilobytes|megabytes|kb|mb|ms|percent"
RESERVED_LABELS = {"le", "quantile", "job", "instance"}


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_is_named_by_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"mqtt_service(_[a-z]+)+", metric.name)
    assert metric.documentation.strip()
    assert not re.search(rf"_({OTHER_UNITS})(_|$)", metric.name)
    # only counters end with _total (prometheus_client adds it), only histograms with what theirs do
    assert not re.search(r"_(total|count|sum|bucket|created)$", metric.name)
    assert metric.type not in metric.name.split("_")
    if metric.type == "histogram":
        assert metric.name.endswith("_seconds")


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_labels_are_few_and_their_names_are_free(metric: Metric) -> None:
    names = {name for sample in metric.samples for name in sample.labels} - {"le"}
    assert not names & RESERVED_LABELS
    assert all(re.fullmatch("[a-z]+", name) for name in names)
    assert len(names) <= 2


def test_a_series_is_made_once() -> None:
    assert child(COMMAND_OUTCOMES, "reboot", "sent") is child(COMMAND_OUTCOMES, "reboot", "sent")
    assert child(COMMAND_OUTCOMES, "reboot", "sent") is COMMAND_OUTCOMES.labels("reboot", "sent")


def lag(name: str) -> float:
    return REGISTRY.get_sample_value(f"mqtt_service_event_loop_lag_seconds_{name}") or 0.0


async def test_the_lag_of_the_event_loop_is_measured() -> None:
    before = lag("count")
    task = asyncio.create_task(measure_loop_lag(0.001))
    await eventually(lambda: lag("count") >= before + 2, "two observations")
    task.cancel()
