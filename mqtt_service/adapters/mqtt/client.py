"""paho's client for one connection, on a thread of its own.

Callbacks run on that thread. They only pass a call to the event loop, where everything else happens: so a
PUBACK that arrives before `publish()` has returned its packet id is handled after that id is known. An
exception on paho's thread ends `loop_forever`, which reports it instead of leaving a client that looks alive.

Each system call gives the interpreter away, and a busy event loop keeps it for milliseconds. paho makes three
and more for a packet that it reads, two for an acknowledgement that it sends; so packets are read here by the
buffer, messages are taken from it by publish_packets.py, and acknowledgements are sent by the batch.
"""

import logging
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Protocol

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt.loop_bridge import LoopBridge
from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.adapters.mqtt.publish_packets import Publish, read_publishes

log = logging.getLogger("mqtt_service.mqtt")

V5 = MQTTProtocolVersion.MQTTv5
V311 = MQTTProtocolVersion.MQTTv311

_READ_BYTES = 64 * 1024
# A PUBACK without reason code and properties is a success (MQTT 5, section 3.4.2.1; MQTT 3.1.1, section 3.4).
_PUBACK = struct.Struct("!BBH")
_PUBACK_LENGTH = 2


def new_properties(packet_type: int) -> Properties:
    """An empty set of MQTT 5 properties for this type of packet."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]  # paho gives it no types


class BrokerEvents(Protocol):
    """What the client reports, on the event loop and in order; `thread_ended` always comes, and last."""

    def connack(self, reason: ReasonCode, properties: Properties, *, session_present: bool) -> None:
        """The broker accepted or refused the connection."""

    def suback(self, reasons: list[ReasonCode]) -> None:
        """The broker accepted or refused each subscription."""

    def unsuback(self) -> None:
        """The broker ended subscriptions."""

    def puback(self, mid: int, reason: ReasonCode) -> None:
        """The broker accepted or refused a publish."""

    def messages(self, messages: list[Publish]) -> None:
        """Devices sent these."""

    def disconnected(self, reason: ReasonCode) -> None:
        """The broker sent DISCONNECT."""

    def thread_ended(self, error: Exception | None) -> None:
        """Nothing more is reported; `error` is the exception that ended paho's thread, if there was one."""


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of ssl
        """Do the handshake, or close."""
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _tls_context(options: MqttOptions) -> ssl.SSLContext:
    """A context that verifies certificate and name; with a CA file, against that CA alone."""
    context = ssl.create_default_context(cafile=options.ca_file)
    context.sslsocket_class = _ClosingSocket
    return context


class Client(mqtt.Client):
    """A client that connects once, on its own thread, and reports to `events` through `bridge`.

    `last_received` is the monotonic time at which something came from the broker last. Raises OSError when
    the CA file cannot be read.
    """

    def __init__(
        self, options: MqttOptions, protocol: MQTTProtocolVersion, events: BrokerEvents, bridge: LoopBridge
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if protocol == V5 else options.session_expiry == 0,
            protocol=protocol,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.last_received = time.monotonic()
        self._events = events
        self._bridge = bridge
        self._aborted = False
        self._v5 = protocol == V5
        # What came from the socket and was not taken yet.
        self._unread = BytesIO()
        # `InFlight` admits as many or fewer, so nothing ever waits inside paho.
        self.max_inflight_messages_set(options.max_in_flight)
        self.connect_timeout = options.connect_timeout / 2
        if options.username is not None:
            self.username_pw_set(options.username, options.password)
        if options.tls:
            self.tls_set_context(_tls_context(options))
        self._install_callbacks()
        self._set_broker(options, protocol)

    def _set_broker(self, options: MqttOptions, protocol: MQTTProtocolVersion) -> None:
        if protocol != V5:
            self.connect_async(options.host, options.port, options.keepalive)
            return
        properties = new_properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = options.session_expiry
        properties.ReceiveMaximum = options.window
        self.connect_async(
            options.host, options.port, options.keepalive, clean_start=False, properties=properties
        )

    def abort(self) -> None:
        """Break the connection off, also while it is being made; paho's thread then ends by itself."""
        self._aborted = True
        self._shut_socket()

    def acknowledge(self, mids: Iterable[int]) -> None:
        """Send a PUBACK for each of these packet ids, in this order and in one packet of the network."""
        packets = b"".join(_PUBACK.pack(mqtt.PUBACK, _PUBACK_LENGTH, mid) for mid in mids)
        if packets and self.socket() is not None:
            self._packet_queue(mqtt.PUBACK, packets, mid=0, qos=0)

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002 - paho's signature
        """Read what the socket has, and handle each packet that is complete by then."""
        try:
            received = super()._sock_recv(_READ_BYTES)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if not received:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        self._unread = BytesIO(received)
        self.last_received = time.monotonic()
        while self.socket() is not None:
            self._take_messages(received)
            rc = self._packet_read()
            if rc == MQTTErrorCode.MQTT_ERR_AGAIN:
                break
            if rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return self._loop_rc_handle(rc)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _take_messages(self, received: bytes) -> None:
        """Report the messages that come next in what was read, unless paho is in the middle of a packet."""
        if self._in_packet["command"]:
            return
        messages, end = read_publishes(received, self._unread.tell(), v5=self._v5)
        if messages:
            self._unread.seek(end)
            with self._msgtime_mutex:  # paho pings when nothing came for a keepalive
                self._last_bytes_received = self.last_received
            self._bridge(partial(self._events.messages, messages))

    def _sock_recv(self, bufsize: int) -> bytes:
        """What paho reads a packet with, byte by byte where it does not know the length."""
        data = self._unread.read(bufsize)
        if not data:
            raise BlockingIOError
        return data

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:  # noqa: ARG002, FBT001, FBT002 - paho's signature
        """Connect and serve until the connection ends; then report, whatever the reason."""
        failure: Exception | None = None
        rc = MQTTErrorCode.MQTT_ERR_UNKNOWN
        try:
            rc = super().loop_forever(timeout)
        except (OSError, UnicodeError) as error:
            failure = error.with_traceback(None)
        except Exception as error:
            log.exception("[MQTT] paho's thread failed; connecting again")
            failure = error.with_traceback(None)
        self._shut_socket()
        self._bridge(partial(self._events.thread_ended, failure))
        self._remove_callbacks()
        return rc

    def _install_callbacks(self) -> None:
        """Each runs on paho's thread and passes the event on."""
        tell, events = self._bridge, self._events
        self.on_socket_open = self._socket_opened
        self.on_connect = lambda _c, _u, flags, reason, properties: tell(
            partial(events.connack, reason, properties, session_present=flags.session_present)
        )
        self.on_subscribe = lambda _c, _u, _mid, reasons, _p: tell(partial(events.suback, reasons))
        self.on_unsubscribe = lambda *_: tell(events.unsuback)
        self.on_publish = lambda _c, _u, mid, reason, _p: tell(partial(events.puback, mid, reason))
        self.on_message = lambda _c, _u, message: tell(partial(events.messages, [_as_publish(message)]))
        self.on_disconnect = lambda _c, _u, flags, reason, _p: (
            tell(partial(events.disconnected, reason)) if flags.is_disconnect_packet_from_server else None
        )

    def _remove_callbacks(self) -> None:
        """Break the reference cycles, so that the sockets close with the last reference to this client."""
        self.on_socket_open = self.on_connect = self.on_subscribe = None
        self.on_unsubscribe = self.on_publish = self.on_message = self.on_disconnect = None
        del self._events, self._bridge

    def _socket_opened(self, _client: mqtt.Client, _userdata: object, _socket: object) -> None:
        # A client that was aborted while it connected must not take the session from the next one.
        if self._aborted:
            raise ConnectionAbortedError("aborted while connecting")

    def _shut_socket(self) -> None:
        sock = self.socket()
        if isinstance(sock, socket.socket):
            # The plain socket's method: SSLSocket's own would remove the TLS layer while paho still uses it.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _as_publish(message: mqtt.MQTTMessage) -> Publish:
    """A message that paho put together, since it came in several reads."""
    try:
        topic = message.topic
    except UnicodeDecodeError:
        topic = "\ufffd"
    return Publish(topic, bytes(message.payload), message.qos, message.dup, message.retain, message.mid)
