"""paho's client for one connection, and the way from its thread to the event loop.

Callbacks run on paho's thread. They only hand a call over to the event loop, where everything else happens:
a PUBACK that arrives before `publish()` has returned its id is thus looked at after that id is known. An
exception on paho's thread ends `loop_forever`, which reports it instead of leaving a client that looks alive.
"""

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.errors import ServiceError

log = logging.getLogger("mqtt_service.mqtt")

V5 = MQTTProtocolVersion.MQTTv5
V311 = MQTTProtocolVersion.MQTTv311


def new_properties(packet_type: int) -> Properties:
    """An empty set of MQTT 5 properties for this type of packet."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]  # paho gives it no types


class BrokerEvents(Protocol):
    """What a connection hears, on the event loop and in order; `thread_ended` comes last and always."""

    def connack(self, reason: ReasonCode, properties: Properties, *, session_present: bool) -> None:
        """The broker took or refused the connection."""

    def suback(self, reasons: list[ReasonCode]) -> None:
        """The broker answered for each subscription."""

    def unsuback(self) -> None:
        """The broker ended subscriptions."""

    def puback(self, mid: int, reason: ReasonCode) -> None:
        """The broker answered for a publish."""

    def message(self, message: mqtt.MQTTMessage) -> None:
        """A device said something."""

    def disconnected(self, reason: ReasonCode) -> None:
        """The broker's DISCONNECT."""

    def thread_ended(self, error: Exception | None) -> None:
        """Nothing more will be heard; `error` is what ended paho's thread, if it was an exception."""


class HandOver:
    """Runs calls from another thread on the event loop, in order, many in one wake-up."""

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        """Have this run soon; nothing happens once the loop is closed."""
        with self._lock:
            self._calls.append(call)
            scheduled = len(self._calls) > 1
        if not scheduled:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except ServiceError as error:
                self._on_fault(error)
            except Exception as error:
                log.exception("[MQTT] What the broker said could not be handled")
                self._on_fault(error)


class _TidySocket(ssl.SSLSocket):
    """Closes when the handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of ssl
        """Shake hands, or close."""
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _tls_context(options: MqttOptions) -> ssl.SSLContext:
    """Verifies certificate and name; with a CA file, against that CA alone."""
    context = ssl.create_default_context(cafile=options.ca_file)
    context.sslsocket_class = _TidySocket
    return context


class Client(mqtt.Client):
    """A client that connects once, on its own thread, tells `events` everything, and can be cut off.

    `last_received` is the monotonic time of the last packet from the broker. Raises OSError when the CA file
    cannot be read.
    """

    def __init__(
        self, options: MqttOptions, protocol: MQTTProtocolVersion, events: BrokerEvents, hand_over: HandOver
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if protocol == V5 else False,
            protocol=protocol,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.last_received = time.monotonic()
        self._events = events
        self._hand_over = hand_over
        self._cut = False
        # The slots of the connection are as many or fewer, so nothing ever waits inside paho.
        self.max_inflight_messages_set(options.max_in_flight)
        self.connect_timeout = options.connect_timeout / 2
        if options.username is not None:
            self.username_pw_set(options.username, options.password)
        if options.tls:
            self.tls_set_context(_tls_context(options))
        self._listen()
        self._prepare(options, protocol)

    def _prepare(self, options: MqttOptions, protocol: MQTTProtocolVersion) -> None:
        if protocol != V5:
            self.connect_async(options.host, options.port, options.keepalive)
            return
        properties = new_properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = options.session_expiry
        properties.ReceiveMaximum = options.max_inbound
        self.connect_async(
            options.host, options.port, options.keepalive, clean_start=False, properties=properties
        )

    def cut(self) -> None:
        """Break the connection off, also while it is being made; paho's thread ends by itself then."""
        self._cut = True
        self._shut()

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:  # noqa: ARG002, FBT001, FBT002 - paho's signature
        """Connect and serve until the connection ends; then report, whatever the reason."""
        failure: Exception | None = None
        rc = MQTTErrorCode.MQTT_ERR_UNKNOWN
        try:
            rc = super().loop_forever(timeout)
        except (OSError, UnicodeError) as error:
            failure = error.with_traceback(None)
        except Exception as error:
            log.exception("[MQTT] paho's thread failed; the connection is made anew")
            failure = error.with_traceback(None)
        self._shut()
        self._hand_over(partial(self._events.thread_ended, failure))
        self._fall_silent()
        return rc

    def _listen(self) -> None:
        """Install the callbacks; each runs on paho's thread."""
        tell, events = self._hand_over, self._events
        self.on_log = self._note_traffic
        self.on_socket_open = self._socket_opened
        self.on_connect = lambda _c, _u, flags, reason, properties: tell(
            partial(events.connack, reason, properties, session_present=flags.session_present)
        )
        self.on_subscribe = lambda _c, _u, _mid, reasons, _p: tell(partial(events.suback, reasons))
        self.on_unsubscribe = lambda *_: tell(events.unsuback)
        self.on_publish = lambda _c, _u, mid, reason, _p: tell(partial(events.puback, mid, reason))
        self.on_message = lambda _c, _u, message: tell(partial(events.message, message))
        self.on_disconnect = lambda _c, _u, flags, reason, _p: (
            tell(partial(events.disconnected, reason)) if flags.is_disconnect_packet_from_server else None
        )

    def _fall_silent(self) -> None:
        """Let go of the callbacks, so that the last reference to this client closes its sockets at once."""
        self.on_log = self.on_socket_open = self.on_connect = self.on_subscribe = None
        self.on_unsubscribe = self.on_publish = self.on_message = self.on_disconnect = None
        del self._events, self._hand_over

    def _note_traffic(self, _client: mqtt.Client, _userdata: object, _level: int, text: str) -> None:
        # The log is the only place where paho tells of a PINGRESP.
        if text.startswith("Received"):
            self.last_received = time.monotonic()

    def _socket_opened(self, _client: mqtt.Client, _userdata: object, _socket: object) -> None:
        # One that was cut off while it connected must not take the session from its successor.
        if self._cut:
            raise ConnectionAbortedError("cut off while connecting")

    def _shut(self) -> None:
        sock = self.socket()
        if isinstance(sock, socket.socket):
            # The plain method: that of SSLSocket takes the TLS layer away under paho's hands.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
