"""What is old is removed: final commands, history, readings, pictures; and nothing else."""

import re
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.applying import apply
from tests.integration.database.queue_calls import Queue, Row, ids
from tests.integration.database.test_adoption import OLD_PROJECT

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
OLD = "2020-01-01T00:00:00+00:00"


def remove(queue: Queue, kind: str, worker: str = "w1", **parameters: object) -> Row:
    answer: Row = queue.call(
        "fn_remove_old_rows", **{"p_worker": worker, "p_kind": kind, "p_days": 90, **parameters}
    )
    return answer


def left(queue: Queue, table: str) -> int:
    [row] = queue.rows(f"select count(*) from {table}")
    return int(row["count"])


@pytest.mark.parametrize(
    ("columns", "removed"),
    [
        *(({"status": status}, 1) for status in ("acknowledged", "rejected", "expired", "cancelled")),
        ({"status": "failed"}, 1),
        ({"status": "failed", "due_at": "2020-01-01"}, 0),
        ({"status": "sent"}, 0),
        ({"status": "pending"}, 0),
        ({"status": "acknowledged", "updated_at": "now"}, 0),
    ],
)
def test_only_commands_that_are_final_and_old_are_removed(
    queue: Queue, columns: dict[str, str], removed: int
) -> None:
    queue.command(queue.device("AA"), **{"updated_at": OLD, **columns})
    answer = remove(queue, "commands")
    assert (answer["removed"], left(queue, "device_commands"), answer["more"]) == (
        removed,
        1 - removed,
        False,
    )


@pytest.mark.parametrize(
    ("kind", "table"), [("history", "device_history"), ("telemetry", "device_telemetry")]
)
def test_rows_of_a_device_are_removed_by_their_age(queue: Queue, kind: str, table: str) -> None:
    device = queue.device("AA")
    for moment in (OLD, "now"):
        queue.connection.execute(
            f"insert into {table} (device_id, created_at) values (%s, %s)", (device, moment)
        )
    assert remove(queue, kind)["removed"] == 1
    assert left(queue, table) == 1


def finished(queue: Queue, count: int) -> None:
    queue.connection.execute(
        "insert into device_commands (device_id, command_type, status, updated_at)"
        " select %s, 'reboot', 'acknowledged', timestamptz '2020-01-01' + n * interval '1 s'"
        " from generate_series(1, %s) n",
        (queue.device(uuid4().hex[:12]), count),
    )


def test_batches_go_on_where_the_last_one_left_off(queue: Queue) -> None:
    finished(queue, 25)
    answers = [remove(queue, "commands", p_limit=10)]
    while answers[-1]["more"]:
        answers.append(remove(queue, "commands", p_limit=10, p_after=answers[-1]["after"]))
    assert [answer["removed"] for answer in answers] == [10, 10, 5]


def test_one_worker_at_a_time_has_the_turn(queue: Queue) -> None:
    finished(queue, 2)
    assert remove(queue, "commands", "w1", p_limit=1)["held"]
    assert remove(queue, "commands", "w2") == {"held": False, "removed": 0, "refused": 0, "more": False}
    queue.connection.execute("update mqtt_private.turns set until = now() - interval '1 s'")
    assert remove(queue, "commands", "w2")["removed"] == 1


def test_a_row_that_somebody_holds_is_passed_over(queue: Queue) -> None:
    finished(queue, 2)
    with queue.another() as other, other.connection.transaction():
        other.connection.execute("select from device_commands order by updated_at limit 1 for update")
        assert remove(queue, "commands")["removed"] == 1
    assert remove(queue, "commands")["removed"] == 1


def test_what_the_project_does_not_let_go_is_named_and_the_rest_goes(queue: Queue) -> None:
    """Fails where a batch ends at the first refused row, or where the next call meets it again."""
    finished(queue, 4)
    queue.connection.execute(
        "create table audits (command_id uuid references device_commands);"
        "insert into audits select command_id from device_commands order by updated_at limit 2"
    )
    try:
        first = remove(queue, "commands", p_limit=2)
        assert (first["removed"], first["refused"], first["more"]) == (0, 2, True)
        assert "audits" in first["error"]
        second = remove(queue, "commands", p_limit=10, p_after=first["after"])
        assert second["removed"] == 2
        assert left(queue, "device_commands") == 2
    finally:
        queue.connection.execute("drop table audits")


def test_on_an_adopted_project_what_was_there_before_stays(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute(OLD_PROJECT.read_bytes())
        apply(connection)
        queue = Queue(connection)
        tables = ("device_commands", "device_history", "device_telemetry", "device_images")
        # time passes: whatever has an age is old, and the migrations have been there for long
        for column, table in zip(("updated_at", *["created_at"] * 3), tables, strict=True):
            connection.execute("set session_replication_role = replica")
            connection.execute(f"update {table} set {column} = '{OLD}'")
            connection.execute("set session_replication_role = default")
        connection.execute("update mqtt_private.adoption set applied_at = '2020-01-02'")
        before = {table: left(queue, table) for table in tables}
        assert all(before.values())
        device = "d0000000-0000-4000-8000-000000000031"
        for event, kept in (("note of the owner", True), ("mapped", False)):
            connection.execute(
                "insert into device_history (device_id, event_type, created_at)"
                " values (%s, %s, '2020-02-01')",
                (device, event),
            )
            before["device_history"] += kept
        for kind in ("commands", "history", "telemetry"):
            remove(queue, kind)
        images = queue.call("fn_list_old_images", p_worker="w1", p_days=90)
        assert images["images"] == []
        assert {table: left(queue, table) for table in tables} == before


def buffers(connection: psycopg.Connection, statement: str) -> int:
    """The pages that a statement reads, cached or not; what it changes is undone."""
    with connection.transaction(force_rollback=True):
        row = connection.execute(f"explain (analyze, buffers, format json) {statement}").fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_claims_do_not_notice_old_rows_and_a_batch_reads_no_more_than_it_removes(queue: Queue) -> None:
    claim = "select fn_claim_commands('w1')"
    remove_ten = "select fn_remove_old_rows('w1', 'commands', 90, 10)"
    finished(queue, 10)
    queue.connection.execute("analyze device_commands")
    for statement in (claim, remove_ten):  # the first of a session also reads the catalogue
        buffers(queue.connection, statement)
    few = [buffers(queue.connection, statement) for statement in (claim, remove_ten)]
    finished(queue, 20_000)
    queue.connection.execute("analyze device_commands")
    for statement in (claim, remove_ten):
        buffers(queue.connection, statement)
    many = [buffers(queue.connection, statement) for statement in (claim, remove_ten)]
    # an index that is a level deeper costs a page more for each row
    assert many[0] <= few[0] + 60, (few, many)
    assert many[1] <= few[1] + 200, (few, many)


def test_a_claim_does_not_wait_for_a_removal(queue: Queue) -> None:
    finished(queue, 1)
    waiting = queue.command(queue.device("AA"))
    with queue.another() as other, other.connection.transaction():
        assert remove(other, "commands")["removed"] == 1
        queue.connection.execute("set lock_timeout = '1s'")
        assert ids(queue.claim()["commands"]) == [waiting]
        queue.connection.execute("reset lock_timeout")


def image(queue: Queue, status: str, created: str = OLD, **columns: object) -> UUID:
    name = uuid4().hex
    return queue.insert(
        "device_images", "image_id", device_id=queue.device(name[:12]), image_name=name, status=status,
        created_at=created, updated_at=created, upload_path=f"p/{name}.jpg", **columns,
    )  # fmt: skip


def test_old_pictures_are_listed_with_their_files_and_their_readings_stay(queue: Queue) -> None:
    complete = image(queue, "complete", storage_path="p/stored.jpg")
    failed = image(queue, "failed")
    kept = [image(queue, "receiving"), image(queue, "pending"), image(queue, "complete", "now")]
    queue.connection.execute(
        "insert into device_telemetry (device_id, image_id)"
        " select device_id, image_id from device_images where image_id = %s",
        (complete,),
    )
    listed = queue.call("fn_list_old_images", p_worker="w1", p_days=90)
    paths = {found["image_id"]: found["path"] for found in listed["images"]}
    assert paths == {str(complete): "p/stored.jpg", str(failed): None}
    answer = queue.call("fn_remove_images", p_worker="w1", p_image_ids=[complete, failed, kept[0]])
    assert (answer["removed"], len(answer["files"])) == (2, 1)
    assert {row["image_id"] for row in queue.rows("select image_id from device_images")} == set(kept)
    assert queue.rows("select image_id from device_telemetry") == [{"image_id": None}]
    again = queue.call("fn_remove_images", p_worker="w1", p_image_ids=[complete, failed])
    assert again["removed"] == 0


def test_the_workers_own_tables_are_swept(queue: Queue) -> None:
    device, stored = queue.device("AA"), image(queue, "complete", "now")
    queue.connection.execute(
        """
        insert into mqtt_private.acknowledgements (ref, worker, received_at)
          values ('old', 'w', now() - interval '71 minutes'), ('new', 'w', now());
        insert into mqtt_private.worker_instances (client_id, worker, since)
          select 'c' || n, 'w', now() - n * interval '1 day' from generate_series(20, 40) n;
        insert into mqtt_private.unknown_command_types values ('custom'), ('stranger');
        insert into device_command_types (command_type) values ('custom');
        """
    )
    for age in ("71 minutes", "1 minute"):
        queue.connection.execute(
            "insert into mqtt_private.replies"
            " values (gen_random_uuid(), %s, 'next_wake', now() - %s::interval)",
            (device, age),
        )
    for age in ("25 hours", "1 hour"):
        queue.connection.execute(
            "insert into mqtt_private.duplicate_images values (gen_random_uuid(), %s, now() - %s::interval)",
            (stored, age),
        )
    assert queue.call("fn_sweep_own_tables", p_worker="w1") == {"held": True, "removed": 1 + 11 + 1 + 1 + 1}
    tables = ("acknowledgements", "replies", "duplicate_images", "unknown_command_types", "worker_instances")
    assert [left(queue, f"mqtt_private.{table}") for table in tables] == [1, 1, 1, 1, 10]


def test_the_documents_say_of_each_table_what_bounds_it(queue: Queue) -> None:
    text = OPERATIONS.read_text(encoding="utf-8").split("## What is kept, and for how long")[-1]
    bounded = set(re.findall(r"`((?:public|mqtt_private)\.\w+)`", text.split("\n## ")[0]))
    there = queue.rows(
        "select relnamespace::regnamespace || '.' || relname as name from pg_class"
        " where relkind in ('r', 'p')"
        " and relnamespace in ('public'::regnamespace, 'mqtt_private'::regnamespace)"
    )
    assert bounded == {row["name"] for row in there}


def test_nonsense_is_refused(queue: Queue) -> None:
    for parameters in ({"p_kind": "devices"}, {"p_days": 0}, {"p_kind": "images"}, {"p_worker": ""}):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            queue.call(
                "fn_remove_old_rows",
                **{"p_worker": "w1", "p_kind": "commands", "p_days": 1, **parameters},
            )
