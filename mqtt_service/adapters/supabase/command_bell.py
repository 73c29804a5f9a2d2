"""How a connection hears of new commands: by rings of the database, or by an event for each row.

The database rings once for a statement, on a private topic (migration `…_doorbell.sql`). Whether rings come
depends on what a worker cannot see: `realtime.send`, a partition for the day, Realtime's reading of it. So a
worker that connects asks for a ring, and where none comes it subscribes to the rows, until the first ring.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pydantic import TypeAdapter
from realtime import (
    AsyncRealtimeChannel,
    AsyncRealtimeClient,
    RealtimeChannelOptions,
    RealtimePostgresChangesListenEvent,
    RealtimeSubscribeStates,
)

from mqtt_service.adapters.supabase.transport import DatabaseFunctions
from mqtt_service.errors import ServiceError

log = logging.getLogger(__name__)

TOPIC = "mqtt-service:commands"
_DUE = "due"
_TEST = "test"
_ROWS = "mqtt-service:rows"
# The hosted service connects to the database for the first of its clients: the first rings can be lost.
_AGAIN_AFTER = 1.0
_ANSWER_TIMEOUT = 3.0

_HANDED_OVER = TypeAdapter(bool)

State = Callable[[RealtimeSubscribeStates, Exception | None], None]


class RingGateway:
    """Asks the database to ring."""

    def __init__(self, database: DatabaseFunctions) -> None:
        self._database = database

    async def ring(self) -> bool:
        """Ring as a test; False where the database cannot. Only the ring's arrival shows that it works."""
        try:
            return await self._database.call("fn_ring_workers", _HANDED_OVER)
        except ServiceError as error:
            log.info("[REALTIME] The database cannot be asked to ring: %s", error)
            return False


class CommandBell:
    """Calls `on_command` for a ring or a row. `on_state` hears of the channels that it relies on."""

    def __init__(
        self,
        client: AsyncRealtimeClient,
        ring: Callable[[], Awaitable[bool]],
        on_command: Callable[[], None],
        on_state: State,
    ) -> None:
        self._client = client
        self._ring = ring
        self._on_command = on_command
        self._on_state = on_state
        self._tested = asyncio.Event()
        self._has_rung = False
        self._joined = False
        self._rows: AsyncRealtimeChannel | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def join_topic(self) -> bool:
        """Join where rings come; returns whether this worker is let into private channels at all."""
        topic = self._client.channel(TOPIC, channel_options(private=True))
        topic.on_broadcast(_TEST, lambda _: self._tested.set())
        topic.on_broadcast(_DUE, lambda _: self._on_ring())
        await topic.subscribe(self._topic_state)
        if not self._joined:
            await self._client.remove_channel(topic)  # the library would try for ever
        return self._joined

    async def listen(self, *, trusted: bool) -> None:
        """Return when commands are heard of, after `join_topic`.

        Not `trusted`: a ring that was asked for proves nothing. Whoever calls it limits the time, and ends it
        when the connection is lost.
        """
        if self._joined and trusted and await self._answers():
            return
        rows = self._client.channel(_ROWS, channel_options(private=self._joined))
        rows.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Insert,
            lambda _: self._on_command(),
            table="device_commands",
            schema="public",
            filter="status=eq.pending",
        )
        await join_changes(rows, self._rows_state)
        self._rows = rows
        log.info("[REALTIME] The database has not rung: each new row is listened to, until it rings")
        if self._has_rung:
            self._leave_rows()

    async def _answers(self) -> bool:
        """Whether a ring that is asked for comes, also where the response to the asking does not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                while not self._tested.is_set() and await self._ring():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_AGAIN_AFTER):
                            await self._tested.wait()
        return self._tested.is_set()

    def _topic_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        """A topic that is refused is done without; one that was joined must stay."""
        if state is RealtimeSubscribeStates.SUBSCRIBED:
            self._joined = True
        elif self._joined:
            self._on_state(state, error)

    def _rows_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if self._leaving is None:
            self._on_state(state, error)

    def _on_ring(self) -> None:
        self._has_rung = True
        self._tested.set()
        self._leave_rows()
        self._on_command()

    def _leave_rows(self) -> None:
        if self._rows is not None and self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(self._rows))
            log.info("[REALTIME] The database rings: rows are no longer listened to")

    async def _leave(self, channel: AsyncRealtimeChannel) -> None:
        with suppress(Exception):  # a connection that breaks now is noticed by who watches it
            await self._client.remove_channel(channel)


def channel_options(*, private: bool) -> RealtimeChannelOptions:
    """The library's defaults, which it has for public channels alone."""
    return {
        "config": {
            "broadcast": {"ack": False, "self": False},
            "presence": {"key": "", "enabled": False},
            "private": private,
        }
    }


async def join_changes(channel: AsyncRealtimeChannel, on_state: State) -> None:
    """Join, and wait for the message that says that changes flow, which follows the reply to the join."""
    confirmed = asyncio.Event()
    # The library calls this for successes alone; an error reaches `on_state`.
    channel.on_system(lambda _: confirmed.set())
    await channel.subscribe(on_state)
    await confirmed.wait()
