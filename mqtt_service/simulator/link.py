"""A simulated device's MQTT connection: one paho client on the event loop, without a thread of its own.

So hundreds of devices fit into one process. It connects again by itself, as firmware does.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.errors import BrokerUnavailableError
from mqtt_service.simulator.access import Access, tls_context

READY_SECONDS = 10.0
_RECONNECT_SECONDS = 0.5
_DISCONNECT_SECONDS = 1.0
_KEEPALIVE_SECONDS = 30


@dataclass(frozen=True)
class LinkOptions:
    """Where to connect and what to subscribe to at QoS 1; `keep_session`: the broker queues while away."""

    host: str
    port: int
    client_id: str
    subscriptions: tuple[str, ...]
    keep_session: bool = False
    access: Access = field(default_factory=Access)


@dataclass(frozen=True)
class ReceivedMessage:
    """One message as it came; `qos` and `retained` as the broker delivered it."""

    topic: str
    payload: bytes
    qos: int
    retained: bool


class DeviceLink:
    """An async context manager: connected and subscribed inside the block.

    Both callbacks run on the event loop: `on_message` for each message, `on_ready` each time the subscription
    works, so again after each reconnect. Raises BrokerUnavailableError if the first connection fails,
    PermanentError if the CA file cannot be read.
    """

    def __init__(
        self,
        options: LinkOptions,
        on_message: Callable[[ReceivedMessage], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._options = options
        self._on_message = on_message
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._lost = asyncio.Event()
        self._unacknowledged: dict[int, asyncio.Future[None]] = {}
        self._unsent: dict[int, asyncio.Future[None]] = {}
        self._client = self._make_client()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._connect()
                self._task = asyncio.create_task(self._stay_connected())
                await self._ready
        except OSError as error:
            await self._close()
            where = f"{self._options.host}:{self._options.port}"
            raise BrokerUnavailableError(
                f"A simulated device cannot reach the broker at {where} ({str(error) or 'no answer'}): "
                "check that it runs."
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Publish and wait: at QoS 1 for PUBACK, over a reconnect if need be; at QoS 0 until it was sent."""
        message = self._client.publish(topic, payload, qos=qos)
        if qos == 0 and message.rc != mqtt.MQTT_ERR_SUCCESS:
            return  # away from the broker: lost
        waiting = self._unacknowledged if qos else self._unsent
        waiting[message.mid] = done = self._loop.create_future()
        try:
            await done
        finally:
            waiting.pop(message.mid, None)

    def drop(self) -> None:
        """Close the socket without a DISCONNECT, as a device does that loses its radio; it comes back."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            connection.shutdown(socket.SHUT_RDWR)

    async def _connect(self) -> None:
        """Open the socket in a thread, since the name's resolution can take a while."""
        await asyncio.to_thread(
            self._client.connect, self._options.host, self._options.port, _KEEPALIVE_SECONDS
        )

    async def _stay_connected(self) -> None:
        while True:
            while not self._lost.is_set():
                self._client.loop_misc()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self._lost.wait()
            self._lost.clear()
            await asyncio.sleep(_RECONNECT_SECONDS)
            try:
                await self._connect()
            except OSError:
                self._lost.set()

    async def _close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._lost.clear()
        if self._client.disconnect() == mqtt.MQTT_ERR_SUCCESS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DISCONNECT_SECONDS):
                    await self._lost.wait()
        for waiting in [*self._unacknowledged.values(), *self._unsent.values()]:
            waiting.cancel()

    def _make_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, self._options.client_id, clean_session=not self._options.keep_session
        )
        client.connect_timeout = READY_SECONDS
        access = self._options.access
        if access.tls:
            client.tls_set_context(tls_context(access))
        if access.username is not None:
            client.username_pw_set(access.username, access.password)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_publish = self._acknowledged
        client.on_message = self._received
        client.on_socket_open = lambda _c, _u, sock: self._on_loop(
            self._loop.add_reader, sock, self._readable
        )
        client.on_socket_close = lambda _c, _u, sock: self._on_loop(self._forget, sock)
        client.on_socket_register_write = lambda _c, _u, sock: self._on_loop(
            self._loop.add_writer, sock, client.loop_write
        )
        client.on_socket_unregister_write = lambda _c, _u, sock: self._on_loop(self._loop.remove_writer, sock)
        return client

    def _readable(self) -> None:
        """Read; with TLS what was decrypted already does not show on the socket."""
        self._client.loop_read()
        while isinstance(connection := self._client.socket(), ssl.SSLSocket) and connection.pending():
            self._client.loop_read()

    def _on_loop(self, function: Callable[..., Any], *arguments: object) -> None:
        """Call now if this is the event loop, soon if this is the thread that connects."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._loop.call_soon_threadsafe(function, *arguments)
        else:
            function(*arguments)

    def _forget(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _connected(
        self,
        client: mqtt.Client,
        _userdata: object,
        _flags: object,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if not reason.is_failure:
            client.subscribe([(topic, 1) for topic in self._options.subscriptions])
        elif not self._ready.done():
            self._ready.set_exception(ConnectionRefusedError(str(reason)))

    def _subscribed(self, *_: object) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
        self._on_ready()

    def _disconnected(self, *_: object) -> None:
        self._lost.set()
        for sent in self._unsent.values():
            if not sent.done():
                sent.set_result(None)  # paho drops what was to be sent at QoS 0

    def _acknowledged(self, _client: mqtt.Client, _userdata: object, mid: int, *_: object) -> None:
        done = self._unacknowledged.get(mid) or self._unsent.get(mid)
        if done is not None and not done.done():
            done.set_result(None)

    def _received(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self._on_message(ReceivedMessage(message.topic, bytes(message.payload), message.qos, message.retain))
