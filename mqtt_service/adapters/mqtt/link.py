"""The link to the MQTT broker: connects, stays connected, publishes, and receives what devices send.

    MqttLink       keeps one connection up, and decides what to do when it ends
    Connection     one connection: CONNECT, subscriptions, PUBACKs, its end     connection.py
    Client         paho's client on its thread                                  client.py
    Receiver       handlers, and the MQTT acknowledgement after them            receiver.py

Nothing is published unless connected, and nothing is published again by itself: what the queue has to send is
kept in the database. Health is progress: a connection on which nothing is received is ended, and the link
connects again.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mqtt_service.adapters.mqtt import broker_errors
from mqtt_service.adapters.mqtt.ack_order import AckOrder
from mqtt_service.adapters.mqtt.broker_errors import SessionTakenOverError
from mqtt_service.adapters.mqtt.client import V5
from mqtt_service.adapters.mqtt.connection import Connection
from mqtt_service.adapters.mqtt.messages import AtOnce, Handler, HandlerAtOnce, InboundMessage
from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.adapters.mqtt.receiver import Receiver
from mqtt_service.adapters.mqtt.reconnecting import Attempts, ProtocolVersion, reconnect_delay
from mqtt_service.errors import BrokerUnavailableError, PermanentError, ServiceError
from mqtt_service.log import RateLimitedWarning
from mqtt_service.metrics import BROKER_CONNECTIONS
from mqtt_service.publisher import Done, PublishResult, Withdraw, outcome_of

log = logging.getLogger("mqtt_service.mqtt")

# A ping goes out after one keepalive without traffic, its answer soon after; paho checks once a second.
_MAX_SILENT_KEEPALIVES = 1.5
_MIN_WAIT_FOR_PINGRESP = 3.0
_CLOSE_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The link now, for /health; `since` is when it came up or went down, in UTC."""

    host: str
    port: int
    connected: bool
    protocol: str
    last_error: str | None
    since: datetime


class MqttLink:
    """The service's one link to its broker; all of it belongs to the event loop.

    A message is acknowledged to the broker once `at_once` or `handler` has handled it; see receiver.py for
    one that raises. `on_connected` is called each time the link comes up.
    `taken_over` is set when another client with our id has connected: the link then stays down, since both
    would disconnect each other for ever. Some brokers do not say that this is why they disconnect: so
    `has_newer_process` is asked before the next attempt.
    """

    def __init__(  # noqa: PLR0913 - what differs in the service and in each test
        self,
        options: MqttOptions,
        subscriptions: Sequence[str],
        handler: Handler,
        *,
        at_once: HandlerAtOnce = lambda _: AtOnce.TO_HANDLER,
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
        self._receiver = Receiver(
            handler,
            options.max_inbound,
            sleep,
            remember_for=2.0 * options.keepalive,
            at_once=at_once,
            window=options.window,
        )
        self._drops = RateLimitedWarning(log)
        self._protocol = ProtocolVersion()
        self._attempts = Attempts()
        self._connection: Connection | None = None
        self._connections = 0
        self._closing = False
        self._last_error: str | None = None
        self._since = datetime.now(UTC)

    @property
    def connected(self) -> bool:
        """Whether a publish can be tried now."""
        return self._connection is not None and self._connection.usable

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest message has waited to be handled; 0 where none does."""
        return self._receiver.longest_wait

    def session_started_at(self) -> float | None:
        """The monotonic time at which the broker's session began; None if that was before this process."""
        return self._receiver.session_started_at

    def describe(self) -> LinkStatus:
        """The link now."""
        error = self._last_error
        if self._connection is not None and self._connection.ended.done():  # perhaps this very moment
            error = str(self._connection.ended.result())
        options = self._options
        return LinkStatus(options.host, options.port, self.connected, self._protocol.name, error, self._since)

    def send(self, topic: str, payload: bytes, *, expiry_seconds: int | None, done: Done) -> Withdraw:
        """Publish at QoS 1, never retained; `done` is called once the broker has it, or does not take it.

        The broker drops it if no device has fetched it within `expiry_seconds` (MQTT 5). The error is a
        BrokerUnavailableError when not connected, an OutcomeUnknownError when the connection ended before the
        PUBACK, a PermanentError when the broker refuses the message; the one that is known at once is raised
        instead. Never published later or twice by itself; see `Sender.send` for what it returns.
        """
        connection = self._connection
        if connection is None or not connection.usable:
            raise BrokerUnavailableError(f"not connected: {self._last_error or 'the link is starting'}")
        return connection.send(topic, payload, expiry_seconds, done)

    async def publish(self, topic: str, payload: bytes, *, expiry_seconds: int | None) -> PublishResult:
        """The same for one message: returns when the broker has it, or raises why it has not.

        One whose caller is cancelled before its turn is not sent.
        """
        return await outcome_of(
            lambda done: self.send(topic, payload, expiry_seconds=expiry_seconds, done=done)
        )

    async def run(self) -> None:
        """Stay connected until cancelled or closed."""
        while not self._closing and not self.taken_over.is_set():
            started, connections = time.monotonic(), self._connections
            reason = await self._connect_and_stay()
            was_up = self._connections > connections
            self._attempts.ended(seconds=time.monotonic() - started, was_up=was_up)
            if self._attempts.suspicious:
                self._warn_of_shared_client_id()
            if was_up and await self._is_replaced():
                reason = broker_errors.taken_over(self._options)
            await self._wait_after(reason)
        if self.taken_over.is_set():
            await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Finish handling what was received, disconnect, and stay away; takes 2 s at most."""
        connection = self._connection
        if connection is not None and connection.usable:
            await connection.leave_groups(_CLOSE_TIMEOUT / 2)
        self._closing = True
        if connection is None or not connection.usable:
            return
        await self._receiver.drained(_CLOSE_TIMEOUT)
        connection.disconnect()
        await asyncio.wait({connection.ended}, timeout=_CLOSE_TIMEOUT)

    async def _connect_and_stay(self) -> ServiceError:
        """Returns why the connection failed or ended."""
        try:
            connection = Connection(
                self._options,
                self._protocol.current,
                self._subscriptions,
                self._receive,
                self._receiver.start_session,
            )
        except OSError as error:
            return PermanentError(f"MQTT_CA_FILE cannot be used ({error}); name a file of PEM certificates")
        self._connection = connection
        try:
            connection.start()
            return await self._until_ended(connection)
        finally:
            self._since = datetime.now(UTC)
            connection.end(BrokerUnavailableError("the MQTT link is stopping"))
            self._receiver.forget(connection.order)

    async def _until_ended(self, connection: Connection) -> ServiceError:
        timeout = self._options.connect_timeout
        either: list[asyncio.Future[Any]] = [connection.ready, connection.ended]
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not connection.ready.done():
            connection.end(
                BrokerUnavailableError(f"{self._options.address} did not answer for {timeout:.0f} s")
            )
            return connection.ended.result()
        self._came_up(connection)
        return await self._until_ended_or_silent(connection)

    async def _until_ended_or_silent(self, connection: Connection) -> ServiceError:
        """Ends a connection on which even the answer to a ping does not come."""
        keepalive = connection.ready.result().keepalive
        if not keepalive:  # the broker switched it off, so that nothing need be received
            return await connection.ended
        allowed = max(keepalive * _MAX_SILENT_KEEPALIVES, keepalive + _MIN_WAIT_FOR_PINGRESP)
        while not connection.ended.done():
            silent = time.monotonic() - connection.last_received
            if silent >= allowed:
                connection.end(
                    BrokerUnavailableError(f"{self._options.address} fell silent for {silent:.0f} s")
                )
            else:
                await asyncio.wait({connection.ended}, timeout=max(allowed - silent, 0.1))
        return connection.ended.result()

    def _came_up(self, connection: Connection) -> None:
        self._connections += 1
        BROKER_CONNECTIONS.inc()
        self._last_error = None
        self._since = datetime.now(UTC)
        downgraded = "" if self._protocol.current == V5 else " (MQTT 3.1.1)"
        log.info("[MQTT] ✅ Connected to %s%s", self._options.address, downgraded)
        if self._connections > 1 and not connection.ready.result().session_present:
            log.warning(
                "[MQTT] The broker did not keep our session: this worker missed what devices sent meanwhile"
            )
        self._on_connected()

    def _receive(self, message: InboundMessage, mid: int, order: AckOrder) -> None:
        if self._closing or self._receiver.receive(message, mid, order):
            return
        if message.qos:
            raise BrokerUnavailableError(
                "more messages came than can wait here; connecting again, the broker then repeats them"
            )
        self._drops.write(f"[MQTT] Dropped a message on {message.topic!r}, sent at QoS 0 faster than handled")

    async def _is_replaced(self) -> bool:
        """Whether a newer process uses our client id; False while nobody can tell."""
        if self._has_newer_process is None or self._closing:
            return False
        return await self._has_newer_process()

    def _warn_of_shared_client_id(self) -> None:
        """Mosquitto before 2.0.15 hangs up on a client whose id another takes, and does not say why."""
        log.warning(
            "[MQTT] The connection was lost %d times soon after it came up; if another process connects as"
            " MQTT_CLIENT_ID %s, give each its own",
            self._attempts.short_connections,
            self._options.client_id,
        )

    async def _wait_after(self, reason: ServiceError) -> None:
        """Log what happened, and wait before the next attempt as long as that deserves."""
        if self._closing:
            return
        self._last_error = str(reason)
        if isinstance(reason, SessionTakenOverError):
            log.warning("[MQTT] %s", reason)
            self.taken_over.set()
        elif self._protocol.choose_after(reason):
            log.debug("[MQTT] %s", reason)
        else:
            await self._pause(reason)

    async def _pause(self, reason: ServiceError) -> None:
        if isinstance(reason, PermanentError):
            delay, level = self._options.slow_retry, logging.ERROR
        else:
            delay, level = reconnect_delay(self._attempts.failures, self._jitter()), logging.WARNING
        log.log(level, "[MQTT] ❌ %s; next try in %.1f s", reason, delay)
        await self._sleep(delay)
