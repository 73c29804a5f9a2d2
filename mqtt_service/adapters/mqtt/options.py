"""How to reach the broker and how to use it."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """Where the broker is and how to use it; durations in seconds.

    `client_id` must be the same at each start: the broker finds the session by it, and the session keeps what
    devices send while we are disconnected, for `session_expiry`. `max_in_flight` bounds publishes without
    PUBACK (a lower Receive Maximum of the broker wins); `max_inbound` bounds the messages that are being
    handled. The broker is asked to send no more than `window` unacknowledged messages: wide enough that a
    HELLO behind thousands of chunks gets here, where it goes before them.
    """

    host: str
    port: int
    tls: bool = True
    ca_file: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str = "mqtt-service"
    keepalive: int = 30
    session_expiry: int = 3600
    max_in_flight: int = 100
    max_inbound: int = 500
    window: int = 5_000
    connect_timeout: float = 10.0
    puback_timeout: float = 15.0
    slow_retry: float = 30.0

    @property
    def address(self) -> str:
        """`host:port`, for log lines."""
        return f"{self.host}:{self.port}"
