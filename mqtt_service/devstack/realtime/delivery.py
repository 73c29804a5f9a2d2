"""Delivers a batch of changes to the subscribers who asked for them and may see them, in order of commit."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from mqtt_service.devstack.realtime.catalog import Connection, table_facts, visible_keys
from mqtt_service.devstack.realtime.events import Key, TableFacts, change_data, key_of, refusal_data
from mqtt_service.devstack.realtime.pgoutput import Action, Change, Relation
from mqtt_service.devstack.realtime.subscriptions import Binding, Identity, Subscriber


@dataclass(frozen=True)
class _Match:
    """A change that a subscriber asked for with these bindings."""

    change: Change
    subscriber: Subscriber
    identity: Identity
    facts: TableFacts
    bindings: Sequence[Binding]

    @property
    def needs_policies(self) -> bool:
        """Whether row-level security decides. It cannot for a row that is gone: a DELETE goes to all."""
        action = self.change.action
        return self.facts.row_security and action is not Action.DELETE and self.facts.refusal(action) is None

    @property
    def key(self) -> Key:
        return key_of(self.change.new or {}, self.facts)


async def deliver_changes(
    connection: Connection, changes: Sequence[Change], live: Mapping[Subscriber, Identity]
) -> None:
    """Deliver each change to each subscriber once. Privileges and policies are asked once for the batch."""
    matches = await _find_matches(connection, changes, live)
    visible = await _find_visible(connection, matches)
    for match in matches:
        if not match.needs_policies or match.key in visible[match.identity, match.change.relation]:
            if match.subscriber in live:
                _deliver(match)
            await asyncio.sleep(0)  # a burst must not fill a queue that its socket could have emptied


async def _find_matches(
    connection: Connection, changes: Sequence[Change], live: Mapping[Subscriber, Identity]
) -> list[_Match]:
    known: dict[tuple[Relation, str], TableFacts | None] = {}
    matches = []
    for change in changes:
        relation = change.relation
        for subscriber, identity in list(live.items()):
            if not any(b.covers(relation.schema, relation.table) for b in subscriber.bindings):
                continue
            if (relation, identity.role) not in known:
                known[relation, identity.role] = await table_facts(connection, relation.oid, identity.role)
            facts = known[relation, identity.role]
            bindings = [b for b in subscriber.bindings if facts and b.wants(change, facts.types)]
            if facts and bindings:
                matches.append(_Match(change, subscriber, identity, facts, bindings))
    return matches


async def _find_visible(
    connection: Connection, matches: Sequence[_Match]
) -> dict[tuple[Identity, Relation], set[Key]]:
    """Return the keys of the rows that each identity may see, of those that matter."""
    asked: dict[tuple[Identity, Relation], dict[Key, None]] = defaultdict(dict)
    facts = {}
    for match in matches:
        if match.needs_policies:
            asked[match.identity, match.change.relation][match.key] = None
            facts[match.identity, match.change.relation] = match.facts
    return {
        (identity, relation): await visible_keys(
            connection,
            identity,
            sql.Identifier(relation.schema, relation.table),
            facts[identity, relation],
            list(keys),
        )
        for (identity, relation), keys in asked.items()
    }


def _deliver(match: _Match) -> None:
    """One event for all bindings that want the same columns."""
    by_select: dict[frozenset[str] | None, list[int]] = defaultdict(list)
    for binding in match.bindings:
        by_select[binding.select].append(binding.id)
    refusal = match.facts.refusal(match.change.action)
    for select, ids in by_select.items():
        data: Mapping[str, Any]
        if refusal is None:
            data = change_data(match.change, match.facts, select)
        else:
            data = refusal_data(match.change, refusal)
        match.subscriber.deliver(ids, data)
