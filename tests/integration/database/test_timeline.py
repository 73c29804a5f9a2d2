"""A device's day, replayed in order; and how the fleet's commands do, in numbers."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, copied, reseeded
from tests.integration.database.test_views import read

A, B = "a0000000-0000-4000-8000-000000000031", "b0000000-0000-4000-8000-000000000031"


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def database(shared: psycopg.Connection) -> psycopg.Connection:
    """Changes are written since long ago: nothing is told from before."""
    reseeded(shared)
    shared.execute(
        "insert into mqtt_private.adoption (table_name, adopted, applied_at)"
        " values ('public.device_command_changes', false, '2020-01-01')"
    )
    shared.execute("update devices set is_active = true where company_id is not null")
    return shared


def mac_of(queue: Queue, device: str) -> str:
    [row] = queue.rows("select device_mac from devices where device_id = %s", device)
    return str(row["device_mac"])


def test_a_day_is_told_in_order(database: psycopg.Connection) -> None:
    queue = Queue(database)
    mac = mac_of(queue, A)
    queue.call("fn_remove_old_rows", p_worker="w1", p_kind="history", p_days=90)
    database.execute("delete from device_commands")
    command = queue.command(A, "update_config")  # type: ignore[arg-type]  # its text
    queue.settle(queue.claim()["commands"], no_listener=True)
    queue.pass_time("1 minute")
    queue.hello(mac, pending_count=1)
    queue.settle(queue.claim()["commands"])
    queue.acknowledge({"topic_id": mac, "command_id": str(command)})
    queue.connection.execute(
        "insert into device_telemetry (device_id, temperature, humidity) values (%s, 21.5, 60)", (A,)
    )
    queue.connection.execute(
        "insert into device_images (device_id, image_name, status) values (%s, 'a.jpg', 'complete')", (A,)
    )
    rows = read(database, f"select * from device_timeline where device_id = '{A}' order by happened_at")
    told = [(row["kind"], row["what"]) for row in rows if row["kind"] != "event"]
    assert told == [
        ("command", "update_config issued"),
        ("command", "update_config sent by w1; nobody was listening"),
        ("wake", "said HELLO, pictures to send: 1"),
        ("command", "update_config to be sent again, since the device woke"),
        ("command", "update_config sent by w1"),
        ("command", "update_config acknowledged"),
        ("reading", "21.5 °C, 60 %RH"),
        ("picture", "a.jpg complete"),
    ]
    assert {row["about"] for row in rows if row["kind"] == "command"} == {command}
    [sent, *_] = [row for row in rows if row["what"].startswith("update_config sent")]
    assert sent["details"] == {
        "from": "pending", "to": "sent", "by": "worker", "who": "w1", "attempt": 1, "no_listener": True,
    }  # fmt: skip


def test_what_happened_before_changes_were_written_is_told_from_the_commands(
    database: psycopg.Connection,
) -> None:
    database.execute("update mqtt_private.adoption set applied_at = now() - interval '1 hour'")
    database.execute("set session_replication_role = replica")
    database.execute(
        "insert into device_commands"
        " (device_id, command_type, status, delivered_at, acknowledged_at, updated_at)"
        " select %s, 'ping', 'acknowledged', at, at, at"
        " from (values (now() - interval '2 hours'), (now())) t (at)",
        (A,),
    )
    database.execute("set session_replication_role = default")
    rows = read(database, f"select what from device_timeline where device_id = '{A}' and what like 'ping %'")
    assert sorted(row["what"] for row in rows) == [
        "ping acknowledged",
        "ping issued",
        "ping issued",
        "ping sent",
    ]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_one_device_and_a_span_are_read_by_indexes(database: psycopg.Connection) -> None:
    database.execute("set session_replication_role = replica")
    database.execute(
        "insert into devices (device_mac, device_code, company_id) select 'X' || n, 'X' || n, null"
        " from generate_series(1, 300) n"
    )
    for table, columns, values in (
        ("device_commands", "command_type, status, delivered_at", "'ping', 'sent', at"),
        ("device_command_changes", "command_id, at, to_status", "gen_random_uuid(), at, 'sent'"),
        ("device_wakes", "at", "at"),
        ("device_telemetry", "captured_at", "at"),
        ("device_history", "created_at", "at"),
        ("device_images", "image_name, status, updated_at", "n, 'complete', at"),
    ):
        database.execute(
            f"insert into {table} (device_id, {columns}) select device_id, {values} from devices,"
            " generate_series(1, 20) n, lateral (select now() - n * interval '1 day' as at) t".encode()
        )
        database.execute(f"analyze {table}".encode())
    database.execute("set session_replication_role = default")
    database.execute("analyze devices")
    [[(explained,)]] = [
        database.execute(
            "explain (format json) select * from device_timeline"
            f" where device_id = '{A}' and happened_at >= now() - interval '1 day' and happened_at < now()"
        ).fetchall()
    ]
    scanned = {
        node.get("Relation Name") for node in nodes(explained[0]["Plan"]) if node["Node Type"] == "Seq Scan"
    }
    assert scanned & {
        "device_commands", "device_command_changes", "device_wakes", "device_telemetry", "device_history",
        "device_images",
    } == set()  # fmt: skip


def numbers(database: psycopg.Connection, dimension: str) -> dict[str, dict[str, Any]]:
    rows = read(database, f"select * from device_command_numbers where dimension = '{dimension}'")
    return {row["name"]: row for row in rows}


@pytest.fixture
def counted(database: psycopg.Connection) -> psycopg.Connection:
    """Commands of a day: done after 10 s and 30 s, failed, to be tried again, expired; one from long ago."""
    database.execute("delete from device_commands")
    database.execute("update devices set firmware_version = '1.2.0'")
    for device in (A, B):
        database.execute(
            """
            insert into device_commands
              (device_id, command_type, status, issued_at, delivered_at, acknowledged_at, due_at)
            select %s, kind, status, at, at, at + took, due
            from (values
              ('ping', 'acknowledged', now() - interval '1 hour', interval '10 s', null::timestamptz),
              ('ping', 'acknowledged', now() - interval '1 hour', interval '30 s', null),
              ('ping', 'failed', now() - interval '1 hour', null, null),
              ('ping', 'failed', now() - interval '1 hour', null, '2100-01-01'),
              ('reboot', 'expired', now() - interval '1 hour', null, null),
              ('reboot', 'expired', now() - interval '40 days', null, null)) c (kind, status, at, took, due)
            """,
            (device,),
        )
    return database


@pytest.mark.parametrize("dimension", ["device", "site", "firmware"])
def test_numbers_are_those_of_the_last_30_days(counted: psycopg.Connection, dimension: str) -> None:
    [row] = numbers(counted, dimension).values()
    assert (row["commands"], row["succeeded"], row["failed"], row["expired"]) == (5, 2, 1, 1)
    assert row["success_rate"] == 2 / 4
    assert (row["median_seconds_to_answer"], row["p95_seconds_to_answer"]) == (20.0, 29.0)


def test_numbers_by_type_and_day(counted: psycopg.Connection) -> None:
    of_type = numbers(counted, "type")
    assert (of_type["ping"]["success_rate"], of_type["reboot"]["success_rate"]) == (2 / 3, 0)
    assert sum(row["commands"] for row in numbers(counted, "day").values()) == 5


def test_numbers_read_no_command_from_long_ago(counted: psycopg.Connection) -> None:
    """By the index on a device and the time of issue, and one dimension alone."""
    counted.execute("set session_replication_role = replica")
    counted.execute(
        "insert into device_commands (device_id, command_type, status, issued_at)"
        " select %s, 'ping', 'expired', now() - interval '40 days' from generate_series(1, 5000)", (A,),
    )  # fmt: skip
    counted.execute("set session_replication_role = default")
    counted.execute("analyze device_commands")
    [[(explained,)]] = [
        counted.execute(
            "explain (analyze, format json) select * from device_command_numbers where dimension = 'type'"
        ).fetchall()
    ]
    scans = [node for node in nodes(explained[0]["Plan"]) if node.get("Relation Name") == "device_commands"]
    assert [scan["Node Type"] for scan in scans] in (["Index Scan"], ["Bitmap Heap Scan"])
    assert scans[0]["Actual Rows"] * scans[0]["Actual Loops"] <= 12
