"""Which process goes by an MQTT client id."""

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, waiting


def announce(queue: Queue, worker: str, started_ago: float, client_id: str = "one") -> str:
    """As a worker of the first version does, without its version."""
    answer = queue.call(
        "fn_announce_worker", p_client_id=client_id, p_worker=worker, p_started_ago=started_ago
    )
    return str(answer["worker"])


def overtaken(queue: Queue) -> tuple[str | None, int | None]:
    [row] = queue.rows("select overtaken, overtakings from mqtt_private.worker_instances")
    return row["overtaken"], row["overtakings"]


def test_the_process_that_started_last_goes_by_the_id(queue: Queue) -> None:
    assert announce(queue, "one:a", 10) == "one:a"
    assert announce(queue, "one:b", 1) == "one:b"
    assert announce(queue, "one:a", 10) == "one:b"
    assert announce(queue, "one:b", 1) == "one:b"


def test_one_that_could_not_tell_before_it_leaves_does_not_pass_for_new(queue: Queue) -> None:
    """Fails where whoever tells last goes by the id: its successor would leave too, at its next question."""
    assert announce(queue, "one:b", 10) == "one:b"
    assert announce(queue, "one:a", 3600) == "one:b"


def test_what_is_told_twice_changes_nothing(queue: Queue) -> None:
    announce(queue, "one:a", 5)
    [before] = queue.rows("select client_id, worker, since from mqtt_private.worker_instances")
    announce(queue, "one:a", 4.5)  # its call took longer
    assert queue.rows("select client_id, worker, since from mqtt_private.worker_instances") == [before]


def test_each_id_has_a_process_of_its_own(queue: Queue) -> None:
    announce(queue, "one:a", 5)
    announce(queue, "two:b", 1, client_id="two")
    assert announce(queue, "one:a", 5) == "one:a"


def test_ids_that_no_process_took_for_a_month_are_forgotten(queue: Queue) -> None:
    for name in ("one", "two"):
        announce(queue, f"{name}:a", 0, client_id=name)
    queue.connection.execute("update mqtt_private.worker_instances set since = now() - interval '31 days'")
    queue.connection.execute("update mqtt_private.worker_instances set seen_at = since")
    announce(queue, "one:b", 0)
    assert [
        row["client_id"] for row in queue.rows("select client_id from mqtt_private.worker_instances")
    ] == ["one"]


def test_of_two_that_start_at_once_the_later_stays(queue: Queue) -> None:
    queue.connection.execute("begin")
    announce(queue, "one:a", 0)
    with queue.another() as other, waiting(other, lambda: announce(other, "one:b", 0)) as later:
        queue.connection.execute("commit")
        assert later.result(timeout=10) == "one:b"
    assert announce(queue, "one:a", 10) == "one:b"


def test_a_process_must_have_a_name(queue: Queue) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        announce(queue, "", 0)


def test_the_function_of_an_earlier_version_is_gone(queue: Queue) -> None:
    rows = queue.rows("select oid::regprocedure::text from pg_proc where proname = 'fn_announce_worker'")
    assert rows == [{"oid": "fn_announce_worker(text,text,double precision,text)"}]


def test_the_version_is_that_of_the_newest_process(queue: Queue) -> None:
    newer = {"p_worker": "one:b", "p_started_ago": 1.0, "p_version": "2.0"}
    older = {"p_worker": "one:a", "p_started_ago": 9.0, "p_version": "1.0"}
    for process in (older, newer, older):
        queue.call("fn_announce_worker", p_client_id="one", **process)
    assert queue.rows("select version from mqtt_private.worker_instances") == [{"version": "2.0"}]


def test_a_process_that_goes_on_beside_a_newer_one_is_noted_once(queue: Queue) -> None:
    announce(queue, "one:a", 20)
    announce(queue, "one:b", 10)
    assert overtaken(queue) == (None, None)
    for _ in range(2):
        announce(queue, "one:a", 20)
        assert overtaken(queue) == ("one:a", 1)


def test_processes_that_throw_each_other_out_are_counted_for_as_long_as_that_goes_on(queue: Queue) -> None:
    for older, newer in (("a", "b"), ("b", "c")):
        announce(queue, f"one:{older}", 20)
        announce(queue, f"one:{newer}", 0)
        announce(queue, f"one:{older}", 20)
    assert overtaken(queue) == ("one:b", 2)
    queue.connection.execute(
        "update mqtt_private.worker_instances set overtaken_at = now() - interval '11 minutes'"
    )
    announce(queue, "one:a", 30)
    assert overtaken(queue) == ("one:a", 1)
