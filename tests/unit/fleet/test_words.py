"""A command in a few words, for a table, and what became of it."""

from typing import Any

import pytest

from mqtt_service.fleet.words import brief, fate
from tests.unit.fleet.rows import NOW, WORKER, ago, command, later


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "open"),
        ({"status": "sent", "due_at": None}, "open"),
        ({"status": "failed"}, "open"),
        ({"status": "failed", "due_at": None}, "lost"),
        ({"status": "acknowledged", "due_at": None}, "done"),
        ({"status": "rejected", "due_at": None}, "lost"),
        ({"status": "expired", "due_at": None}, "lost"),
        ({"status": "cancelled", "due_at": None}, "lost"),
        ({"in_queue": False, "due_at": None}, "lost"),
        ({"status": "archived", "due_at": None}, "lost"),
    ],
)
def test_a_command_is_open_done_or_lost(changes: dict[str, Any], expected: str) -> None:
    assert fate(command(**changes)) == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "due now"),
        ({"due_at": ago(minutes=2)}, "due for 2 min"),
        ({"due_at": later(minutes=2)}, "due in 2 min"),
        ({"lease_worker": WORKER, "lease_until": later(seconds=9)}, f"{WORKER} is sending it"),
        ({"status": "sent"}, "no answer yet"),
        ({"status": "sent", "no_listener": True}, "nobody was listening"),
        ({"status": "failed", "last_error": "x", "due_at": later(seconds=30)}, "again in 30 s: x"),
        ({"status": "failed", "last_error": "x", "due_at": None}, "for good: x"),
        ({"status": "expired", "last_error": "x"}, "x"),
        ({"status": "acknowledged", "delivered_at": NOW, "acknowledged_at": ago(seconds=1)}, "after 0.0 s"),
        ({"in_queue": False}, "left alone: not the service's"),
    ],
)
def test_a_table_says_the_same_in_a_few_words(changes: dict[str, Any], words: str) -> None:
    assert brief(command(**changes), NOW) == words
