"""Which process goes by an MQTT client id."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, copied, emptied, waiting


@pytest.fixture(scope="module")
def shared(server_url: str, migrated_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, migrated_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(emptied(shared))


def announce(queue: Queue, worker: str, *, starts: bool, client_id: str = "one") -> str:
    answer = queue.call("fn_announce_worker", p_client_id=client_id, p_worker=worker, p_starts=starts)
    return str(answer["worker"])


def test_the_process_that_started_last_goes_by_the_id(queue: Queue) -> None:
    assert announce(queue, "one:a", starts=True) == "one:a"
    assert announce(queue, "one:b", starts=True) == "one:b"
    assert announce(queue, "one:a", starts=False) == "one:b"
    assert announce(queue, "one:b", starts=False) == "one:b"


def test_a_process_that_asks_is_the_one_where_nobody_is_known(queue: Queue) -> None:
    assert announce(queue, "one:a", starts=False) == "one:a"
    assert announce(queue, "one:b", starts=False) == "one:a"


def test_a_start_that_is_told_twice_is_one(queue: Queue) -> None:
    announce(queue, "one:a", starts=True)
    [before] = queue.rows("select * from mqtt_private.worker_instances")
    announce(queue, "one:a", starts=True)
    assert queue.rows("select * from mqtt_private.worker_instances") == [before]


def test_each_id_has_a_process_of_its_own(queue: Queue) -> None:
    announce(queue, "one:a", starts=True)
    announce(queue, "two:b", starts=True, client_id="two")
    assert announce(queue, "one:a", starts=False) == "one:a"


def test_ids_that_no_process_took_for_a_month_are_forgotten(queue: Queue) -> None:
    for name in ("one", "two"):
        announce(queue, f"{name}:a", starts=True, client_id=name)
    queue.connection.execute("update mqtt_private.worker_instances set since = now() - interval '31 days'")
    announce(queue, "one:a", starts=True)
    assert [
        row["client_id"] for row in queue.rows("select client_id from mqtt_private.worker_instances")
    ] == ["one"]


def test_of_two_that_start_at_once_the_later_stays(queue: Queue) -> None:
    queue.connection.execute("begin")
    announce(queue, "one:a", starts=True)
    with queue.another() as other, waiting(other, lambda: announce(other, "one:b", starts=True)) as later:
        queue.connection.execute("commit")
        assert later.result(timeout=10) == "one:b"
    assert announce(queue, "one:a", starts=False) == "one:b"


def test_a_process_must_have_a_name(queue: Queue) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        announce(queue, "", starts=True)
