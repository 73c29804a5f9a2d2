"""The database as a superuser sees it, also across its restarts."""

from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from tests.integration.worker.harness import Rows

_CLEAR = """
truncate
  public.device_commands, public.device_images, mqtt_private.visits, mqtt_private.acknowledgements cascade
"""


class Database(Rows):
    """`Rows` whose connection is made anew when the server has broken it off."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: psycopg.AsyncConnection[dict[str, Any]] | None = None

    async def all(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        for last in (False, True):
            connection = await self._connected()
            try:
                cursor = await connection.execute(query, parameters)
                return await cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if last or not connection.closed:
                    raise
        raise AssertionError("never reached")

    async def close(self) -> None:
        if self._made is not None:
            await self._made.close()

    async def clear(self) -> None:
        """Leave nothing of an earlier test that a worker would attend to."""
        await self.all(_CLEAR)
        await self.all("update public.devices set welcome_due = false where welcome_due")

    async def count(self, where: str, *parameters: object) -> int:
        """How many rows of device_commands are like that."""
        row = await self.one(f"select count(*) from public.device_commands where {where}", *parameters)
        number: int = row["count"]
        return number

    async def statuses(self) -> dict[str, int]:
        """How many commands there are in each status."""
        found = await self.all("select status, count(*) from public.device_commands group by status")
        return {row["status"]: row["count"] for row in found}

    async def queue_each(
        self, device_ids: list[UUID], commands: int, command_type: str = "update_config"
    ) -> None:
        """Insert `commands` commands for each device, numbered `n` in their payload, in that order."""
        await self.all(
            "insert into public.device_commands (device_id, command_type, command_payload)"
            " select d, %s, jsonb_build_object('n', n) from generate_series(1, %s) n, unnest(%s::uuid[]) d"
            " order by n",
            command_type, commands, device_ids,
        )  # fmt: skip

    async def _connected(self) -> psycopg.AsyncConnection[dict[str, Any]]:
        if self._made is None or self._made.closed:
            self._made = await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, row_factory=dict_row
            )
        return self._made
