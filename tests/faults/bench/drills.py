"""How large a drill is: small numbers in every run, the full ones with MQTT_SERVICE_LONG_DRILLS=1.

The tests are the same; only lengths and counts differ.
"""

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("MQTT_SERVICE_LONG_DRILLS") == "1"
# Seconds for one test: the longest drill with room for a slow machine.
TEST_TIMEOUT = 1200 if LONG else 120


def drill(short: T, long: T) -> T:
    """The number for this run: `short`, or `long` with MQTT_SERVICE_LONG_DRILLS=1."""
    return long if LONG else short


def report(**figures: object) -> None:
    """Show what a drill measured (`pytest -s`, and with the output of a test that fails)."""
    print("drill:", ", ".join(f"{name}={value}" for name, value in figures.items()))  # noqa: T201
