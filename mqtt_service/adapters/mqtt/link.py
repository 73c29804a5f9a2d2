"""The link to the MQTT broker: connects, stays connected, publishes, and hands in what devices say.

    MqttLink          keeps one connection up: backoff, watchdog, what to do when it ends
    Connection        one connection: CONNECT, subscriptions, PUBACKs, its end      connection.py
    Client            paho's client and thread, and the way to the event loop       client.py
    Inbound           handlers, and the MQTT acknowledgement after them             inbound.py

Nothing is published unless connected, and nothing is published again by itself: the queue's memory is the
database. Health is progress: a connection on which nothing moves is cut off and made anew.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from mqtt_service.adapters.mqtt import reasons
from mqtt_service.adapters.mqtt.client import V5, V311
from mqtt_service.adapters.mqtt.connection import Connection
from mqtt_service.adapters.mqtt.inbound import AckOrder, Inbound
from mqtt_service.adapters.mqtt.options import (
    Handler,
    InboundMessage,
    LinkStatus,
    MqttOptions,
)
from mqtt_service.adapters.mqtt.reasons import HungUpError, ProtocolRefusedError, SessionTakenOverError
from mqtt_service.errors import BrokerUnavailableError, PermanentError, ServiceError
from mqtt_service.log import Notice
from mqtt_service.publisher import PublishResult

__all__ = ["InboundMessage", "LinkStatus", "MqttLink", "MqttOptions"]

log = logging.getLogger("mqtt_service.mqtt")

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
# A connection that held this long starts the backoff over, in seconds.
_STABLE = 30.0
# A ping goes out after one keepalive without traffic; paho looks once a second.
_SILENCE = 1.5
_LEAST_SILENCE_AFTER_PING = 3.0
_PATIENCE = 1.0
# So many connections in a row that came up and were lost again call for a word.
_SUSPICIOUS = 3


def reconnect_delay(failures: int, jitter: float) -> float:
    """Seconds before the next attempt after `failures` in a row; `jitter` is random in 0…1."""
    return min(_FIRST_DELAY * 2.0 ** min(failures - 1, 16), _LONGEST_DELAY) * (0.5 + jitter / 2)


class MqttLink:
    """The service's one link to its broker; all of it belongs to the event loop.

    A message is acknowledged to the broker once `handler` has returned for it; see inbound.py for one
    that raises. `on_connected` is called each time the link comes up. `taken_over` is set when another
    client with our id has connected: the link then stays down, since to reconnect would be to fight. Brokers
    that put a client out without a word do not tell: then `has_newer_process` is asked before
    the next attempt.
    """

    def __init__(
        self,
        options: MqttOptions,
        subscriptions: Sequence[str],
        handler: Handler,
        *,
        on_connected: Callable[[], None] = lambda: None,
        has_newer_process: Callable[[], Awaitable[bool]] | None = None,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.taken_over = asyncio.Event()
        self._options = options
        self._subscriptions = tuple(subscriptions)
        self._on_connected = on_connected
        self._has_newer_process = has_newer_process
        self._jitter = jitter
        self._sleep = sleep
        self._inbound = Inbound(handler, options.max_inbound, sleep, remembered=2.0 * options.keepalive)
        self._drops = Notice(log)
        self._newest = self._protocol = V5
        self._connection: Connection | None = None
        self._connections = 0
        self._closing = False
        self._last_error: str | None = None
        self._since = datetime.now(UTC)
        self._last_progress = time.monotonic()

    @property
    def connected(self) -> bool:
        """Whether a publish can be tried now."""
        return self._connection is not None and self._connection.usable

    @property
    def last_progress(self) -> float:
        """The monotonic time of the last packet from the broker, or of the start."""
        if self._connection is not None and self.connected:
            self._last_progress = self._connection.last_received
        return self._last_progress

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest message has waited to be handled; 0 where none does."""
        return self._inbound.longest_wait

    def heard_since(self) -> float | None:
        """The monotonic time at which the broker's session began; None where it was there before us."""
        return self._inbound.session_began

    def describe(self) -> LinkStatus:
        """The link now."""
        version = "MQTT 5" if self._protocol == V5 else "MQTT 3.1.1"
        error = self._last_error
        if self._connection is not None and self._connection.ended.done():  # perhaps this very moment
            error = str(self._connection.ended.result())
        return LinkStatus(self._options.host, self._options.port, self.connected, version, error, self._since)

    async def publish(self, topic: str, payload: bytes, *, expiry_seconds: int | None) -> PublishResult:
        """Publish at QoS 1, never retained, and return when the broker has it.

        The broker drops it if no device has fetched it within `expiry_seconds` (MQTT 5). Raises
        BrokerUnavailableError when not connected, OutcomeUnknownError when the connection ended before the
        PUBACK; PermanentError when the broker refuses the message. Never published later or twice by itself.
        """
        connection = self._connection
        if connection is None or not connection.usable:
            raise BrokerUnavailableError(f"not connected: {self._last_error or 'the link is starting'}")
        return await connection.publish(topic, payload, expiry_seconds)

    async def run(self) -> None:
        """Stay connected until cancelled or closed."""
        failures = brief = 0
        while not self._closing and not self.taken_over.is_set():
            started, connections = time.monotonic(), self._connections
            reason = await self._one_connection()
            stable = time.monotonic() - started > _STABLE
            failures = 1 if stable else failures + 1
            brief = 0 if stable else brief + self._connections - connections
            if brief >= _SUSPICIOUS:
                self._suspect_a_namesake(brief)
            if self._connections > connections and await self._is_succeeded():
                reason = reasons.taken_over(self._options)
            await self._after(reason, failures)
        if self.taken_over.is_set():
            await asyncio.get_running_loop().create_future()

    async def _is_succeeded(self) -> bool:
        """Whether another process goes by our client id now; False while nobody can tell."""
        if self._has_newer_process is None or self._closing:
            return False
        return await self._has_newer_process()

    async def close(self) -> None:
        """Finish handling what was received, take leave of the broker, and stay away; takes 2 s at most."""
        connection = self._connection
        if connection is not None and connection.usable:
            await connection.leave_groups(_PATIENCE / 2)
        self._closing = True
        if connection is None or not connection.usable:
            return
        await self._inbound.drained(_PATIENCE)
        connection.disconnect()
        await asyncio.wait({connection.ended}, timeout=_PATIENCE)

    async def _one_connection(self) -> ServiceError:
        """Connect and stay; returns why it ended."""
        try:
            connection = Connection(
                self._options, self._protocol, self._subscriptions, self._take, self._inbound.begin_session
            )
        except OSError as error:
            return PermanentError(f"MQTT_CA_FILE cannot be used ({error}); name a file of PEM certificates")
        self._connection = connection
        try:
            connection.start()
            return await self._watch(connection)
        finally:
            self._last_progress = connection.last_received
            self._since = datetime.now(UTC)
            connection.end(BrokerUnavailableError("the MQTT link is stopping"))
            self._inbound.forget(connection.order)

    async def _watch(self, connection: Connection) -> ServiceError:
        timeout = self._options.connect_timeout
        either: list[asyncio.Future[Any]] = [connection.ready, connection.ended]
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not connection.ready.done():
            connection.end(
                BrokerUnavailableError(f"{self._options.address} did not answer for {timeout:.0f} s")
            )
            return connection.ended.result()
        self._announce(connection)
        return await self._until_silent(connection)

    async def _until_silent(self, connection: Connection) -> ServiceError:
        keepalive = connection.ready.result().keepalive
        longest = max(keepalive * _SILENCE, keepalive + _LEAST_SILENCE_AFTER_PING)
        if not keepalive:  # the broker switched it off, so nothing need move
            return await connection.ended
        while not connection.ended.done():
            silence = time.monotonic() - connection.last_received
            if silence >= longest:
                connection.end(
                    BrokerUnavailableError(f"{self._options.address} fell silent for {silence:.0f} s")
                )
            else:
                await asyncio.wait({connection.ended}, timeout=max(longest - silence, 0.1))
        return connection.ended.result()

    def _announce(self, connection: Connection) -> None:
        self._connections += 1
        self._last_error = None
        self._since = datetime.now(UTC)
        downgraded = "" if self._protocol == V5 else " (MQTT 3.1.1)"
        log.info("[MQTT] ✅ Connected to %s%s", self._options.address, downgraded)
        if self._connections > 1 and not connection.ready.result().session_present:
            log.warning(
                "[MQTT] The broker did not keep our session: what devices said meanwhile did not reach us"
            )
        self._on_connected()

    def _take(self, message: InboundMessage, mid: int, order: AckOrder) -> None:
        if self._closing or self._inbound.take(message, mid, order):
            return
        if message.qos:
            raise BrokerUnavailableError(
                "more messages came than max_inbound; the broker delivers them again"
            )
        self._drops.note(f"[MQTT] Dropped a message on {message.topic!r}, sent at QoS 0 faster than handled")

    def _suspect_a_namesake(self, times: int) -> None:
        """Mosquitto before 2.0.15 hangs up on a client whose id another takes, and does not say why."""
        log.warning(
            "[MQTT] The connection was lost %d times soon after it came up; if another process connects as"
            " MQTT_CLIENT_ID %s, give each its own",
            times,
            self._options.client_id,
        )

    async def _after(self, reason: ServiceError, failures: int) -> None:
        """Say what happened, and wait as long as that deserves."""
        if self._closing:
            return
        self._last_error = str(reason)
        if isinstance(reason, SessionTakenOverError):
            log.warning("[MQTT] %s", reason)
            self.taken_over.set()
        elif self._protocol == V5 and isinstance(reason, ProtocolRefusedError | HungUpError):
            log.debug("[MQTT] %s", reason)
            self._protocol = V311
            # One that says so is believed for good; one that hung up gets MQTT 5 again next time.
            if isinstance(reason, ProtocolRefusedError):
                self._newest = V311
        else:
            self._protocol = self._newest
            await self._pause(reason, failures)

    async def _pause(self, reason: ServiceError, failures: int) -> None:
        if isinstance(reason, PermanentError):
            delay, level = self._options.slow_retry, logging.ERROR
        else:
            delay, level = reconnect_delay(failures, self._jitter()), logging.WARNING
        log.log(level, "[MQTT] ❌ %s; next try in %.1f s", reason, delay)
        await self._sleep(delay)
