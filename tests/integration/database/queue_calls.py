"""The worker's calls to the queue, as its role, and rows to call them on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

Row = dict[str, Any]


@dataclass(frozen=True)
class Queue:
    """One database connection: `call` acts as service_role, everything else as the superuser."""

    connection: psycopg.Connection

    def call(self, function: str, **parameters: object) -> Any:
        """The result of one RPC, in a transaction of its own."""
        names = [sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in parameters]
        query = sql.SQL("select public.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(names))
        with self.connection.transaction():
            self.connection.execute("set local role service_role")
            row = self.connection.execute(query, parameters).fetchone()
            assert row is not None
            return row[0]

    def claim(self, worker: str = "w1", limit: int = 200, **parameters: object) -> Row:
        return self.call("fn_claim_commands", p_worker=worker, p_limit=limit, **parameters)  # type: ignore[no-any-return] # jsonb

    def claim_ids(self, worker: str = "w1", limit: int = 200, **parameters: object) -> list[UUID]:
        return ids(self.claim(worker, limit, **parameters)["commands"])

    def settle(
        self,
        commands: Sequence[Row],
        outcome: str = "sent",
        worker: str = "w1",
        delay: float = 30,
        **more: object,
    ) -> list[Row]:
        """Settle each claimed command with the same outcome."""
        results = [
            {"command_id": c["command_id"], "attempt": c["attempt"], "outcome": outcome, **more}
            for c in commands
        ]
        answer: list[Row] = self.call(
            "fn_settle_commands", p_worker=worker, p_results=json.dumps(results), p_retry_delay_seconds=delay
        )
        return answer

    def acknowledge(self, *acks: Row, delay: float = 30) -> list[Row]:
        """Acknowledge; what an ack leaves out is a success on the root `device`."""
        full = [{"ref": str(n), "topic_root": "device", "outcome": "success", "response": {}, **ack}
                for n, ack in enumerate(acks)]  # fmt: skip
        answer: list[Row] = self.call(
            "fn_acknowledge_commands", p_acks=json.dumps(full, default=str), p_retry_delay_seconds=delay
        )
        return answer

    def device(self, mac: str, *, active: bool = True) -> UUID:
        return self.insert(
            "devices", "device_id", device_mac=mac, device_code=f"CODE-{mac}", is_active=active,
            provisioning_status="active" if active else "pending_mapping",
        )  # fmt: skip

    def command(self, device: UUID, command_type: str = "reboot", **columns: object) -> UUID:
        return self.insert(
            "device_commands", "command_id", device_id=device, command_type=command_type, **columns
        )

    def insert(self, table: str, key: str, **columns: object) -> UUID:
        query = sql.SQL("insert into public.{} ({}) values ({}) returning {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(map(sql.Placeholder, columns)),
            sql.Identifier(key),
        )
        row = self.connection.execute(query, columns).fetchone()
        assert row is not None
        assert isinstance(row[0], UUID)
        return row[0]

    def change(self, command: UUID, assignments: str) -> None:
        """Write a command behind the queue's back, e.g. to let time pass: `due_at = now()`."""
        query = f"update public.device_commands set {assignments} where command_id = %s"
        self.connection.execute(query.encode(), (command,))

    def lapse(self, *commands: UUID) -> None:
        """Let the leases of these commands run out, as if their worker had died."""
        for command in commands:
            self.change(command, "lease_until = now() - interval '1 s', due_at = now() - interval '1 s'")

    def row(self, command: UUID) -> Row:
        return self.rows("select * from public.device_commands where command_id = %s", command)[0]

    def rows(self, query: str, *parameters: object) -> list[Row]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters).fetchall()

    def now(self) -> datetime:
        row = self.rows("select now() as now")[0]
        assert isinstance(row["now"], datetime)
        return row["now"]


def ids(commands: Sequence[Row]) -> list[UUID]:
    """The command ids of an RPC's answer."""
    return [UUID(command["command_id"]) for command in commands]


def about(moment: datetime, other: datetime, tolerance: float = 10) -> bool:
    """Whether two moments are the same but for the time that a test takes."""
    return abs(moment - other) < timedelta(seconds=tolerance)
