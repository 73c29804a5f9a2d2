"""Who in the worker reads the clock on the wall: it may be wrong, so nothing may be decided by it alone."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mqtt_service"

# The verbs of the fleet are no part of the worker: they read "2h" by the machine on which they run. Doctor
# looks whether that machine's clock is right.
OUTSIDE = ("devstack", "simulator", "demo", "bench", "fleet", "doctor")
# What they do with it: show it (/health), send it (ping), or judge whether a device's own clock can be right,
# within days.
READERS = {
    "service.py": "when the last poll was, for /health",
    "adapters/mqtt/link.py": "since when the link is up or down, for people",
    "adapters/supabase/realtime.py": "since when the doorbell works or not, for people",
    "alerts/watch.py": "since when something is wrong, for people",
    "alerts/webhook.py": "when an alert was signed, for its receiver",
    "queue/publishing.py": "when a ping is sent, for its device",
    "devices/pictures.py": "whether the time on a picture is years or days away from now",
}
_CLOCKS = {
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("time", "time"),
}


def reads_the_clock(path: Path) -> bool:
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    return any(isinstance(call.value, ast.Name) and (call.value.id, call.attr) in _CLOCKS for call in calls)


def test_no_other_module_of_the_worker_reads_the_clock_on_the_wall() -> None:
    worker = (path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in OUTSIDE)
    assert {str(path.relative_to(PACKAGE)) for path in worker if reads_the_clock(path)} == READERS.keys()
