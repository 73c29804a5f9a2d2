"""Takes a batch of changes to the subscribers who asked for them and may see them, in the order of commit."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from mqtt_service.devstack.realtime.catalog import Connection, table_facts, visible_keys
from mqtt_service.devstack.realtime.pgoutput import Action, Change, Relation
from mqtt_service.devstack.realtime.subscriptions import (
    Binding,
    Grant,
    Key,
    Subscriber,
    TableFacts,
    change_data,
    key_of,
    refusal_data,
)


@dataclass(frozen=True)
class _Hit:
    """A change that a subscriber asked for with these bindings."""

    change: Change
    subscriber: Subscriber
    grant: Grant
    facts: TableFacts
    bindings: Sequence[Binding]

    @property
    def needs_look(self) -> bool:
        """Whether row-level security decides. It cannot for a row that is gone: a DELETE goes to all."""
        action = self.change.action
        return self.facts.row_security and action is not Action.DELETE and self.facts.refusal(action) is None

    @property
    def key(self) -> Key:
        return key_of(self.change.new or {}, self.facts)


async def dispatch(
    connection: Connection, changes: Sequence[Change], live: Mapping[Subscriber, Grant]
) -> None:
    """Deliver each change to each subscriber once. Privileges and policies are asked once for the batch."""
    hits = await _find_hits(connection, changes, live)
    visible = await _look(connection, hits)
    for hit in hits:
        if not hit.needs_look or hit.key in visible[hit.grant, hit.change.relation]:
            if hit.subscriber in live:
                _deliver(hit)
            await asyncio.sleep(0)  # a burst must not fill a queue that its socket could have emptied


async def _find_hits(
    connection: Connection, changes: Sequence[Change], live: Mapping[Subscriber, Grant]
) -> list[_Hit]:
    known: dict[tuple[Relation, str], TableFacts | None] = {}
    hits = []
    for change in changes:
        relation = change.relation
        for subscriber, grant in list(live.items()):
            if not any(b.covers(relation.schema, relation.table) for b in subscriber.bindings):
                continue
            if (relation, grant.role) not in known:
                known[relation, grant.role] = await table_facts(connection, relation.oid, grant.role)
            facts = known[relation, grant.role]
            bindings = [b for b in subscriber.bindings if facts and b.wants(change, facts.types)]
            if facts and bindings:
                hits.append(_Hit(change, subscriber, grant, facts, bindings))
    return hits


async def _look(connection: Connection, hits: Sequence[_Hit]) -> dict[tuple[Grant, Relation], set[Key]]:
    """Return the keys of the rows that each grant may see, of those that matter."""
    asked: dict[tuple[Grant, Relation], dict[Key, None]] = defaultdict(dict)
    facts = {}
    for hit in hits:
        if hit.needs_look:
            asked[hit.grant, hit.change.relation][hit.key] = None
            facts[hit.grant, hit.change.relation] = hit.facts
    return {
        (grant, relation): await visible_keys(
            connection,
            grant,
            sql.Identifier(relation.schema, relation.table),
            facts[grant, relation],
            list(keys),
        )
        for (grant, relation), keys in asked.items()
    }


def _deliver(hit: _Hit) -> None:
    """One event for all bindings that want the same columns."""
    by_select: dict[frozenset[str] | None, list[int]] = defaultdict(list)
    for binding in hit.bindings:
        by_select[binding.select].append(binding.id)
    refusal = hit.facts.refusal(hit.change.action)
    for select, ids in by_select.items():
        data: Mapping[str, Any]
        if refusal is None:
            data = change_data(hit.change, hit.facts, select)
        else:
            data = refusal_data(hit.change, refusal)
        hit.subscriber.deliver(ids, data)
