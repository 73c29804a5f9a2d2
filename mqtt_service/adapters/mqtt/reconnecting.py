"""When and how to connect again: pure decisions, without I/O."""

from mqtt_service.adapters.mqtt.broker_errors import HungUpError, ProtocolRefusedError
from mqtt_service.adapters.mqtt.client import V5, V311
from mqtt_service.backoff import delay_after
from mqtt_service.errors import ServiceError

# A connection that held this long, in seconds, starts the backoff over.
_STABLE = 30.0
# So many connections in a row that came up and were soon lost again are worth a warning.
_SUSPICIOUS = 3


def reconnect_delay(failures: int, jitter: float) -> float:
    """Seconds before the next attempt after `failures` in a row; `jitter` is random in 0…1."""
    return delay_after(failures) * (0.5 + jitter / 2)


class Attempts:
    """Counts the failures, and the connections that came up and were soon lost, in a row."""

    def __init__(self) -> None:
        self.failures = 0
        self.short_connections = 0

    def ended(self, *, seconds: float, was_up: bool) -> None:
        """An attempt ended after so long; `was_up`: the connection had been established."""
        if seconds > _STABLE:
            self.failures, self.short_connections = 1, 0
        else:
            self.failures += 1
            self.short_connections += was_up

    @property
    def suspicious(self) -> bool:
        """Whether another client with our id may be why connections are lost."""
        return self.short_connections >= _SUSPICIOUS


class ProtocolVersion:
    """MQTT 5, or 3.1.1 with a broker that does not support 5."""

    def __init__(self) -> None:
        self.current = self._newest = V5

    def choose_after(self, reason: ServiceError) -> bool:
        """Choose the version of the next attempt; True where it is an older one, to be tried at once."""
        if self.current == V5 and isinstance(reason, ProtocolRefusedError | HungUpError):
            self.current = V311
            # A broker that says so is believed for good; one that hung up gets MQTT 5 again the next time.
            if isinstance(reason, ProtocolRefusedError):
                self._newest = V311
            return True
        self.current = self._newest
        return False

    @property
    def name(self) -> str:
        """As people write it."""
        return "MQTT 5" if self.current == V5 else "MQTT 3.1.1"
