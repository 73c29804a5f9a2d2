"""Reads row changes out of a logical replication slot, and delivers them to the subscribers who may see them.

One task does all of it, so a subscriber is confirmed strictly between two readings: it hears of everything
committed after its confirmation. The slot is temporary and dies with its connection; after a failure the feed
connects again with a new slot and confirms everybody again. What was committed in between is lost, as in the
real service.
"""

import asyncio
import logging

import psycopg

from mqtt_service.devstack.realtime import catalog
from mqtt_service.devstack.realtime.catalog import Connection, SubscriptionRefusedError
from mqtt_service.devstack.realtime.delivery import deliver_changes
from mqtt_service.devstack.realtime.pgoutput import Decoder, Relation
from mqtt_service.devstack.realtime.slot import create_slot, read_changes
from mqtt_service.devstack.realtime.subscriptions import Identity, Subscriber

POLL_SECONDS = 0.05
RETRY_SECONDS = 0.25

log = logging.getLogger(__name__)


class ChangeFeed:
    """The changes of the publication `supabase_realtime` in the database at `url`."""

    def __init__(self, url: str, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._url = url
        self._poll_seconds = poll_seconds
        self._waiting: dict[Subscriber, None] = {}
        self._live: dict[Subscriber, Identity] = {}

    def subscribe(self, subscriber: Subscriber) -> None:
        """Confirm or refuse the subscriber soon; do so again for one whose claims have changed."""
        self._waiting[subscriber] = None

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget the subscriber."""
        self._waiting.pop(subscriber, None)
        self._live.pop(subscriber, None)

    async def run(self) -> None:
        """Read until cancelled, once there is a publication. After a failure, log it and start afresh."""
        while True:
            try:
                await self._read_one_slot()
            except psycopg.Error as error:
                log.warning("Realtime lost the database and connects again: %s", error)
            except Exception:
                log.exception("Realtime failed to read the changes and starts afresh")
            self._waiting = dict.fromkeys([*self._live, *self._waiting])
            self._live.clear()
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_one_slot(self) -> None:
        async with (
            await psycopg.AsyncConnection.connect(self._url, autocommit=True) as reading,
            await psycopg.AsyncConnection.connect(self._url, autocommit=True) as asking,
        ):
            if not await catalog.publication_exists(asking):
                return  # a slot made before its publication could never be read
            slot = await create_slot(reading)
            decoder = Decoder(self._is_heard)
            while True:
                idle = True
                async for changes in read_changes(reading, slot, catalog.PUBLICATION, decoder):
                    await deliver_changes(asking, changes, self._live)
                    idle = False
                await self._confirm_waiting(asking)
                if idle:
                    await asyncio.sleep(self._poll_seconds)

    def _is_heard(self, relation: Relation) -> bool:
        """Whether somebody listens to the table."""
        return any(
            binding.covers(relation.schema, relation.table)
            for subscriber in self._live
            for binding in subscriber.bindings
        )

    async def _confirm_waiting(self, connection: Connection) -> None:
        """Confirm or refuse whoever waited before this began."""
        for subscriber in list(self._waiting):
            identity = Identity.of(subscriber.claims)
            refusal = await _refusal(connection, subscriber, identity)
            if subscriber not in self._waiting or identity != Identity.of(subscriber.claims):
                continue  # it left or came back with another token while we asked
            del self._waiting[subscriber]
            self._live.pop(subscriber, None)
            if refusal is None:
                self._live[subscriber] = identity
                subscriber.confirm()
            else:
                subscriber.refuse(refusal)


async def _refusal(connection: Connection, subscriber: Subscriber, identity: Identity) -> str | None:
    try:
        for binding in subscriber.bindings:
            await catalog.check_binding(connection, binding, identity)
    except SubscriptionRefusedError as error:
        return str(error)
    return None
