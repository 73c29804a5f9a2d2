"""The words of a command's story, for each state that a command can be in."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from mqtt_service.fleet.story import Rules, tell
from mqtt_service.fleet.words import brief, fate
from tests.unit.fleet.rows import NOW, WORKER, ago, command, device, later

RULES = Rules(3, 3, timedelta(hours=24), frozenset({"water_plants"}))

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], str]] = {
    # what is set in the command, in the device; what the story says; its fate
    "due": ({}, {}, ["takes it up at its next poll", "gives up at 2026-03-02 11:55:00+00:00"], "open"),
    "late": ({"due_at": ago(minutes=10)}, {}, ["due for 10 min", "mqtt-service top"], "open"),
    "scheduled": (
        {"due_at": later(hours=2), "scheduled_for": later(hours=2)},
        {},
        ["waits for its time", "(in 2 h)", "gives up at 2026-03-02 14:00:00+00:00"],
        "open",
    ),
    "leased": (
        {"lease_worker": WORKER, "lease_until": later(seconds=20), "due_at": later(seconds=20), "attempt": 1},
        {},
        [f"{WORKER} is sending it now (attempt 1)", "(in 20 s)"],
        "open",
    ),
    "lease over": (
        {"lease_worker": WORKER, "lease_until": ago(seconds=3), "due_at": ago(seconds=3), "attempt": 1},
        {},
        ["lease ran out 3 s ago"],
        "open",
    ),
    "of an inactive device": (
        {},
        {"is_active": False, "provisioning_status": "inactive"},
        ["not active (inactive)", "mqtt-service map"],
        "open",
    ),
    "redelivered": ({"redelivery_count": 2}, {}, ["was sent before", "second time"], "open"),
    "sent, repeatable": (
        {"status": "sent", "command_type": "send_image", "delivered_at": ago(minutes=1), "due_at": None},
        {},
        [
            "has not answered",
            "When the device wakes, it is sent again (0 of 3",
            "wakes at 2026-03-01 16:00:00",
        ],
        "open",
    ),
    "sent, of the project's own type that may be repeated": (
        {"status": "sent", "command_type": "water_plants", "delivered_at": ago(minutes=1), "due_at": None},
        {},
        ["it is sent again"],
        "open",
    ),
    "sent, never to be done twice": (
        {"status": "sent", "command_type": "reboot", "delivered_at": ago(minutes=1), "due_at": None},
        {},
        ["a reboot is never done twice"],
        "open",
    ),
    "sent while nobody listened": (
        {"status": "sent", "command_type": "reboot", "no_listener": True, "delivered_at": ago(minutes=1)},
        {},
        ["nobody was listening", "it is sent again (0 of 3"],
        "open",
    ),
    "sent as often as may be": (
        {
            "status": "sent",
            "command_type": "send_image",
            "redelivery_count": 3,
            "delivered_at": ago(minutes=1),
        },
        {},
        ["sent again 3 times, which is all"],
        "open",
    ),
    "sent to a device that did not wake": (
        {"status": "sent", "delivered_at": ago(hours=1)},
        {"next_wake_at": ago(minutes=30)},
        ["should have woken", "(30 min ago)", "last heard 4 h ago"],
        "open",
    ),
    "to be retried": (
        {"status": "failed", "retry_count": 1, "last_error": "low battery", "due_at": later(seconds=30)},
        {},
        ["low battery (1 of 3 failures)", "tried again at 2026-03-01 12:00:30+00:00 (in 30 s)"],
        "open",
    ),
    "failed for good": (
        {"status": "failed", "retry_count": 3, "last_error": "low battery", "due_at": None},
        {},
        ["not tried again by itself", "mqtt-service retry 0f9c2c1e"],
        "lost",
    ),
    "acknowledged": (
        {
            "status": "acknowledged",
            "delivered_at": ago(seconds=9),
            "acknowledged_at": ago(seconds=8),
            "due_at": None,
        },
        {},
        ["The device did it at", "1.0 s after the broker had it"],
        "done",
    ),
    "a release that the device has not confirmed yet": (
        {
            "status": "acknowledged",
            "release_id": UUID(int=7),
            "command_payload": {"version": "1.4.0"},
            "acknowledged_at": ago(minutes=8),
            "due_at": None,
        },
        {},
        ["with version 1.4.0 it is verified, with another one it fails", "wakes at 2026-03-01 16:00:00"],
        "done",
    ),
    "a release that was verified": (
        {
            "status": "acknowledged",
            "release_id": UUID(int=7),
            "command_payload": {"version": "1.4.0"},
            "acknowledged_at": ago(minutes=8),
            "verified_at": ago(minutes=4),
            "due_at": None,
        },
        {},
        ["It woke with version 1.4.0 at 2026-03-01 11:56:00", "verified"],
        "done",
    ),
    "a release that did not take": (
        {
            "status": "failed",
            "release_id": UUID(int=7),
            "command_payload": {"version": "1.4.0"},
            "acknowledged_at": ago(minutes=8),
            "last_error": "the device came back with version 1.3.0, not 1.4.0",
            "due_at": None,
        },
        {},
        ["and then: the device came back with version 1.3.0, not 1.4.0", "not tried again by itself"],
        "lost",
    ),
    "a configuration": (
        {"command_type": "update_config", "config_version": 5},
        {},
        ["carries what differs in version 5 of its configuration"],
        "open",
    ),
    "rejected": (
        {"status": "rejected", "last_error": "no such picture", "due_at": None},
        {},
        ["never will: no such picture", "final"],
        "lost",
    ),
    "expired": ({"status": "expired", "due_at": None}, {}, ["time went by (unsent)", "late success"], "lost"),
    "in progress": (
        {
            "status": "sent",
            "command_type": "update_firmware",
            "delivered_at": ago(minutes=9),
            "due_at": None,
            "progress": 40,
            "progress_at": ago(minutes=1),
            "progress_message": "writing",
            "answer_due_at": later(minutes=9),
        },
        {},
        [
            "is at it: 40 % (writing)",
            "(1 min ago)",
            "says nothing until 2026-03-01 12:09:00",
            "fails for good",
            "not sent again",
        ],
        "open",
    ),
    "sent, with a clock": (
        {
            "status": "sent",
            "command_type": "send_image",
            "delivered_at": ago(minutes=1),
            "due_at": None,
            "answer_due_at": later(minutes=4),
        },
        {},
        ["has not answered", "says nothing until 2026-03-01 12:04:00", "is tried again"],
        "open",
    ),
    "cancelled, and done all the same": (
        {
            "status": "cancelled",
            "attempt": 1,
            "due_at": None,
            "response": {},
            "done_after_cancel_at": ago(minutes=2),
        },
        {},
        ["withdrew it", "did it all the same, at 2026-03-01 11:58:00"],
        "lost",
    ),
    "cancelled, and answered": (
        {"status": "cancelled", "attempt": 1, "due_at": None, "response": {"command_ack": "failed"}},
        {},
        ["withdrew it", "the device got it: its answer is below"],
        "lost",
    ),
    "cancelled, and at it": (
        {"status": "cancelled", "attempt": 1, "due_at": None, "progress": 5, "progress_at": ago(minutes=2)},
        {},
        ["withdrew it", "has been at it: 5 %"],
        "lost",
    ),
    "cancelled": (
        {"status": "cancelled", "attempt": 1, "due_at": None},
        {},
        ["A person withdrew it", "may have got it nevertheless"],
        "lost",
    ),
    "from before": ({"in_queue": False, "due_at": None}, {}, ["leaves it alone", "queue it anew"], "lost"),
    "with another service's status": ({"status": "archived", "due_at": None}, {}, ["'archived'"], "lost"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_story_says_where_a_command_is_and_what_happens_next(case: str) -> None:
    of_command, of_device, said, expected = CASES[case]
    row = command(**of_command)
    story = "\n".join(tell(row, device(**of_device), RULES, NOW, NOW.tzinfo))
    assert story.startswith(f"{row.command_type} for DEVICE-ESP32S3-001 (AA:BB:CC:DD:EE:FF), queued")
    assert [words for words in said if words not in story] == []
    assert fate(row) == expected
    assert ("It gives up at" in story) == (expected == "open")


def test_a_command_of_a_deleted_device_has_a_story_too() -> None:
    assert "a device that is gone" in tell(command(), None, RULES, NOW)[0]


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
