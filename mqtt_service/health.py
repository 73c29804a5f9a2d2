"""What /health says, out of a snapshot of the worker: the Node service's document with what this one adds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from mqtt_service import __version__

Verdict = Literal["healthy", "degraded", "unhealthy"]

# A poll that is late by less than this may be waiting for a slow answer; beyond it nothing is being polled.
_MAX_LATE_POLLS = 3
_MAX_ANSWER_TIME = 15.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The worker at one moment; durations in seconds, `seconds_since_poll` None before the first success.

    `failing`: the parts that failed lately and were started again, by name, and why. `refused_count`: the
    commands that the project's database refuses to change, with one of them and its reason as an example.
    """

    mqtt_connected: bool
    mqtt_host: str
    mqtt_port: int
    mqtt_error: str | None
    queue_running: bool
    poll_interval: float
    seconds_since_poll: float | None
    last_poll_at: datetime | None
    supabase_error: str | None
    realtime_connected: bool
    realtime_error: str | None
    edge_error: str | None
    worker: str
    uptime: float
    failing: Mapping[str, str] = field(default_factory=dict)
    refused_count: int = 0
    refused_example: str | None = None

    @property
    def polling(self) -> bool:
        """Whether the database answered the last polls."""
        allowed = _MAX_LATE_POLLS * self.poll_interval + _MAX_ANSWER_TIME
        return (
            self.seconds_since_poll is not None
            and self.seconds_since_poll <= allowed
            and not self.supabase_error
        )

    @property
    def ready(self) -> bool:
        """Whether commands can be claimed and published now."""
        return self.mqtt_connected and self.queue_running and self.polling

    @property
    def verdict(self) -> Verdict:
        """`unhealthy`: no commands flow. `degraded`: only at the pace of the poll, or another part fails."""
        if not self.ready:
            return "unhealthy"
        troubled = self.edge_error or self.failing or self.refused_count
        return "healthy" if self.realtime_connected and not troubled else "degraded"


def health_document(snapshot: Snapshot) -> dict[str, object]:
    """The document. As in the Node service, `pollInterval` is in milliseconds, `uptime` in whole seconds."""
    return {
        "status": snapshot.verdict,
        "version": __version__,
        "worker": snapshot.worker,
        "mqtt": {
            "connected": snapshot.mqtt_connected,
            "host": snapshot.mqtt_host,
            "port": snapshot.mqtt_port,
            "error": snapshot.mqtt_error,
        },
        "supabase": {
            "connected": snapshot.polling,
            "lastSuccessfulPoll": snapshot.last_poll_at.isoformat() if snapshot.last_poll_at else None,
            "error": snapshot.supabase_error,
        },
        "realtime": {"connected": snapshot.realtime_connected, "error": snapshot.realtime_error},
        "edgeFunction": {"error": snapshot.edge_error},
        "commandQueue": {
            "running": snapshot.queue_running,
            "pollInterval": round(snapshot.poll_interval * 1000),
        },
        "failing": dict(snapshot.failing),
        "refused": {"count": snapshot.refused_count, "example": snapshot.refused_example},
        "uptime": int(snapshot.uptime),
    }


def plain_document(snapshot: Snapshot) -> dict[str, object]:
    """The same for anybody: no host, no error, no id."""
    return {
        "status": snapshot.verdict,
        "mqtt": {"connected": snapshot.mqtt_connected},
        "supabase": {"connected": snapshot.polling},
        "realtime": {"connected": snapshot.realtime_connected},
        "commandQueue": {"running": snapshot.queue_running},
        "uptime": int(snapshot.uptime),
    }
