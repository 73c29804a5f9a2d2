"""A small service for a whole fleet, written by hand: it answers HELLOs and puts pictures together."""

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Self

from mqtt_service.simulator.incoming import device_key
from mqtt_service.simulator.link import DeviceLink, LinkOptions, ReceivedMessage
from tests.integration.simulator.device_harness import content

_SILENCE = 0.3


@dataclass
class Guest:
    """One device as the attendant knows it: where it is answered, what it has and what came of that."""

    root: str
    device_id: str
    to_ask: deque[str] = field(default_factory=deque)
    unnamed: int = 0
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    chunks: dict[str, dict[int, bytes]] = field(default_factory=dict)
    heard: asyncio.Event = field(default_factory=asyncio.Event)


class Attendant:
    """An async context manager. `stored` is every picture that was put together: (device_key, name) to bytes.

    `mute`: it says nothing. Pictures whose names are in `refused` it never confirms, the first time it sees
    them whole; it sends their device to sleep instead.
    """

    def __init__(self, host: str, port: int, *, mute: bool = False, refused: tuple[str, ...] = ()) -> None:
        self.stored: dict[tuple[str, str], bytes] = {}
        self.heartbeats = 0
        self._greeted = asyncio.Event()
        self._mute = mute
        self._refused = refused
        self._refusals: set[tuple[str, str]] = set()
        self._guests: dict[str, Guest] = {}
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        # A HELLO that comes while it is away, as a broker restarts, must wait for it.
        options = LinkOptions(host, port, "attendant", ("+/+/status", "+/+/data"), keep_session=True)
        self._link = DeviceLink(options, self._hear, lambda: None)

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.__aexit__(kind, error, trace)

    async def hears_a_heartbeat(self) -> None:
        """Return once any device woke."""
        async with asyncio.timeout(30):
            await self._greeted.wait()

    def _hear(self, message: ReceivedMessage) -> None:
        document = json.loads(message.payload)
        root, device_id, channel = message.topic.split("/")
        if channel == "status":
            self.heartbeats += 1
            self._greeted.set()
        if self._mute:
            return
        if channel == "status":
            self._welcome(Guest(root, device_id), document)
        else:
            self._take(self._guests[device_key(device_id)], document)

    def _welcome(self, guest: Guest, heartbeat: dict[str, Any]) -> None:
        pending = heartbeat.get("pendingImg", heartbeat.get("pending_count", 0))
        guest.to_ask.extend(heartbeat.get("pending_list", []))
        guest.unnamed = 0 if "pending_list" in heartbeat else pending
        self._guests[device_key(guest.device_id)] = guest
        task = asyncio.create_task(self._attend(guest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self, guest: Guest, document: dict[str, Any]) -> None:
        name = document["image_name"]
        if "chunk_id" in document:
            guest.chunks.setdefault(name, {})[document["chunk_id"]] = content(document)
        else:
            guest.metadata[name] = document
        guest.heard.set()

    async def _attend(self, guest: Guest) -> None:
        await self._ask_for_next(guest)
        while self._guests[device_key(guest.device_id)] is guest:
            guest.heard.clear()
            try:
                async with asyncio.timeout(_SILENCE):
                    await guest.heard.wait()
            except TimeoutError:
                await self._ask_for_missing(guest)
            for name in list(guest.metadata):
                if not _missing(guest, name):
                    await self._settle(guest, name)

    async def _ask_for_next(self, guest: Guest) -> None:
        if guest.to_ask:
            await self._command(guest, send_image=guest.to_ask.popleft())
        elif guest.unnamed:
            guest.unnamed -= 1
            await self._command(guest, capture_image=True)
        else:
            await self._command(guest, next_wake="4:00PM")

    async def _ask_for_missing(self, guest: Guest) -> None:
        for name in guest.metadata:
            if not guest.chunks.get(name):
                await self._command(guest, send_image=name)
            elif missing := _missing(guest, name):
                await self._reply(guest, name, missing_chunks=missing)

    async def _settle(self, guest: Guest, name: str) -> None:
        key = (device_key(guest.device_id), name)
        del guest.metadata[name]
        chunks = guest.chunks.pop(name)
        if name in self._refused and key not in self._refusals:
            self._refusals.add(key)
        else:
            self.stored[key] = b"".join(chunks[number] for number in sorted(chunks))
            await self._reply(guest, name, ACK_OK={"next_wake_time": "4:00PM"})
        await self._ask_for_next(guest)

    async def _command(self, guest: Guest, **fields: Any) -> None:
        await self._say(guest, "cmd", command_id=f"c{next(self._numbers)}", **fields)

    async def _reply(self, guest: Guest, name: str, **fields: Any) -> None:
        await self._say(guest, "ack", image_name=name, **fields)

    async def _say(self, guest: Guest, channel: str, **fields: Any) -> None:
        document = {"device_id": guest.device_id, **fields}
        topic = f"{guest.root}/{guest.device_id}/{channel}"
        await self._link.publish(topic, json.dumps(document).encode())


def _missing(guest: Guest, name: str) -> list[int]:
    metadata = guest.metadata[name]
    total = metadata.get("total_chunks_count") or metadata["total_chunk_count"]
    there = guest.chunks.get(name, {})
    numbers = range(1 if total in there else 0, total if 0 in there else total + 1)
    return [number for number in numbers if number not in there]
