"""Realtime: whether events arrive that this causes itself.

A ring as a test wakes no worker's queue. A device's row is written as it is: that is an event, and changes
nothing, unless a trigger of the project acts on it; then it is left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx
from postgrest.exceptions import APIError
from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent, RealtimeSubscribeStates
from supabase import AsyncClient

from mqtt_service.adapters.supabase import api_errors
from mqtt_service.adapters.supabase.command_bell import TOPIC, RingGateway, channel_options, join_changes
from mqtt_service.doctor.findings import Finding

_CONNECT_TIMEOUT = 10
_JOIN_TIMEOUT = 20.0
# The first events can be lost while the hosted service connects to the database.
_AGAIN_AFTER = 1.5
_TRIES = 6
_CLOSE_TIMEOUT = 1.0
_NETWORK = "let this machine open WebSockets (wss://) to SUPABASE_URL; see Realtime's state in the dashboard"
_FALLBACK = "workers listen to each row instead"


@dataclass(frozen=True, slots=True)
class Project:
    """Where events come from, and what may make them; `foreign_triggers` as `<table>.<trigger>`."""

    url: str
    key: str
    client: AsyncClient
    ring: RingGateway
    foreign_triggers: Sequence[str] = ()
    published: bool = True


async def inspect_realtime(project: Project) -> Iterable[Finding]:
    """Join as a worker does, and wait for a ring and for the event of a row."""
    client = AsyncRealtimeClient(
        f"{project.url}/realtime/v1",
        token=project.key,
        auto_reconnect=False,
        max_retries=1,
        timeout=_CONNECT_TIMEOUT,
    )
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT + 1):
            await client.connect()
    except Exception as error:  # noqa: BLE001 - the library raises bare exceptions
        # Only by name: the text can quote the address, of which the key is a part.
        seen = f"Realtime does not answer ({type(error).__name__})"
        return [Finding("ring", "broken", seen, _NETWORK)]
    try:
        return [await _ring(client, project), await _row_event(client, project)]
    finally:
        with suppress(Exception):  # a broken connection may fail in any way while it is closed
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await client.close()


async def _ring(client: AsyncRealtimeClient, project: Project) -> Finding:
    heard = asyncio.Event()
    topic = client.channel(TOPIC, channel_options(private=True))
    topic.on_broadcast("test", lambda _: heard.set())
    if not await _joined(topic.subscribe):
        cure = "set SUPABASE_SECRET_KEY to a secret key; private channels are open to service_role alone"
        return Finding("ring", "warning", f"the private topic {TOPIC} cannot be joined: {_FALLBACK}", cure)
    handed_over = True
    for _ in range(_TRIES):
        handed_over = await project.ring.ring()
        if not handed_over or await _set_within(heard, _AGAIN_AFTER):
            break
    if heard.is_set():
        return Finding("ring", "ok", "one was asked for, and came")
    if not handed_over:
        cure = "apply the migrations as postgres; realtime.send must be there and executable by their owner"
        return Finding("ring", "warning", f"the database cannot ring: {_FALLBACK}", cure)
    cure = "see Realtime's logs in the dashboard: realtime.messages needs a partition for today"
    return Finding("ring", "warning", f"the database rang, and nothing came: {_FALLBACK}", cure)


async def _row_event(client: AsyncRealtimeClient, project: Project) -> Finding:
    if not project.published:
        cure = "see publication, above"
        return Finding("row_events", "broken", "a table is not published, so mappings are not heard of", cure)
    heard = asyncio.Event()
    channel = client.channel("mqtt-service-doctor", channel_options(private=False))
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.Update, lambda _: heard.set(), table="devices", schema="public"
    )
    if not await _joined(lambda on_state: join_changes(channel, on_state)):
        return Finding("row_events", "broken", "Realtime did not confirm that changes flow", _NETWORK)
    acting = [trigger for trigger in project.foreign_triggers if trigger.startswith("devices.")]
    if acting:
        seen = f"joined; no row was written, since your trigger {acting[0]} would act on it"
        return Finding("row_events", "ok", seen)
    for _ in range(_TRIES):
        if not await _write_device_as_it_is(project.client):
            return Finding("row_events", "ok", "joined; there is no device yet whose row could be written")
        if await _set_within(heard, _AGAIN_AFTER):
            return Finding("row_events", "ok", "a device's row was written as it is, and the event came")
    cure = "see Realtime's logs in the dashboard: it may have lost its replication slot; restart the project"
    return Finding("row_events", "broken", "a device's row was written, and no event came", cure)


State = Callable[[RealtimeSubscribeStates, Exception | None], None]


async def _joined(join: Callable[[State], Awaitable[object]]) -> bool:
    """Whether a join is confirmed."""
    refused, joined = asyncio.Event(), asyncio.Event()

    def on_state(state: RealtimeSubscribeStates, _error: Exception | None) -> None:
        (joined if state is RealtimeSubscribeStates.SUBSCRIBED else refused).set()

    async def joining() -> None:
        await join(on_state)
        await joined.wait()

    tasks = {asyncio.create_task(joining()), asyncio.create_task(refused.wait())}
    try:
        await asyncio.wait(tasks, timeout=_JOIN_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return joined.is_set() and not refused.is_set()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def _write_device_as_it_is(client: AsyncClient) -> bool:
    """Update one device's id to itself; False where there is no device."""
    table = client.table("devices")
    try:
        found = await table.select("device_id").limit(1).execute()
        rows = found.data
        if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
            return False
        device_id = str(rows[0]["device_id"])
        await table.update({"device_id": device_id}).eq("device_id", device_id).execute()
    except httpx.HTTPError as error:
        raise api_errors.from_network_error(error, "devices") from error
    except APIError as error:
        raise api_errors.from_api_error(error, "devices") from error
    return True
