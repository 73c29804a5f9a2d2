"""Errors to Sentry, where SENTRY_DSN is set and sentry-sdk is installed: places in the code, and no values.

An event is made anew out of what is known to hold no key and no payload: the text of a log line without what
was filled in, types of errors without their messages, places in the code without variables.
"""

import importlib
import logging
from typing import Any

from mqtt_service import __version__

log = logging.getLogger(__name__)

Event = dict[str, Any]

_KEPT = ("event_id", "timestamp", "level", "logger", "platform", "release", "environment", "sdk", "tags")
_KEPT_OF_FRAMES = ("filename", "function", "module", "lineno", "in_app", "context_line")
# Names of commands, devices and workers, which log lines carry (`log.context`).
_KEPT_OF_EXTRA = ("command", "device", "worker")


def start_error_reports(dsn: str, worker: str) -> bool:
    """Send errors from now on; False, with a line in the log, where there is no sentry-sdk or no such DSN."""
    try:
        sentry = importlib.import_module("sentry_sdk")
    except ImportError:
        log.warning(
            "[SERVICE] SENTRY_DSN is set, but sentry-sdk is not installed, so errors are in the log alone: "
            "pip install 'mqtt-service[sentry]'"
        )
        return False
    try:
        sentry.init(
            dsn=dsn,
            release=f"mqtt-service@{__version__}",
            send_default_pii=False,
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            # our requests and our server stay as they are: no headers are added
            auto_enabling_integrations=False,
            trace_propagation_targets=[],
            before_send=scrubbed,
            before_breadcrumb=_no_breadcrumb,
        )
    except ValueError as error:  # sentry_sdk.utils.BadDsn; its message holds the DSN
        log.warning(
            "[SERVICE] SENTRY_DSN is not one (%s), so errors are in the log alone", type(error).__name__
        )
        return False
    sentry.set_tag("worker", worker)
    return True


def scrubbed(event: Event, _hint: Event) -> Event:
    """The event without anything that may hold a key or a payload (Sentry's `before_send`)."""
    kept = {key: event[key] for key in _KEPT if key in event}
    if template := (event.get("logentry") or {}).get("message"):
        kept["logentry"] = {"message": template}
    if exceptions := (event.get("exception") or {}).get("values"):
        kept["exception"] = {"values": [_exception(each) for each in exceptions]}
    extra = {key: event["extra"][key] for key in _KEPT_OF_EXTRA if key in (event.get("extra") or {})}
    return {**kept, "extra": extra}


def _exception(exception: Event) -> Event:
    frames = (exception.get("stacktrace") or {}).get("frames") or []
    places = [{key: frame[key] for key in _KEPT_OF_FRAMES if key in frame} for frame in frames]
    return {
        "type": exception.get("type"),
        "module": exception.get("module"),
        "stacktrace": {"frames": places},
    }


def _no_breadcrumb(_crumb: Event, _hint: Event) -> None:
    """Breadcrumbs hold log lines and addresses."""
