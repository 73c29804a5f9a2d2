"""Log lines: those of the Node service as text, or one JSON object a line.

A record may carry `command`, `device` and `worker` (see `context`): text shows them after the message, JSON
as fields of their own.
"""

import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

CONTEXT = ("command", "device", "worker")
_PERIOD = 60.0
_MOST_REMEMBERED = 1_000


def context(**fields: object) -> dict[str, object]:
    """The `extra` of a log call: which command, device and worker the line is about."""
    return {name: str(value) for name, value in fields.items() if value is not None}


def _context_of(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(getattr(record, name)) for name in CONTEXT if getattr(record, name, None)}


class RateLimitedWarning:
    """A warning that can occur a thousand times a second, and is written once a minute."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._times = 0
        self._next: float | None = None

    def write(self, text: str) -> None:
        """Write the text and how often it occurred since the last line; nothing within a minute of that."""
        self._times += 1
        now = self._clock()
        if self._next is None or now >= self._next:
            self._log.warning("%s (%d time(s) since the last such line)", text, self._times)
            self._next, self._times = now + _PERIOD, 0


class SaidBefore:
    """Remembers what was said of whom, so that it is said once; of these, the most recent 1,000."""

    def __init__(self) -> None:
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()

    def note(self, about: str, what: str) -> bool:
        """Whether this was said before; from now on it was."""
        if (about, what) in self._said:
            self._said.move_to_end((about, what))
            return True
        self._said[about, what] = None
        if len(self._said) > _MOST_REMEMBERED:
            self._said.popitem(last=False)
        return False


class TextFormatter(logging.Formatter):
    """`[CommandQueue] ✅ Sent reboot to DEVICE-1 (command=… device=…)`; the platform adds the time."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class names it
        """One line, whatever a device put into it; a traceback follows on lines of its own."""
        fields = " ".join(f"{name}={value}" for name, value in _context_of(record).items())
        level = "" if record.levelno <= logging.INFO else f"{record.levelname} "
        line = f"{level}{record.message} ({fields})" if fields else f"{level}{record.message}"
        return line.replace("\r", "\\r").replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, and what the line is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Serialise the record; characters outside ASCII stay as they are."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context_of(record),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


class WorkerName(logging.Filter):
    """Adds the worker's name to every record of this package that does not name one."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        if record.name.startswith("mqtt_service") and not hasattr(record, "worker"):
            record.worker = self._worker
        return True


def configure_logging(level: str, style: Literal["text", "json"], worker: str) -> None:
    """Send every log line to standard output, ours from `level` on, other libraries' from WARNING on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(WorkerName(worker))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("mqtt_service").setLevel(level)
    # It logs each failed attempt as an error; `Doorbell` logs the same once, and what it does about it.
    logging.getLogger("realtime").setLevel(logging.CRITICAL)
