"""Reads messages out of `realtime.messages` as they are committed, and hands each to who joined its topic.

A task and a slot of its own, beside the feed of changes: neither waits for the other, and nothing orders what
they deliver. As in the real service, messages are a stream of the write-ahead log, while changes are polled;
and what is committed while there is no slot is lost.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import psycopg

from mqtt_service.devstack.realtime.feed import RETRY_SECONDS
from mqtt_service.devstack.realtime.messages_table import (
    PARTITIONS_SECONDS,
    PUBLICATION,
    keep_partitions,
    publish_messages,
)
from mqtt_service.devstack.realtime.pgoutput import Decoder, Row
from mqtt_service.devstack.realtime.stream import ReplicationStream

log = logging.getLogger(__name__)


class TopicListener(Protocol):
    """A channel on a topic. Its method neither blocks nor raises."""

    def broadcast(self, event: str, payload: Any, message_id: str) -> None:  # noqa: ANN401 - any JSON
        """Take one message."""


class BroadcastFeed:
    """What the database at `url` (a superuser's) sends, by topic and by whether that is private."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._listeners: dict[TopicListener, tuple[str, bool]] = {}

    def listen(self, listener: TopicListener, topic: str, *, private: bool) -> None:
        """Hand over the messages of this topic from now on; those of a private one are kept from a public."""
        self._listeners[listener] = (topic, private)

    def forget(self, listener: TopicListener) -> None:
        """Hand over nothing more."""
        self._listeners.pop(listener, None)

    async def run(self) -> None:
        """Read until cancelled. After a failure, log it and start afresh."""
        while True:
            try:
                await self._read_one_slot()
            except psycopg.Error as error:
                log.warning("Realtime lost the database's messages and connects again: %s", error)
            except Exception:
                log.exception("Realtime failed to read the messages and starts afresh")
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_one_slot(self) -> None:
        clock = asyncio.get_running_loop().time
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            await keep_partitions(connection)
            partitions_due = clock() + PARTITIONS_SECONDS
            await publish_messages(connection)
            async with await ReplicationStream.open(self._url, PUBLICATION) as stream:
                decoder = Decoder()
                while True:
                    for data in await stream.read(partitions_due - clock()):
                        await self._take(decoder, data)
                    if clock() >= partitions_due:
                        await keep_partitions(connection)
                        partitions_due = clock() + PARTITIONS_SECONDS

    async def _take(self, decoder: Decoder, data: bytes) -> None:
        change = decoder.decode(data)
        if change is not None and change.new is not None:
            self._hand_over(change.new)
            await asyncio.sleep(0)  # a burst must not fill a queue that its socket could have emptied

    def _hand_over(self, row: Row) -> None:
        event, payload, message_id = row["event"], row["payload"], row["id"]
        if event is None or payload is None or message_id is None:
            return  # no message: the probe of a policy, or binary, which is not carried here
        address = (row["topic"], row["private"] == "t")
        data: Mapping[str, Any] = json.loads(payload)
        for listener, joined in list(self._listeners.items()):
            if joined == address:
                listener.broadcast(event, data, message_id)
