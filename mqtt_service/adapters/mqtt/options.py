"""How to reach the broker, and what passes between the MQTT link and the rest: frozen values."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """Where the broker is and how to use it; durations in seconds.

    `client_id` must be the same each time, or the broker's session (which keeps what devices say while we
    are away, for `session_expiry`) is never found again. `max_in_flight` bounds publishes without PUBACK, the
    broker's own Receive Maximum goes before it; `max_inbound` bounds messages that handlers hold.
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
    connect_timeout: float = 10.0
    puback_timeout: float = 15.0
    slow_retry: float = 30.0

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message from the broker; `duplicate`: it may have been delivered before.

    `packet_id` is then the same as before. It is None where it says little: some brokers take the lowest
    free number, so that one message after the other has it; one above `max_inbound` shows that they count.
    `heard_at` is monotonic.
    """

    topic: str
    payload: bytes
    qos: int
    duplicate: bool
    packet_id: int | None = None
    heard_at: float = field(default_factory=time.monotonic, compare=False)


Handler = Callable[[InboundMessage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The link now, for /health; `since` is when it came up or went down, in UTC."""

    host: str
    port: int
    connected: bool
    protocol: str
    last_error: str | None
    since: datetime
