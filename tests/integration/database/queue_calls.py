"""The worker's calls to the queue, as its role, and rows to call them on.

These tests are many and short, so each file shares one database and empties it for each test.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

Row = dict[str, Any]
T = TypeVar("T")

SEED = Path(__file__).parents[3] / "supabase/seed.sql"

_EMPTY = """
do $$
begin
  set local session_replication_role = replica;
  execute (select string_agg(format('delete from %s', oid::regclass), ';') from pg_class
           where relnamespace in ('public'::regnamespace, 'mqtt_private'::regnamespace) and relkind = 'r');
end
$$
"""


@contextmanager
def copied(server_url: str, template: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection, which commits at once, to a copy of the database `template`."""
    name = sql.Identifier(f"copy_{uuid4().hex}")
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("create database {} template {}").format(name, sql.Identifier(template)))
        with psycopg.connect(
            f"{server_url.rsplit('/', 1)[0]}/{name.as_string()[1:-1]}", autocommit=True
        ) as copy:
            yield copy
        server.execute(sql.SQL("drop database {} with (force)").format(name))


def emptied(connection: psycopg.Connection) -> psycopg.Connection:
    """The same connection, to the same database without rows."""
    connection.execute("reset role")
    connection.execute(_EMPTY)
    return connection


def reseeded(connection: psycopg.Connection) -> psycopg.Connection:
    """The same connection, to the same database with the rows of seed.sql and no others."""
    emptied(connection).execute(SEED.read_bytes())
    return connection


def end_local_settings(connection: psycopg.Connection) -> None:
    """End what `set local` has set in an inner transaction: it lasts as long as the one around it."""
    if connection.info.transaction_status == TransactionStatus.INTRANS:
        connection.execute("set local role none; set local search_path to default")


@dataclass(frozen=True)
class Queue:
    """One database connection: `call` acts as service_role, everything else as the superuser."""

    connection: psycopg.Connection

    @contextmanager
    def another(self) -> Iterator["Queue"]:
        """The same on a connection of its own."""
        with psycopg.connect(self.connection.info.dsn, autocommit=True) as connection:
            yield Queue(connection)

    def call(self, function: str, **parameters: object) -> Any:
        """The result of one RPC, in a transaction of its own."""
        names = [sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in parameters]
        query = sql.SQL("select public.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(names))
        with self.connection.transaction():
            self.connection.execute("set local role service_role")
            row = self.connection.execute(query, parameters).fetchone()
        end_local_settings(self.connection)
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

    def acknowledge(self, *acks: Row, delay: float = 30, worker: str | None = "w1") -> list[Row]:
        """Acknowledge; what an ack leaves out is a success on the root `device` under a ref of its own."""
        full = [{"ref": uuid4(), "topic_root": "device", "outcome": "success", "response": {}, **ack}
                for ack in acks]  # fmt: skip
        answer: list[Row] = self.call(
            "fn_acknowledge_commands", p_acks=json.dumps(full, default=str), p_worker=worker,
            p_retry_delay_seconds=delay,
        )  # fmt: skip
        return answer

    def hellos(self, *hellos: Row, worker: str = "w1", **parameters: object) -> list[Row]:
        """Record HELLOs; what one leaves out is a device on the root `device` with nothing pending."""
        default = {"topic_root": "device", "pending_count": 0, "pending_names": []}
        full = [{"ref": str(uuid4()), **default, **hello} for hello in hellos]
        answer: list[Row] = self.call(
            "fn_record_heartbeats", p_worker=worker, p_heartbeats=json.dumps(full), **parameters
        )
        return answer

    def hello(self, topic_id: str, worker: str = "w1", **fields: object) -> Row:
        """Record one HELLO."""
        [answer] = self.hellos({"topic_id": topic_id, **fields}, worker=worker)
        return answer

    def hold(self, *topic_ids: str, worker: str = "w1", lease: float = 10) -> list[Row]:
        """Hold the visits of these devices, which speak on the root `device`."""
        devices = [{"topic_root": "device", "topic_id": topic_id} for topic_id in topic_ids]
        answer: list[Row] = self.call(
            "fn_renew_visits", p_worker=worker, p_devices=json.dumps(devices), p_lease_seconds=lease
        )
        return answer

    def adopt(self, worker: str = "w1", limit: int = 100) -> list[Row]:
        answer: list[Row] = self.call("fn_take_over_visits", p_worker=worker, p_limit=limit)
        return answer

    def end(self, *devices: UUID, worker: str = "w1") -> int:
        """End visits; returns how many ended."""
        answer: Row = self.call("fn_end_visits", p_worker=worker, p_device_ids=list(devices))
        ended: int = answer["ended"]
        return ended

    def images(self, *images: Row, worker: str = "w1", **parameters: object) -> list[Row]:
        """Record announced pictures; what one leaves out is called a.jpg and has 3 chunks."""
        full = [{"ref": str(uuid4()), "image_name": "a.jpg", "total_chunks": 3, **image} for image in images]
        answer: list[Row] = self.call(
            "fn_record_images", p_worker=worker, p_images=json.dumps(full), **parameters
        )
        return answer

    def image(self, topic_id: str, worker: str = "w1", **fields: object) -> Row:
        """Record one picture."""
        [answer] = self.images({"topic_id": topic_id, **fields}, worker=worker)
        return answer

    def settle_images(self, *results: Row, worker: str = "w1") -> list[Row]:
        answer: list[Row] = self.call(
            "fn_settle_images", p_worker=worker, p_results=json.dumps(results, default=str)
        )
        return answer

    def settle_image(self, image_id: str, outcome: str, worker: str = "w1", **fields: object) -> Row:
        """Settle one picture."""
        [answer] = self.settle_images({"image_id": image_id, "outcome": outcome, **fields}, worker=worker)
        return answer

    def readings(self, *readings: Row, worker: str = "w1", **parameters: object) -> list[Row]:
        """Record readings without a picture; what one leaves out is 20 degrees at no known time."""
        full = [{"ref": str(uuid4()), "temperature": 20.0, "metadata": {}, **said} for said in readings]
        answer: list[Row] = self.call(
            "fn_record_lone_readings", p_worker=worker, p_readings=json.dumps(full), **parameters
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

    def pass_time(self, interval: str) -> None:
        """Let visits, registrations and what was sent be older by this, as if so much time had gone by."""
        visits = (
            "update mqtt_private.visits set began_at = began_at - %s::interval, lease_until = lease_until"
        )
        for query in (
            f"{visits} - %s::interval",
            "update public.devices set self_registered_at = self_registered_at - %s::interval",
            "update public.device_commands set delivered_at = delivered_at - %s::interval",
        ):
            self.connection.execute(query.encode(), [interval] * query.count("%s"))

    def row(self, command: UUID) -> Row:
        return self.rows("select * from public.device_commands where command_id = %s", command)[0]

    def rows(self, query: str, *parameters: object) -> list[Row]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters).fetchall()

    def now(self) -> datetime:
        row = self.rows("select now() as now")[0]
        assert isinstance(row["now"], datetime)
        return row["now"]


@contextmanager
def locked_devices(queue: Queue) -> Iterator[None]:
    """Someone else's open transaction holds all devices; who waits for them for 20 seconds is cancelled."""
    queue.connection.execute("set statement_timeout = '20 s'")
    with queue.another() as person, person.connection.transaction():
        person.rows("select from devices for update")
        yield
    queue.connection.execute("reset statement_timeout")


def ids(commands: Sequence[Row]) -> list[UUID]:
    """The command ids of an RPC's answer."""
    return [UUID(command["command_id"]) for command in commands]


def about(moment: datetime, other: datetime, tolerance: float = 10) -> bool:
    """Whether two moments are the same but for the time that a test takes."""
    return abs(moment - other) < timedelta(seconds=tolerance)


@contextmanager
def waiting(queue: Queue, call: Callable[[], T]) -> Iterator["Future[T]"]:
    """Start `call`, which uses `queue`, on a thread, and enter when the database makes it wait for a lock."""
    blocked = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool, queue.another() as observer:
        future = pool.submit(call)
        deadline = time.monotonic() + 10
        while not future.done() and not observer.rows(blocked, queue.connection.info.backend_pid):
            assert time.monotonic() < deadline, "the call neither ended nor waited for a lock"
        yield future
