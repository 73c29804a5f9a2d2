"""What Sentry gets, and what it never does."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from mqtt_service.error_reports import scrubbed, start_error_reports

SECRET = "sb_secret_do_not_tell"
EVENT: dict[str, Any] = {
    "event_id": "e1",
    "level": "error",
    "logger": "mqtt_service.queue",
    "release": "mqtt-service@1",
    "server_name": SECRET,
    "request": {"headers": {"apikey": SECRET}, "data": SECRET},
    "breadcrumbs": {"values": [{"message": SECRET}]},
    "user": {"id": SECRET},
    "contexts": {"trace": {"data": SECRET}},
    "logentry": {"message": "[ACK] Dropped: %s", "params": [SECRET], "formatted": f"[ACK] Dropped: {SECRET}"},
    "extra": {"command": "c1", "device": "DEVICE-1", "payload": SECRET, "sys.argv": [SECRET]},
    "exception": {
        "values": [
            {
                "type": "KeyError",
                "module": "builtins",
                "value": SECRET,
                "mechanism": {"data": SECRET},
                "stacktrace": {
                    "frames": [
                        {
                            "filename": "a.py",
                            "function": "f",
                            "lineno": 3,
                            "vars": {"key": SECRET},
                            "abs_path": f"/{SECRET}/a.py",
                        }
                    ]
                },
            }
        ]
    },
}


def test_no_value_is_told() -> None:
    assert SECRET not in json.dumps(scrubbed(EVENT, {}))


def test_what_happened_and_where_is_told() -> None:
    event = scrubbed(EVENT, {})
    [exception] = event["exception"]["values"]
    assert exception["type"] == "KeyError"
    assert exception["stacktrace"]["frames"] == [{"filename": "a.py", "function": "f", "lineno": 3}]
    assert event["logentry"] == {"message": "[ACK] Dropped: %s"}
    assert event["extra"] == {"command": "c1", "device": "DEVICE-1"}


@pytest.mark.parametrize("event", [{}, {"exception": None, "logentry": None, "extra": None}])
def test_an_event_of_nothing_is_no_trouble(event: dict[str, Any]) -> None:
    assert scrubbed(event, {}) == {"extra": {}}


class FakeSentry(ModuleType):
    """Notes how it was started; `refuses`: a DSN that is none."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__("sentry_sdk")
        self.options: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self.refuses = refuses

    def init(self, **options: Any) -> None:
        if self.refuses:
            raise ValueError(options["dsn"])
        self.options = options

    def set_tag(self, name: str, value: str) -> None:
        self.tags[name] = value


def test_where_it_is_installed_it_is_started_without_variables_and_bodies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentry = FakeSentry()
    monkeypatch.setitem(sys.modules, "sentry_sdk", sentry)
    assert start_error_reports("https://k@sentry.example/1", "w1")
    assert sentry.options["before_send"] is scrubbed
    assert sentry.options["before_breadcrumb"]({}, {}) is None
    assert not sentry.options["include_local_variables"]
    assert not sentry.options["send_default_pii"]
    assert sentry.options["trace_propagation_targets"] == []
    assert sentry.tags == {"worker": "w1"}


@pytest.mark.parametrize("installed", [False, True])
def test_where_it_cannot_be_used_a_line_says_so_without_the_dsn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, installed: bool
) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", FakeSentry(refuses=True) if installed else None)
    assert not start_error_reports(SECRET, "w1")
    assert "SENTRY_DSN" in caplog.text
    assert SECRET not in caplog.text
