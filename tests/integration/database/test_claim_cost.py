"""What a claim reads does not grow with the rows beside those that it takes.

Counted in rows and in pages: times would measure the machine.
"""

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, copied

FEW, MANY = 2_000, 10_000  # an index is as deep over the one as over the other
CLAIMED = 100
# A claim looks its rows up by their random keys so many times. The more rows there are, the fewer of these
# keys share a page of the index, until each is on a page of its own.
LOOKUPS = 5

_DEVICES = """
insert into public.devices (device_mac, device_code, provisioning_status, is_active)
select '0A' || lpad(to_hex(n), 10, '0'), 'D' || n, case when n <= 200 then 'active' else 'inactive' end,
  n <= 200
from generate_series(1, 400) n
"""
_DUE = """
insert into public.device_commands (device_id, command_type, due_at, issued_at)
select d.device_id, 'capture_image', at, at
from generate_series(1, %(rows)s) n join public.devices d on d.device_code = 'D' || 1 + n %% 200,
  (values (now() - interval '1 minute')) t (at)
"""
_INACTIVE = _DUE.replace("1 + n %% 200", "201 + n %% 200")
_CLAIM = "explain (analyze, buffers, format json) select public.fn_claim_commands('w1', 100)"
_ROWS_READ = """
select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables
where relid = 'public.device_commands'::regclass
"""
BESIDE = {
    "finished": """
insert into public.device_commands (device_id, command_type, status, issued_at, delivered_at, attempt)
select d.device_id, 'reboot', (array['acknowledged', 'failed', 'expired', 'cancelled'])[1 + n %% 4],
  at, at, 1
from (select n, now() - n * interval '1 second' as at from generate_series(1, %(rows)s) n) n
join public.devices d on d.device_code = 'D' || 1 + n %% 200
""",
    "for later": """
insert into public.device_commands (device_id, command_type, scheduled_for, due_at)
select d.device_id, 'capture_image', at, at
from (
  select n, now() + interval '1 hour' + n * interval '1 second' as at from generate_series(1, %(rows)s) n) n
join public.devices d on d.device_code = 'D' || 1 + n %% 200
""",
    "for devices that are not active": _INACTIVE,
    "due behind them": _DUE,
}


@pytest.fixture
def queue(server_url: str, migrated_template: str) -> Iterator[Queue]:
    with copied(server_url, migrated_template) as connection:
        connection.execute(_DEVICES)
        fill(connection, _DUE, CLAIMED)
        yield Queue(connection)


def fill(connection: psycopg.Connection, rows_sql: str, rows: int) -> None:
    """Insert rows as the triggers leave them, without their time."""
    connection.execute("set session_replication_role = replica")
    connection.execute(rows_sql, {"rows": rows})
    connection.execute("reset session_replication_role")


def fail_for_inactive_devices(queue: Queue) -> None:
    """Claim nothing until all those commands have failed, and wait to be tried again."""
    while queue.claim(limit=0, p_retry_delay_seconds=3600)["failed"]:
        pass


def cost_of_a_claim(connection: psycopg.Connection) -> tuple[int, int]:
    """Rows of device_commands that a claim reads, and pages that it touches; it is rolled back."""
    connection.execute("vacuum (analyze, index_cleanup on) public.device_commands")
    for _ in range(2):  # the first one also makes plans
        with connection.transaction(force_rollback=True):
            connection.execute("set local role service_role")
            before = rows_read(connection)
            (explained,) = only(connection, _CLAIM)
            read = rows_read(connection) - before
    return read, explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]


def rows_read(connection: psycopg.Connection) -> int:
    """A number that grows by the rows of device_commands that this session reads."""
    rows: int = only(connection, _ROWS_READ)
    return rows


def only(connection: psycopg.Connection, query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("kind", BESIDE)
def test_a_claim_reads_no_more_rows_and_pages_beside_many_than_beside_few(queue: Queue, kind: str) -> None:
    costs = []
    for rows in (FEW, MANY - FEW):
        fill(queue.connection, BESIDE[kind], rows)
        if BESIDE[kind] is _INACTIVE:
            fail_for_inactive_devices(queue)
        costs.append(cost_of_a_claim(queue.connection))
    (few_rows, few_pages), (many_rows, many_pages) = costs
    assert few_rows >= CLAIMED
    assert many_rows <= few_rows
    assert many_pages - few_pages <= LOOKUPS * CLAIMED
