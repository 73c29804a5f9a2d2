"""Which statements ring the workers, how often, and that a bell that is broken fails none of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.integration.database.catalog import drop_views
from tests.integration.database.queue_calls import copied, reseeded
from tests.integration.database.test_row_level_security import DEVICE_A, OPERATOR_A, acting_as

TOPIC = "mqtt-service:commands"
WORKER = "client:1"


@pytest.fixture(scope="module")
def copy(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        connection.execute(
            "create table realtime.messages_all partition of realtime.messages"
            " for values from (minvalue) to (maxvalue)"
        )
        yield connection


@pytest.fixture
def bell(copy: psycopg.Connection) -> "Bell":
    reseeded(copy).execute("delete from realtime.messages")
    return Bell(copy)


@dataclass(frozen=True)
class Bell:
    """The database, as a superuser sees it."""

    connection: psycopg.Connection

    def run(self, statement: str) -> None:
        """Run what may have more than one statement, in one transaction."""
        with self.connection.transaction():
            self.connection.execute(statement.encode())

    def call(self, function: str) -> object:
        """Call a function as the worker does."""
        with acting_as(self.connection, "service_role"):
            row = self.connection.execute(f"select {function}".encode()).fetchone()
        assert row is not None
        return row[0]

    def rings(self) -> int:
        """How often it rang since this was asked last."""
        rung = self.connection.execute(
            "with rung as (delete from realtime.messages where topic = %s and event = 'due' and private"
            " returning id) select count(*) from rung",
            (TOPIC,),
        ).fetchone()
        assert rung is not None
        return int(rung[0])


def insert(columns: str = "", values: str = "", rows: int = 1) -> str:
    return (
        f"insert into device_commands (device_id, command_type{columns})"
        f" select '{DEVICE_A}', 'ping'{values} from generate_series(1, {rows});"
    )


ONE = insert()
LATER = insert(", scheduled_for", ", now() + interval '2 hours'")
SOON = insert(", scheduled_for", ", now() + interval '30 minutes'")


@pytest.mark.parametrize(
    ("statements", "rings"),
    [
        (ONE, 1),
        (insert(rows=2_000), 1),
        (SOON, 1),  # the worker learns at its next poll when that is
        (LATER, 0),
        (insert(", scheduled_for", ", now() + (n.n || ' hours')::interval").replace(
            "generate_series(1, 1)", "generate_series(0, 5) n (n)"), 1),
        (insert(rows=0), 0),
        (insert(", status", ", 'cancelled'"), 0),
        (ONE * 50, 1),
        (f"savepoint s; {ONE} rollback to s; {ONE}", 1),
        (f"{ONE} savepoint s; {ONE} rollback to s;", 1),
        (f"savepoint s; {ONE} rollback to s;", 0),
        (LATER + ONE, 1),
    ],
)  # fmt: skip
def test_an_insert_rings_once_a_transaction_if_something_is_due(
    bell: Bell, statements: str, rings: int
) -> None:
    bell.run(statements)
    assert bell.rings() == rings


@pytest.mark.parametrize(
    ("before", "update", "rings"),
    [
        (insert(", status", ", 'failed'"), "status = 'pending'", 1),  # tried again
        (insert(", status", ", 'failed'", rows=500), "status = 'pending'", 1),
        (LATER, "scheduled_for = now()", 1),
        (LATER, "scheduled_for = now() + interval '3 hours'", 0),
        (ONE, "scheduled_for = now() + interval '3 hours'", 0),
        (ONE, "status = 'cancelled'", 0),
        (ONE, "priority = 9", 0),
        (ONE, "command_payload = '{\"timestamp\": null}'", 0),
    ],
)
def test_an_update_rings_if_it_makes_something_due(bell: Bell, before: str, update: str, rings: int) -> None:
    bell.run(before)
    bell.rings()
    bell.run(f"update device_commands set {update}")
    assert bell.rings() == rings


@pytest.mark.parametrize("outcome", ["sent", "failed", "released"])
def test_what_a_worker_writes_rings_nobody(bell: Bell, outcome: str) -> None:
    """A worker that gives commands back since it has no broker would else wake itself without end."""
    bell.run(insert(rows=3))
    bell.rings()
    bell.call(f"fn_claim_commands('{WORKER}', 10, 30)")
    bell.call(
        f"fn_settle_commands('{WORKER}', (select jsonb_agg(jsonb_build_object('command_id', command_id,"
        f" 'attempt', attempt, 'outcome', '{outcome}')) from device_commands), 3, 0)"
    )
    statuses = bell.connection.execute("select distinct status from device_commands").fetchall()
    assert statuses == [("pending" if outcome == "released" else outcome,)]
    assert bell.rings() == 0


def test_an_operators_command_rings_though_she_may_not_ring(bell: Bell) -> None:
    with acting_as(bell.connection, "authenticated", OPERATOR_A):
        bell.connection.execute(ONE.encode())
    assert bell.rings() == 1
    for function in ("mqtt_private.fn_ring('due')", "fn_ring_workers()"):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            acting_as(bell.connection, "authenticated", OPERATOR_A),
        ):
            bell.connection.execute(f"select {function}".encode())


def test_a_test_is_no_ring(bell: Bell) -> None:
    assert bell.call("fn_ring_workers()") is True
    tests = bell.connection.execute("select topic, event, private from realtime.messages").fetchall()
    assert tests == [(TOPIC, "test", True)]


BREAKS = {
    "there is no realtime.send": "alter function realtime.send rename to send_before",
    "there is no schema realtime": "alter schema realtime rename to realtime_before",
    "realtime.send raises": (
        "create or replace function realtime.send(payload jsonb, event text, topic text, private boolean"
        " default true) returns void language plpgsql as $$ begin raise 'broken'; end $$"
    ),
    "the day has no partition": "alter table realtime.messages detach partition realtime.messages_all",
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_bell_that_is_broken_fails_no_statement(bell: Bell, fault: str) -> None:
    connection = bell.connection
    with connection.transaction(force_rollback=True):
        connection.execute(BREAKS[fault].encode())
        with acting_as(connection, "authenticated", OPERATOR_A):
            connection.execute(ONE.encode())
        connection.execute("set local role none")
        connection.execute("update device_commands set status = 'failed'")
        connection.execute("update device_commands set status = 'pending'")
        waiting = connection.execute("select count(*) from device_commands where due_at <= now()")
        assert waiting.fetchone() == (1,)
        # What fails inside of realtime.send it keeps to itself: there only the missing ring shows it.
        rung = connection.execute("select fn_ring_workers()").fetchone()
        assert rung == (fault == "the day has no partition",)


def test_an_owner_who_may_not_write_messages_rings_nobody_and_fails_no_statement(bell: Bell) -> None:
    connection = bell.connection
    with connection.transaction(force_rollback=True):
        connection.execute("create role plain_owner nologin")
        connection.execute("grant usage on schema mqtt_private to plain_owner")
        connection.execute("alter function mqtt_private.fn_ring owner to plain_owner")
        with acting_as(connection, "authenticated", OPERATOR_A):
            connection.execute(ONE.encode())
        connection.execute("set local role none")
        count = connection.execute("select (select count(*) from device_commands),"
                                   " (select count(*) from realtime.messages)").fetchone()  # fmt: skip
    assert count == (1, 0)


def test_a_project_can_still_change_the_types_of_its_own_columns(bell: Bell) -> None:
    with bell.connection.transaction(force_rollback=True):
        drop_views(bell.connection)
        bell.connection.execute("alter table device_commands alter column command_type type varchar(40)")
