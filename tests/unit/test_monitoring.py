"""The dashboard and the alert rules name metrics, labels and words that the worker has."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from mqtt_service.metrics import REGISTRY

FOLDER = Path(__file__).parents[2] / "docs" / "monitoring"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]
TEXT = generate_latest(REGISTRY).decode()
SERIES = set(re.findall(r"^(mqtt_service_\w+)", TEXT, re.MULTILINE))
# Without series from the start: their labels are known once something happens.
OPEN = {"mqtt_service_supabase_call_seconds": {"function", "outcome"}}


def names_of(expression: str) -> set[str]:
    return set(re.findall(r"mqtt_service_\w+", expression))


def base(name: str) -> str:
    return re.sub(r"_(bucket|count|sum)$", "", name)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_metrics_that_are_named_are_there(expression: str) -> None:
    assert names_of(expression)
    assert {name for name in names_of(expression) if name not in SERIES and base(name) not in OPEN} == set()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_labels_have_the_values_that_are_asked_for(expression: str) -> None:
    for name, selectors in re.findall(r"(mqtt_service_\w+)\{([^}]*)\}", expression):
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', selectors):
            if base(name) in OPEN:
                assert label in OPEN[base(name)]
                continue
            for value in values.split("|"):
                assert re.search(rf'^{name}\{{[^}}]*{label}="{value}"', TEXT, re.MULTILINE), (name, value)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_brackets_close(expression: str) -> None:
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


def test_every_alert_says_what_it_means_and_how_bad_it_is() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_the_tests_of_the_rules_name_rules() -> None:
    text = (FOLDER / "alerts_test.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"alertname: (\w+)", text)) <= {rule["alert"] for rule in RULES}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
