"""Each change of a command is written once, with who did it; nobody rewrites it, and it stops nothing."""

from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue
from tests.integration.database.test_claim_cost import cost_of_a_claim
from tests.integration.database.test_image_storage import acting_as

USER = "a0000000-0000-4000-8000-0000000000e2"
Change = tuple[str | None, str, str, str | None]


def changes(queue: Queue, command: UUID) -> list[Change]:
    """From, to, by and who, in order."""
    rows = queue.rows(
        "select * from device_command_changes where command_id = %s order by change_id", command
    )
    return [(row["from_status"], row["to_status"], row["changed_by"], row["who"]) for row in rows]


def detail(queue: Queue, command: UUID) -> dict[str, object]:
    """Of the last change."""
    [row] = queue.rows(
        "select detail from device_command_changes where command_id = %s order by change_id desc limit 1",
        command,
    )
    found: dict[str, object] = row["detail"]
    return found


def sent(queue: Queue, device: UUID, command_type: str = "reboot") -> UUID:
    command = queue.command(device, command_type)
    [claimed] = queue.claim()["commands"]
    queue.settle([claimed])
    return command


def test_a_command_that_goes_well_has_two_changes(queue: Queue) -> None:
    command = sent(queue, queue.device("AA"))
    queue.acknowledge({"topic_id": "AA", "command_id": str(command), "outcome": "success"})
    assert changes(queue, command) == [
        ("pending", "sent", "worker", "w1"),
        ("sent", "acknowledged", "device", None),
    ]


def test_answers_that_are_written_together_are_each_a_change(queue: Queue) -> None:
    commands = {mac: queue.command(queue.device(mac)) for mac in ("AA", "BB", "CC")}
    queue.settle(queue.claim()["commands"])
    queue.acknowledge(
        *(
            {"topic_id": mac, "command_id": str(command), "outcome": "success", "response": {"of": mac}}
            for mac, command in commands.items()
        )
    )
    for command in commands.values():
        assert [to for _, to, _, _ in changes(queue, command)] == ["sent", "acknowledged"]


def test_a_failure_says_why_when_it_is_tried_again_and_who_does(queue: Queue) -> None:
    command = sent(queue, queue.device("AA"))
    queue.acknowledge({"topic_id": "AA", "command_id": str(command), "outcome": "failed", "message": "cold"})
    assert detail(queue, command)["error"] == "the device reports failure: cold"
    assert detail(queue, command)["retry_at"]
    queue.change(command, "due_at = now()")
    [claimed] = queue.claim("w2")["commands"]
    queue.settle([claimed], "failed", "w2")
    assert changes(queue, command)[1:] == [
        ("sent", "failed", "device", None),
        ("failed", "pending", "worker", "w2"),
        ("pending", "failed", "worker", "w2"),
    ]


def test_an_attempt_that_is_given_back_or_taken_over_is_a_change(queue: Queue) -> None:
    command = queue.command(queue.device("AA"))
    [claimed] = queue.claim()["commands"]
    queue.settle([claimed], "released")
    assert detail(queue, command) == {"given_back": True, "attempt": 1}
    queue.claim()
    queue.lapse(command)
    queue.claim("w2")
    assert detail(queue, command) == {"taken_over_from": "w1", "attempt": 3}
    assert [(by, who) for _, _, by, who in changes(queue, command)] == [("worker", "w1"), ("worker", "w1")]


def test_the_queue_expires_fails_and_redelivers_by_itself(queue: Queue) -> None:
    over = queue.command(queue.device("AA"), expires_at="2020-01-01")
    inactive = queue.command(queue.device("BB", active=False))
    again = sent(queue, queue.device("CC"), "update_config")
    queue.pass_time("1 minute")
    queue.hello("CC")
    assert changes(queue, over) == [("pending", "expired", "queue", None)]
    assert changes(queue, inactive) == [("pending", "failed", "queue", None)]
    assert changes(queue, again)[-1] == ("sent", "pending", "queue", None)
    assert detail(queue, again) == {"redelivery": 1}


def test_a_person_and_a_back_end_are_told_apart(queue: Queue) -> None:
    device = queue.device("AA")
    by_person, by_service = queue.command(device), queue.command(device)
    for command, user in ((by_person, USER), (by_service, None)):
        with queue.connection.transaction():
            claims = f'{{"sub": "{user}"}}' if user else "{}"
            queue.connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            queue.connection.execute("set local role service_role")
            queue.change(command, "status = 'cancelled'")
    assert changes(queue, by_person) == [("pending", "cancelled", "user", USER)]
    assert changes(queue, by_service) == [("pending", "cancelled", "service", "service_role")]


def test_a_command_that_another_service_inserts_as_sent_is_a_change(queue: Queue) -> None:
    command = queue.command(queue.device("AA"), status="sent")
    assert changes(queue, command) == [(None, "sent", "service", "postgres")]


def test_history_that_cannot_be_written_stops_nothing(queue: Queue) -> None:
    """Not a claim, not an answer, not a HELLO, not a person."""
    warnings: list[str] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        warnings.append(str(notice.message_primary))

    queue.connection.add_notice_handler(note)
    with queue.connection.transaction(force_rollback=True):
        for table in ("device_command_changes", "device_wakes"):
            queue.connection.execute(f"alter table {table} add constraint shut check (false) not valid")
        device = queue.device("AA")
        command = sent(queue, device)
        queue.acknowledge({"topic_id": "AA", "command_id": str(command), "outcome": "success"})
        assert queue.row(command)["status"] == "acknowledged"
        assert queue.hello("AA")["holds_lease"]
        queue.command(device, status="expired")
        assert changes(queue, command) == []
    queue.connection.remove_notice_handler(note)
    assert any("device_command_changes does not take a change" in warning for warning in warnings)
    assert any("device_wakes does not take a wake" in warning for warning in warnings)


@pytest.mark.parametrize("role", ["service_role", "authenticated"])
@pytest.mark.parametrize("table", ["device_command_changes", "device_wakes"])
def test_nobody_rewrites_history(queue: Queue, table: str, role: str) -> None:
    command = sent(queue, queue.device("AA"))
    queue.hello("AA")
    for statement in (f"update {table} set at = now()", f"delete from {table}", f"truncate {table}",
                      f"insert into {table} (device_id) select gen_random_uuid()"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(queue.connection, role, USER):
            queue.connection.execute(statement.encode())
    assert len(changes(queue, command)) == 1


def test_a_wake_is_written_once_whoever_hears_it_and_a_visit_that_goes_on_is_none(queue: Queue) -> None:
    device = queue.device("AA")
    queue.hello("AA", "w1", pending_count=2)
    queue.hello("AA", "w2")
    queue.end(device)
    queue.pass_time("1 hour")
    queue.hello("AA", "w2")
    wakes = queue.rows("select * from device_wakes order by wake_id")
    assert [(wake["device_id"], wake["hello"], wake["worker"], wake["pending_count"]) for wake in wakes] == [
        (device, True, "w1", 2), (device, True, "w2", 0),
    ]  # fmt: skip


def fill(queue: Queue, rows: int, age: str = "200 days") -> None:
    """So many changes and wakes of devices that nobody knows, the oldest first."""
    for table, columns, values in (
        ("device_command_changes", "command_id, to_status", "gen_random_uuid(), 'sent'"),
        ("device_wakes", "worker", "'w1'"),
    ):
        query = (
            f"insert into {table} (device_id, at, {columns}) select gen_random_uuid(),"
            f" now() - interval '{age}' + n * interval '1 s', {values} from generate_series(1, %s) n"
        )
        queue.connection.execute(query.encode(), (rows,))


def left(queue: Queue) -> list[int]:
    [row] = queue.rows(
        "select (select count(*) from device_command_changes) as c, (select count(*) from device_wakes) as w"
    )
    return [row["c"], row["w"]]


def test_old_history_is_removed_in_batches_and_young_history_stays(queue: Queue) -> None:
    fill(queue, 45)
    fill(queue, 5, "1 day")
    answers = []
    for _ in range(4):  # ten times as many a call as of other rows
        answer = queue.call("fn_remove_old_rows", p_worker="w1", p_kind="history", p_days=90, p_limit=2)
        answers.append((answer["removed"], answer["more"]))
    assert answers == [(40, True), (40, True), (10, False), (0, False)]
    assert left(queue) == [5, 5]


def test_a_claim_is_no_dearer_beside_many_changes(queue: Queue) -> None:
    """scripts/bench claims shows the same of a million."""
    for number in range(40):
        queue.command(queue.device(f"{number:012X}"))
    costs = []
    for rows in (100, 20_000):
        fill(queue, rows)
        queue.connection.execute("analyze device_command_changes")
        costs.append(cost_of_a_claim(queue.connection))
    (few_rows, few_pages), (many_rows, many_pages) = costs
    assert many_rows <= few_rows
    assert many_pages <= few_pages + 40


def test_changes_cost_the_same_beside_many(queue: Queue) -> None:
    """Pages that 40 changes touch; an index that is one level deeper is one more for each."""
    devices = {f"{number:012X}": queue.device(f"{number:012X}") for number in range(40)}
    pages = []
    for rows in (100, 20_000):
        fill(queue, rows)
        for device in devices.values():
            queue.command(device)
        before = touched(queue)
        queue.settle(queue.claim()["commands"])
        pages.append(touched(queue) - before)
    assert pages[1] <= pages[0] + 40 * 2


def touched(queue: Queue) -> int:
    """Pages of device_command_changes and its indexes that were touched so far."""
    with queue.connection.transaction():
        queue.connection.execute("select pg_stat_force_next_flush()")
    [row] = queue.rows(
        "select sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint as pages"
        " from pg_statio_user_tables where relname = 'device_command_changes'"
    )
    return int(row["pages"])
