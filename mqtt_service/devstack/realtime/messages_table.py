"""The table `realtime.messages`: its partitions, its publication, and what its policies let a token read.

Every function takes a connection of the superuser in autocommit, and leaves it as it was.
"""

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import psycopg
from psycopg import sql

from mqtt_service.devstack.realtime.catalog import Connection
from mqtt_service.devstack.realtime.subscriptions import Identity

PUBLICATION = "supabase_realtime_messages_publication"
PARTITIONS_SECONDS = 3600.0
_DAYS_AHEAD = 3
_KEPT = timedelta(hours=72)
_PREFIX = "messages_"

_PARTITIONS = """
select c.relname::text
from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
where i.inhparent = 'realtime.messages'::regclass
"""

_IMPERSONATE = """
select pg_catalog.set_config('role', %s, true), pg_catalog.set_config('realtime.topic', %s, true),
       pg_catalog.set_config('request.jwt.claims', %s, true)
"""


class NoPartitionError(Exception):
    """There is no partition for today: nothing can be sent, and no policy be asked."""


async def publish_messages(connection: Connection) -> None:
    """Create the publication of the table, unless it is there."""
    cursor = await connection.execute(
        "select 1 from pg_catalog.pg_publication where pubname = %s", (PUBLICATION,)
    )
    if await cursor.fetchone() is None:
        name = sql.Identifier(PUBLICATION)
        await connection.execute(sql.SQL("create publication {} for table realtime.messages").format(name))


async def keep_partitions(connection: Connection, now: datetime | None = None) -> None:
    """Have one partition a day from yesterday to three days ahead, and drop those of 72 hours ago."""
    moment = now or datetime.now(UTC)
    today = moment.date()
    for days in range(-1, _DAYS_AHEAD + 1):
        await _create_partition(connection, today + timedelta(days=days))
    cursor = await connection.execute(_PARTITIONS)
    for (name,) in await cursor.fetchall():
        if _day_of(name) < (moment - _KEPT).date():
            await connection.execute(sql.SQL("drop table realtime.{}").format(sql.Identifier(name)))


async def readable(
    connection: Connection, identity: Identity, topic: str, extensions: Collection[str]
) -> set[str]:
    """Return those of the extensions (`broadcast`, `presence`) that the policies let it read on the topic.

    As the real service asks: a message for each is inserted, read as this role with these claims, and rolled
    back. An error of a policy, or a role that does not exist, lets it read nothing. Raises NoPartitionError.
    """
    found: set[str] = set()
    try:
        async with connection.transaction(force_rollback=True):
            probes = {uuid4(): extension for extension in extensions}
            for key, extension in probes.items():
                await connection.execute(
                    "insert into realtime.messages (id, topic, extension) values (%s, %s, %s)",
                    (key, topic, extension),
                )
            await connection.execute(_IMPERSONATE, (identity.role, topic, identity.claims))
            cursor = await connection.execute(
                "select id from realtime.messages where id = any (%s)", (list(probes),)
            )
            found = {probes[row[0]] for row in await cursor.fetchall()}
    except psycopg.errors.CheckViolation as error:
        raise NoPartitionError from error
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return set()
    return found


async def _create_partition(connection: Connection, day: date) -> None:
    name = sql.Identifier("realtime", f"{_PREFIX}{day:%Y_%m_%d}")
    bounds = sql.SQL("for values from ({}) to ({})").format(str(day), str(day + timedelta(days=1)))
    await connection.execute(
        sql.SQL("create table if not exists {} partition of realtime.messages {}").format(name, bounds)
    )
    await connection.execute(sql.SQL("alter table {} owner to supabase_realtime_admin").format(name))


def _day_of(partition: str) -> date:
    return date.fromisoformat(partition.removeprefix(_PREFIX).replace("_", "-"))
