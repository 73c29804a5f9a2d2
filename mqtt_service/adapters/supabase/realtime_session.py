"""One connection to Realtime with its channels, from their join to the loss of one.

The library gives up after a few failed connects inside a task that nobody awaits, and a callback that raises
ends its listener. So each connection gets a fresh client that does not reconnect by itself, callbacks do not
raise, and whatever shows that events may no longer arrive ends the session.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from realtime import (
    AsyncRealtimeChannel,
    AsyncRealtimeClient,
    RealtimePostgresChangesListenEvent,
    RealtimeSubscribeStates,
)
from realtime.message import Message
from realtime.types import PHOENIX_CHANNEL, ChannelEvents

from mqtt_service.adapters.supabase.command_bell import CommandBell, channel_options, join_changes
from mqtt_service.adapters.supabase.missed_events import MissedEvents
from mqtt_service.errors import RetryableError

log = logging.getLogger(__name__)

# The hosted service takes one to three seconds between the join and "Subscribed to PostgreSQL".
_SUBSCRIBE_TIMEOUT = 20.0
_CONNECT_TIMEOUT = 10
_CLOSE_TIMEOUT = 1.0
# A dead socket is detected by the third heartbeat without an answer; the library's own are rarer.
_HEARTBEAT = 5.0
_MAX_UNANSWERED = 3


class RealtimeLostError(RetryableError):
    """A channel is not, or no longer, delivering events."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom to call, on the event loop: for new commands, a device to welcome, (re)joined channels."""

    on_command: Callable[[], None]
    on_mapping: Callable[[UUID], None]
    on_joined: Callable[[], None]


class _Channels(dict[str, AsyncRealtimeChannel]):
    """The client's channels. The client looks up each message's channel here, which shows that one came.

    The library has no public sign of replies to heartbeats.
    """

    message_came = False

    def get(self, topic: str, default: Any = None) -> Any:  # noqa: ANN401 - as dict's
        """Look up a channel."""
        self.message_came = True
        return super().get(topic, default)


class RealtimeSession:
    """One connection; `on_event` is called for each event, before its listener.

    `ring` asks the database to ring; see `RingGateway`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        listeners: Listeners,
        on_event: Callable[[], None],
        ring: Callable[[], Awaitable[bool]],
    ) -> None:
        self._client = AsyncRealtimeClient(
            url, token=key, auto_reconnect=False, max_retries=1, timeout=_CONNECT_TIMEOUT
        )
        self._client.channels = self._channels = _Channels()
        self._key = key
        self._listeners = listeners
        self._on_event = on_event
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._bell = CommandBell(self._client, ring, self._on_command, self._on_state)

    async def subscribe(self, *, trusted: bool) -> None:
        """Join, and return when events flow; see `CommandBell.listen` on `trusted`.

        Raises RealtimeLostError.
        """
        joining = asyncio.create_task(self._join(trusted=trusted))
        try:
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT):
                ends: set[asyncio.Future[Any]] = {joining, self._lost}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if joining.done():
                    await joining
        except TimeoutError as error:
            raise RealtimeLostError(
                f"Realtime did not confirm the subscription within {_SUBSCRIBE_TIMEOUT:.0f} s; are "
                "devices and device_commands in the publication supabase_realtime?"
            ) from error
        except Exception as error:  # the library raises bare exceptions, and those of its WebSocket library
            raise RealtimeLostError(f"Realtime cannot be reached: {self._describe(error)}") from error
        finally:
            joining.cancel()
        if self._lost.done():
            raise RealtimeLostError(self._lost.result())
        listener = self._client._listen_task  # noqa: SLF001 - there is no public sign of its end
        if listener is not None:
            listener.add_done_callback(lambda _: self._lose("the Realtime listener ended"))

    async def _join(self, *, trusted: bool) -> None:
        # Private where that is allowed: a project can be set not to have public channels.
        private = await self._bell.join_topic()
        await join_changes(self._devices(private=private), self._on_state)
        await self._bell.listen(trusted=trusted)

    def _devices(self, *, private: bool) -> AsyncRealtimeChannel:
        channel = self._client.channel("mqtt-service", channel_options(private=private))
        # RLS keeps old values out of events, so the row says itself whether its welcome is due.
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Update,
            self._on_device,
            table="devices",
            schema="public",
            filter="welcome_due=eq.true",
        )
        return channel

    async def wait_until_lost(self, missed: MissedEvents) -> str:
        """Wait until events may no longer arrive; returns why."""
        heartbeats = asyncio.create_task(self._send_heartbeats())
        heartbeats.add_done_callback(self._heartbeat_ended)
        unanswered = 0
        try:
            while not self._lost.done():
                self._channels.message_came = False
                await asyncio.wait({self._lost}, timeout=_HEARTBEAT)
                # Counted, not timed: a process that was stopped for a while must listen before it judges.
                unanswered = 0 if self._channels.message_came else unanswered + 1
                if unanswered >= _MAX_UNANSWERED:
                    self._lose(
                        f"Realtime has been silent for {_HEARTBEAT * unanswered:.0f} s, heartbeats included"
                    )
                elif missed.newly_broken(asyncio.get_running_loop().time()):
                    self._lose("Realtime is connected but did not announce commands that the poll found")
        finally:
            heartbeats.cancel()
        return self._lost.result()

    async def close(self) -> None:
        """Close the connection, whatever state it is in."""
        with suppress(Exception):  # a broken connection may fail in any way while it is closed
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._client.close()

    async def _send_heartbeats(self) -> None:
        """Never returns; in a task of its own, since sending can block."""
        while True:
            await self._client.send(Message(topic=PHOENIX_CHANNEL, event=ChannelEvents.heartbeat, payload={}))
            await asyncio.sleep(_HEARTBEAT)

    def _heartbeat_ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        self._lose(f"the Realtime heartbeat ended: {type(error).__name__}")

    def _describe(self, error: Exception) -> str:
        """What the error says, unless it quotes the address, of which the key is a part."""
        text = str(error)
        return type(error).__name__ if not text or self._key in text or "apikey" in text else text

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    def _on_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            self._lose(f"Realtime says {state.value}" + (f": {self._describe(error)}" if error else ""))

    def _on_command(self) -> None:
        self._call(self._listeners.on_command)

    def _on_device(self, event: Any) -> None:  # noqa: ANN401 - checked here, since a raise would end the listener
        self._call(lambda: self._listeners.on_mapping(UUID(event["data"]["record"]["device_id"])))

    def _call(self, listener: Callable[[], None]) -> None:
        try:
            self._on_event()
            listener()
        except Exception:
            log.exception("[REALTIME] An event could not be handled; the poll will find what it announced")
