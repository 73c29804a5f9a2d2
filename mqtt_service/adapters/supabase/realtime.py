"""The doorbell: Realtime channels on `devices` and `device_commands`, supervised from outside.

An event only says "look now": what it announces is found by a query that would have found it anyway. So
losing one costs latency, and nothing here keeps state about commands or devices.

The library gives up after a few failed connects inside a task that nobody awaits, and a callback that raises
ends its listener. Hence one fresh client a connection, no reconnecting of its own, callbacks that cannot
raise, and a rebuild whenever the channel leaves the state in which events flow, the socket no longer answers
heartbeats, or the queue finds commands that rang no bell (see `silence`).
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
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

from mqtt_service.adapters.supabase.missed_events import MissedEvents
from mqtt_service.backoff import patiently
from mqtt_service.errors import RetryableError

log = logging.getLogger(__name__)

# The hosted service takes one to three seconds between the join and "Subscribed to PostgreSQL".
_SUBSCRIBE_DEADLINE = 20.0
_CONNECT_DEADLINE = 10
# A subscription that held this long starts the backoff over, in seconds.
_STABLE = 30.0
_LONGEST_DELAY = 15.0
# A socket that goes nowhere is known by its third heartbeat without an answer; the library's own are rarer.
_HEARTBEAT = 5.0
_MOST_UNANSWERED = 3


class RealtimeLostError(RetryableError):
    """The channel is not, or no longer, delivering events."""


@dataclass(frozen=True, slots=True)
class DoorbellStatus:
    """What /health says of Realtime; `since` is when the state last changed (UTC)."""

    connected: bool
    since: datetime
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom to call, on the event loop: for a new command, a device to welcome, a (re)joined channel."""

    on_command: Callable[[], None]
    on_mapping: Callable[[UUID], None]
    on_joined: Callable[[], None]


class Doorbell:
    """Listens to the project's Realtime with the key given, for ever."""

    def __init__(self, supabase_url: str, key: str, listeners: Listeners) -> None:
        self._url = f"{supabase_url}/realtime/v1"
        self._key = key
        self._listeners = listeners
        self._status = DoorbellStatus(connected=False, since=datetime.now(UTC))
        self._silence = MissedEvents()

    @property
    def status(self) -> DoorbellStatus:
        """The present state."""
        return self._status

    def found(self, inserted: float) -> None:
        """The queue found a command that was inserted then (on the loop's clock), or a little later."""
        self._silence.found(inserted)

    async def run(self) -> None:
        """Keep one working subscription until cancelled; each loss is one log line and a rebuild."""
        while True:
            async for attempt in patiently(self._announce, _LONGEST_DELAY):
                with attempt:
                    await self._listen_once()

    def _announce(self, error: BaseException, delay: float) -> None:
        self._set(connected=False, error=str(error))
        log.warning("[REALTIME] %s; commands go on at the pace of the poll, next try in %.1f s", error, delay)

    async def _listen_once(self) -> None:
        """Subscribe and stay until the subscription is lost.

        Raises RealtimeLostError if it was never had, or not for long, so that backoff applies.
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        session = _Session(self._url, self._key, self._listeners, self._rang)
        try:
            await session.subscribe()
            self._silence.joined(clock())
            # Whether it is back is known once something rings: a join that was silent before proves nothing.
            if not self._silence.broken:
                self._set(connected=True)
            log.info("[REALTIME] ✅ Device provisioning listener active")
            self._listeners.on_joined()
            reason = await session.lost_because(self._silence)
        finally:
            self._silence.left()
            await session.close()
        if clock() - started < _STABLE:
            raise RealtimeLostError(reason)
        self._set(connected=False, error=reason)
        log.warning(
            "[REALTIME] %s; subscribing again, meanwhile commands go on at the pace of the poll", reason
        )

    def _rang(self) -> None:
        if self._silence.rang(asyncio.get_running_loop().time()):
            self._set(connected=True)
            log.info("[REALTIME] ✅ Events arrive again")

    def _set(self, *, connected: bool, error: str | None = None) -> None:
        since = datetime.now(UTC) if connected != self._status.connected else self._status.since
        self._status = DoorbellStatus(connected, since, error)


class _Channels(dict[str, AsyncRealtimeChannel]):
    """The client's channels, which notes that a message came: the client looks up each one's channel here.

    Nothing public tells of replies to heartbeats.
    """

    heard = False

    def get(self, topic: str, default: Any = None) -> Any:  # noqa: ANN401 - as dict's
        """Look up a channel."""
        self.heard = True
        return super().get(topic, default)


class _Session:
    """One connection with one channel; `on_event` is called for each event, before its listener."""

    def __init__(self, url: str, key: str, listeners: Listeners, on_event: Callable[[], None]) -> None:
        self._client = AsyncRealtimeClient(
            url, token=key, auto_reconnect=False, max_retries=1, timeout=_CONNECT_DEADLINE
        )
        self._client.channels = self._channels = _Channels()
        self._key = key
        self._listeners = listeners
        self._on_event = on_event
        loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = loop.create_future()
        self._decided = asyncio.Event()  # events flow, or never will

    async def subscribe(self) -> None:
        """Join and wait for the message that says that events flow (a join's own reply comes before that)."""
        channel = self._client.channel("mqtt-service")
        # RLS keeps old values out of events, so the row says itself whether its welcome is due.
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Update,
            self._on_device,
            table="devices",
            schema="public",
            filter="welcome_due=eq.true",
        )
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Insert,
            self._on_command,
            table="device_commands",
            schema="public",
            filter="status=eq.pending",
        )
        channel.on_system(self._on_system)
        try:
            async with asyncio.timeout(_SUBSCRIBE_DEADLINE):
                await channel.subscribe(self._on_state)
                await self._decided.wait()
        except TimeoutError as error:
            raise RealtimeLostError(
                f"Realtime did not confirm the subscription within {_SUBSCRIBE_DEADLINE:.0f} s; is "
                "device_commands in the publication supabase_realtime?"
            ) from error
        except Exception as error:  # the library raises bare exceptions, and those of its WebSocket library
            raise RealtimeLostError(f"Realtime cannot be reached: {self._words_of(error)}") from error
        if self._lost.done():
            raise RealtimeLostError(self._lost.result())
        listener = self._client._listen_task  # noqa: SLF001 - nothing public tells that the listener has ended
        if listener is not None:
            listener.add_done_callback(lambda _: self._lose("the Realtime listener ended"))

    def _words_of(self, error: Exception) -> str:
        """What the error says, unless it quotes the address, of which the key is a part."""
        words = str(error)
        return type(error).__name__ if not words or self._key in words or "apikey" in words else words

    async def lost_because(self, silence: MissedEvents) -> str:
        """Wait until events may no longer arrive; returns why."""
        heartbeats = asyncio.create_task(self._send_heartbeats())
        heartbeats.add_done_callback(self._heartbeat_ended)
        unanswered = 0
        try:
            while not self._lost.done():
                self._channels.heard = False
                await asyncio.wait({self._lost}, timeout=_HEARTBEAT)
                # Counted, not timed: a process that was stopped for a while must listen before it judges.
                unanswered = 0 if self._channels.heard else unanswered + 1
                if unanswered >= _MOST_UNANSWERED:
                    self._lose(
                        f"Realtime has been silent for {_HEARTBEAT * unanswered:.0f} s, heartbeats included"
                    )
                elif silence.begins(asyncio.get_running_loop().time()):
                    self._lose("Realtime is connected but did not announce commands that the poll found")
        finally:
            heartbeats.cancel()
        return self._lost.result()

    def _heartbeat_ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        self._lose(f"the Realtime heartbeat ended: {type(error).__name__}")

    async def _send_heartbeats(self) -> None:
        """Never returns; in a task of its own, since sending waits where the network takes nothing."""
        while True:
            await self._client.send(Message(topic=PHOENIX_CHANNEL, event=ChannelEvents.heartbeat, payload={}))
            await asyncio.sleep(_HEARTBEAT)

    async def close(self) -> None:
        """Leave, whatever state the connection is in."""
        with suppress(Exception):  # a broken connection may fail in any way while it is closed
            async with asyncio.timeout(1):
                await self._client.close()

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)
            self._decided.set()

    def _on_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            self._lose(f"Realtime says {state.value}" + (f": {self._words_of(error)}" if error else ""))

    def _on_system(self, _: object) -> None:
        # The library calls this for successes alone; an error reaches `_on_state`.
        self._decided.set()

    def _on_command(self, _: object) -> None:
        self._call(self._listeners.on_command)

    def _on_device(self, event: Any) -> None:  # noqa: ANN401 - checked here, since a raise would end the listener
        def ring() -> None:
            self._listeners.on_mapping(UUID(event["data"]["record"]["device_id"]))

        self._call(ring)

    def _call(self, ring: Callable[[], None]) -> None:
        try:
            self._on_event()
            ring()
        except Exception:
            log.exception("[REALTIME] An event could not be handled; the poll will find what it announced")
