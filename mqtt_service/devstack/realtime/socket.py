"""One WebSocket of a client: its channels, and a bounded queue of what is still to be sent.

A client that reads too slowly is cut off when its queue is full; it joins again, and misses what a client
that was away misses.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.realtime import phoenix
from mqtt_service.devstack.realtime.auth import TokenRefusedError
from mqtt_service.devstack.realtime.channel import Channel
from mqtt_service.devstack.realtime.phoenix import Message
from mqtt_service.errors import RemoteProtocolError

QUEUE_LENGTH = 1_000
NORMAL_CLOSURE = 1000
UNEXPECTED_CONDITION = 1011

log = logging.getLogger(__name__)

OpenChannel = Callable[[Message, "Socket"], Channel]


class Socket:
    """Serves an upgrade request that has been let in; `open_channel` makes the channel for a join."""

    def __init__(
        self,
        websocket: WebSocket,
        *,
        version: str,
        open_channel: OpenChannel,
        faults: Faults,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        self._websocket = websocket
        self._version = version
        self._open_channel = open_channel
        self._faults = faults
        self._channels: dict[str, Channel] = {}
        self._unsent: asyncio.Queue[str | bytes] = asyncio.Queue(queue_length)
        self._ending: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Return when the client is gone or has been sent away."""
        await self._websocket.accept()
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._write())}
        ends: set[asyncio.Future[Any]] = {*tasks, self._ending}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._stop(tasks)
        if self._ending.done() and (code := self._ending.result()) is not None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # gone in the meantime
                await self._websocket.close(code)
        # Returning without a close frame makes the server drop the connection.

    def send(self, message: Message) -> None:
        """Queue a message; cut the client off if it has stopped reading."""
        if self._faults.realtime.silent:
            return
        try:
            self._unsent.put_nowait(phoenix.encode(message, self._version))
        except RemoteProtocolError as error:
            log.warning("A Realtime message is not sent: %s", error)
        except asyncio.QueueFull:
            if not self._ending.done():
                log.warning("A Realtime client is cut off: it left %d messages unread", self._unsent.maxsize)
            self.drop()

    def forget(self, channel: Channel) -> None:
        """Stop routing messages to the channel."""
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]

    def close(self, code: int = NORMAL_CLOSURE) -> None:
        """Say goodbye with a close frame."""
        if not self._ending.done():
            self._ending.set_result(code)

    def drop(self) -> None:
        """Close the connection without a word."""
        if not self._ending.done():
            self._ending.set_result(None)

    def close_channels(self) -> None:
        """End every channel from our side."""
        for channel in list(self._channels.values()):
            channel.close()

    def expire_tokens(self) -> None:
        """Treat every channel as one whose token has just expired."""
        for channel in list(self._channels.values()):
            channel.expire()

    async def _stop(self, tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        for channel in list(self._channels.values()):
            channel.end()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect):
                raise outcome

    async def _read(self) -> None:
        while (frame := await self._websocket.receive())["type"] != "websocket.disconnect":
            text = frame.get("text")
            if text is None:
                log.info("The embedded stack carries no broadcasts of clients: a binary frame is ignored")
                continue
            try:
                self._handle(phoenix.decode(text, self._version))
            except RemoteProtocolError as error:
                log.warning("A Realtime client is sent away: %s", error)
                self.close(UNEXPECTED_CONDITION)

    async def _write(self) -> None:
        while True:
            frame = await self._unsent.get()
            if isinstance(frame, str):
                await self._websocket.send_text(frame)
            else:
                await self._websocket.send_bytes(frame)

    def _handle(self, message: Message) -> None:
        channel = self._channels.get(message.topic)
        match message.event:
            case "heartbeat" if message.topic == "phoenix":
                self.send(phoenix.reply(message, {}))
            case "phx_join":
                self._join(message, channel)
            case "phx_leave":
                self.send(phoenix.reply(message, {}))
                if channel is not None:
                    channel.close()
            case _ if channel is not None:
                channel.handle(message)
            case _:
                self.send(phoenix.reply(message, {"reason": "unmatched topic"}, status="error"))

    def _join(self, join: Message, former: Channel | None) -> None:
        """Answer a join; who joins a topic twice loses the first channel, and is told so after the answer."""
        if not join.topic.startswith(phoenix.TOPIC_PREFIX) or join.topic == phoenix.TOPIC_PREFIX:
            reason = "TopicNameRequired: You must provide a topic name"
            self.send(phoenix.reply(join, {"reason": reason}, status="error"))
            return
        if former is not None:
            former.end()
        self._open(join)
        if former is not None:
            self.send(phoenix.close(former.topic, former.join_ref))

    def _open(self, join: Message) -> None:
        try:
            channel = self._open_channel(join, self)
        except TokenRefusedError as error:
            self.send(phoenix.reply(join, {"reason": str(error)}, status="error"))
            return
        self._channels[join.topic] = channel
        channel.start(join)
