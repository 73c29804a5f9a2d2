"""A temporary logical replication slot: it is read in batches, and dies with its connection."""

import secrets
from collections.abc import AsyncIterator, Sequence

from psycopg import sql

from mqtt_service.devstack.realtime.catalog import Connection
from mqtt_service.devstack.realtime.pgoutput import Change, Decoder

_BATCH = 1000
_READ = """
select data from pg_catalog.pg_logical_slot_get_binary_changes(
    %s, null, %s, 'proto_version', '1', 'publication_names', %s)
"""


async def create_slot(connection: Connection) -> str:
    """Create a slot that holds what is committed from now on; returns its name."""
    name = f"realtime_{secrets.token_hex(8)}"
    await connection.execute(
        "select pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput', true)", (name,)
    )
    return name


async def read_changes(
    connection: Connection, slot: str, publication: str, decoder: Decoder
) -> AsyncIterator[Sequence[Change]]:
    """Yield what is in the slot in batches; a transaction of a million rows is never in memory at once."""
    batch: list[Change] = []
    cursor = connection.cursor()
    values = (slot, _BATCH, sql.Identifier(publication).as_string())
    async for (data,) in cursor.stream(_READ, values, binary=True):
        change = decoder.decode(data)
        if change is not None:
            batch.append(change)
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
