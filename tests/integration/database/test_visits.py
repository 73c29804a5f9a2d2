"""Who speaks to a device that is awake: leases, echoes, takeovers, ends."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, locked_devices, waiting


@pytest.fixture
def device(queue: Queue) -> UUID:
    return queue.device("d1")


def visit(queue: Queue) -> Row:
    [row] = queue.rows("select *, lease_until - began_at as lease from mqtt_private.visits")
    return row


def one(rows: list[Row]) -> Row:
    [row] = rows
    return row


# HELLOs


def test_the_first_worker_to_bring_a_hello_speaks_and_the_others_listen(queue: Queue, device: UUID) -> None:
    assert [queue.hello("d1", worker)["holds_lease"] for worker in ("w1", "w2", "w3")] == [True, False, False]
    row = visit(queue)
    assert (row["device_id"], row["lease_worker"], row["received_by"]) == (device, "w1", ["w1", "w2", "w3"])
    assert row["ended_at"] is None


def test_an_echo_changes_nothing_of_the_visit_or_the_device(queue: Queue, device: UUID) -> None:
    queue.hello("d1", "w1", pending_count=1, pending_names=["a.jpg"], battery_voltage=3.9)
    before = visit(queue), queue.rows("select * from devices"), queue.rows("select * from device_images")
    answer = queue.hello("d1", "w2", pending_count=0, battery_voltage=1)
    after = visit(queue), queue.rows("select * from devices"), queue.rows("select * from device_images")
    after[0]["received_by"].remove("w2")
    after[0]["received_refs"].pop()
    assert after == before
    assert (answer["result"], answer["device_id"]) == ("known", str(device))
    assert answer["next_wake_at"]


@pytest.mark.usefixtures("device")
def test_the_next_hello_is_a_new_visit_of_whichever_worker_brings_it_first(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.hello("d1", "w2")
    queue.pass_time("5 s")
    assert queue.hello("d1", "w2")["holds_lease"] is True
    assert queue.hello("d1", "w1")["holds_lease"] is False
    assert (visit(queue)["lease_worker"], visit(queue)["received_by"]) == ("w2", ["w2", "w1"])


@pytest.mark.usefixtures("device")
def test_a_worker_that_hears_a_device_again_speaks_in_a_new_visit(queue: Queue) -> None:
    queue.hello("d1", pending_count=4)
    first = visit(queue)
    assert queue.hello("d1")["holds_lease"] is True
    assert visit(queue)["began_at"] > first["began_at"]
    assert visit(queue)["pending_count"] == 0


@pytest.mark.usefixtures("device")
def test_a_hello_that_another_worker_brings_much_later_is_no_echo(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("19 s")
    assert queue.hello("d1", "w2")["holds_lease"] is False
    queue.pass_time("2 s")
    assert queue.hello("d1", "w3")["holds_lease"] is True


def test_an_echo_of_a_visit_that_has_ended_begins_none(queue: Queue, device: UUID) -> None:
    queue.hello("d1", "w1")
    queue.end(device, worker="w1")
    assert queue.hello("d1", "w2")["holds_lease"] is False
    assert one(queue.hold("d1", worker="w2"))["ended"] is True


@pytest.mark.parametrize("ended", [False, True])
def test_a_hello_is_no_echo_of_a_visit_that_a_picture_began(
    queue: Queue, device: UUID, *, ended: bool
) -> None:
    """Else a device that uploaded to a worker that is gone gets no answer to its HELLO."""
    queue.image("d1", "w1", image_name="image_1.jpg")
    if ended:
        queue.end(device, worker="w1")
    missed = queue.command(device)
    answer = queue.hello("d1", "w2")
    assert (answer["holds_lease"], answer["commands"]) == (True, 1)
    assert queue.claim_ids("w2") == [missed]
    assert queue.hello("d1", "w1")["holds_lease"] is False


@pytest.mark.usefixtures("device")
def test_the_lease_is_as_long_as_asked(queue: Queue) -> None:
    queue.hellos({"topic_id": "d1"}, p_lease_seconds=33)
    assert visit(queue)["lease"].total_seconds() == 33


def test_two_workers_that_hear_many_devices_at_once_agree_who_speaks(queue: Queue) -> None:
    for number in range(100):
        queue.device(f"cam-{number}")
    names = [f"cam-{number}" for number in range(100)]
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        queues = [stack.enter_context(queue.another()) for _ in range(4)]
        barrier = threading.Barrier(4)

        def hear(number: int) -> set[str]:
            barrier.wait(timeout=10)
            answers = []
            for start in range(0, 100, 20):
                part = (names[50:] + names[:50] if number % 2 else names[::-1])[start : start + 20]
                answers += queues[number].hellos(*({"topic_id": name} for name in part), worker=f"w{number}")
            return {answer["device_id"] for answer in answers if answer["holds_lease"]}

        spoken = [device for part in pool.map(hear, range(4), timeout=60) for device in part]
    assert len(spoken) == len(set(spoken)) == 100


# Holding


def test_a_visit_is_told_as_it_stands_in_the_order_asked(queue: Queue, device: UUID) -> None:
    queue.hello("d1", topic_root="ESP32CAM", pending_count=3, pending_names=["b.jpg", "a.jpg"])
    queue.device("d2")
    nobody, first, asleep = queue.hold("nobody", "d1", "d2")
    assert first.pop("next_wake_at")
    assert first == {
        "topic_root": "device", "topic_id": "d1", "device_id": str(device), "device_code": "CODE-d1",
        "holds_lease": True, "ended": False, "took_over": False, "open_commands": 0, "schedule_sent": False,
        "pending_count": 3, "pending_names": ["b.jpg", "a.jpg"], "settled_names": [],
    }  # fmt: skip
    assert nobody == {
        "topic_root": "device", "topic_id": "nobody", "device_id": None, "device_code": None,
        "holds_lease": False, "ended": True, "took_over": False, "open_commands": 0, "schedule_sent": False,
        "pending_count": 0, "pending_names": [], "settled_names": [], "next_wake_at": None,
    }  # fmt: skip
    assert (asleep["device_code"], asleep["holds_lease"], asleep["ended"]) == ("CODE-d2", False, True)


@pytest.mark.usefixtures("device")
def test_holding_lengthens_the_lease_and_listening_does_not(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("5 s")
    before = visit(queue)
    answer = one(queue.hold("d1", worker="w2"))
    assert (answer["holds_lease"], answer["ended"], answer["took_over"]) == (False, False, False)
    assert visit(queue) == before
    assert one(queue.hold("d1", worker="w1"))["holds_lease"] is True
    assert (visit(queue)["lease_until"] - before["lease_until"]).total_seconds() == pytest.approx(5, abs=3)
    assert visit(queue)["began_at"] == before["began_at"]


@pytest.mark.usefixtures("device")
def test_a_lapsed_visit_is_taken_over_and_its_former_worker_listens(queue: Queue) -> None:
    queue.hello("d1", "w1", pending_count=2)
    queue.pass_time("11 s")
    taken = one(queue.hold("d1", worker="w2"))
    assert (taken["holds_lease"], taken["took_over"], taken["pending_count"]) == (True, True, 2)
    late = one(queue.hold("d1", worker="w1"))
    assert (late["holds_lease"], late["took_over"], late["ended"]) == (False, False, False)
    again = one(queue.hold("d1", worker="w2"))
    assert (again["holds_lease"], again["took_over"]) == (True, False)


@pytest.mark.usefixtures("device")
def test_a_worker_goes_on_in_its_own_lapsed_visit_that_nobody_took(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("1 min")
    answer = one(queue.hold("d1", worker="w1"))
    assert (answer["holds_lease"], answer["took_over"]) == (True, False)


@pytest.mark.usefixtures("device")
def test_a_visit_that_is_given_back_is_anybodys_at_once(queue: Queue) -> None:
    queue.hello("d1", "w1")
    assert one(queue.hold("d1", worker="w1", lease=0))["holds_lease"] is False
    assert one(queue.hold("d1", worker="w2", lease=0))["took_over"] is False
    assert queue.claim()["visits_due"] is True
    assert one(queue.hold("d1", worker="w2"))["took_over"] is True


def test_an_ended_visit_is_nobodys(queue: Queue, device: UUID) -> None:
    queue.hello("d1", "w1")
    queue.end(device, worker="w1")
    queue.pass_time("1 min")
    for worker in ("w1", "w2"):
        answer = one(queue.hold("d1", worker=worker))
        assert (answer["holds_lease"], answer["ended"], answer["took_over"]) == (False, True, False)


@pytest.mark.usefixtures("device")
def test_a_device_asked_for_twice_is_answered_twice(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("11 s")
    answers = queue.hold("d1", "d1", worker="w2")
    assert [(answer["holds_lease"], answer["took_over"]) for answer in answers] == [(True, True)] * 2
    assert queue.hold(worker="w2") == []


def test_holding_does_not_wait_for_whoever_holds_the_devices(queue: Queue, device: UUID) -> None:
    """Fails when fn_renew_visits or fn_end_visits locks devices: their leases would lapse meanwhile."""
    queue.hello("d1")
    with locked_devices(queue):
        assert one(queue.hold("d1"))["holds_lease"] is True
        assert queue.end(device) == 1


@pytest.mark.usefixtures("device")
def test_two_workers_that_want_a_lapsed_visit_get_it_once(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("11 s")
    with queue.another() as other:
        queue.connection.execute("begin")
        assert one(queue.hold("d1", worker="w2"))["took_over"] is True
        with waiting(other, lambda: other.hold("d1", worker="w3")) as hold:
            queue.connection.execute("commit")
            answer = one(hold.result(timeout=10))
    assert (answer["holds_lease"], answer["took_over"]) == (False, False)
    assert visit(queue)["lease_worker"] == "w2"


# What is open


def test_commands_are_open_while_due_leased_or_sent_in_this_visit(queue: Queue, device: UUID) -> None:
    queue.settle(queue.claim()["commands"])
    earlier = queue.command(device)
    queue.settle(queue.claim()["commands"])
    queue.pass_time("1 min")
    queue.hello("d1")
    assert queue.row(earlier)["status"] == "sent"  # a reboot is not repeated
    for _ in range(2):
        queue.command(device)
    queue.command(device, scheduled_for=queue.now().replace(year=2100))
    assert one(queue.hold("d1"))["open_commands"] == 2
    claimed = queue.claim(limit=1)["commands"]
    assert one(queue.hold("d1"))["open_commands"] == 2
    queue.settle(claimed)
    assert one(queue.hold("d1"))["open_commands"] == 2
    queue.acknowledge({"topic_id": "d1", "command_id": claimed[0]["command_id"]})
    assert one(queue.hold("d1"))["open_commands"] == 1


def test_commands_of_an_inactive_device_do_not_keep_it_awake(queue: Queue) -> None:
    queue.command(queue.device("d2", active=False))
    queue.hello("d2")
    assert one(queue.hold("d2"))["open_commands"] == 0


def test_a_schedule_that_was_sent_or_acknowledged_in_this_visit_told_the_device(
    queue: Queue, device: UUID
) -> None:
    def told() -> bool:
        answer: bool = one(queue.hold("d1"))["schedule_sent"]
        return answer

    payload = '{"wake_schedule_cron": "@daily"}'
    queue.command(device, "set_wake_schedule", command_payload=payload)
    queue.settle(queue.claim()["commands"])
    queue.connection.execute("update device_commands set delivered_at = now() - interval '5 s'")
    queue.hello("d1")
    assert told() is False  # that was sent before
    queue.command(device, "reboot")
    queue.settle(queue.claim()["commands"])
    assert told() is False
    queue.command(device, "set_wake_schedule", command_payload=payload)
    assert told() is False
    queue.settle(queue.claim()["commands"])
    assert told() is True
    queue.acknowledge({"topic_id": "d1", "command_type": "set_wake_schedule"})
    assert told() is True
    queue.hello("d1")
    assert told() is False


@pytest.mark.usefixtures("device")
def test_pictures_that_came_or_failed_in_this_visit_are_no_longer_pending(queue: Queue) -> None:
    queue.hello("d1", pending_count=4, pending_names=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    first, second, _ = queue.images(
        *({"topic_id": "d1", "image_name": name} for name in ("a.jpg", "b.jpg", "c.jpg"))
    )
    queue.settle_image(first["image_id"], "complete", sha256="1")
    queue.settle_image(second["image_id"], "failed", error="cut off")
    answer = one(queue.hold("d1"))
    assert (answer["pending_count"], answer["pending_names"]) == (2, ["c.jpg", "d.jpg"])
    assert sorted(answer["settled_names"]) == ["a.jpg", "b.jpg"]


@pytest.mark.usefixtures("device")
def test_pictures_of_an_earlier_visit_do_not_count(queue: Queue) -> None:
    queue.hello("d1")
    first = queue.image("d1", image_name="a.jpg")
    queue.settle_image(first["image_id"], "failed", error="cut off")
    queue.hello("d1", pending_count=1, pending_names=["a.jpg"])
    answer = one(queue.hold("d1"))
    assert (answer["pending_count"], answer["pending_names"]) == (1, ["a.jpg"])


@pytest.mark.usefixtures("device")
def test_more_pictures_than_announced_leave_nothing_pending(queue: Queue) -> None:
    queue.hello("d1", pending_count=1)
    for name in ("a.jpg", "b.jpg"):
        queue.settle_image(queue.image("d1", image_name=name)["image_id"], "complete", sha256=name)
    assert one(queue.hold("d1"))["pending_count"] == 0


# Adopting


def test_a_worker_adopts_what_lapsed_whether_or_not_it_heard_of_it(queue: Queue) -> None:
    for number in range(4):
        queue.device(f"d{number}")
    queue.hellos(
        {"topic_id": "d0", "topic_root": "ESP32CAM"}, {"topic_id": "d1"}, {"topic_id": "d2"}, worker="w1"
    )
    queue.end(queue.rows("select device_id from devices where device_mac = 'd1'")[0]["device_id"])
    queue.pass_time("11 s")
    queue.hold("d2", worker="w1")
    queue.hello("d3", "w1")
    adopted = one(queue.adopt("w2"))
    assert (adopted["topic_root"], adopted["topic_id"], adopted["device_code"]) == (
        "ESP32CAM", "d0", "CODE-d0",
    )  # fmt: skip
    assert (adopted["holds_lease"], adopted["took_over"], adopted["ended"]) == (True, True, False)
    assert set(adopted) == set(one(queue.hold("d0", worker="w2")))
    assert queue.adopt("w3") == []


@pytest.mark.usefixtures("device")
def test_an_adoption_whose_response_was_lost_comes_again_when_it_lapses(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("11 s")
    for _ in range(2):
        assert one(queue.adopt("w2"))["took_over"] is True
        assert queue.claim()["visits_due"] is False
        queue.pass_time("11 s")
        assert queue.claim()["visits_due"] is True


def test_an_adoption_takes_no_more_than_its_limit(queue: Queue) -> None:
    for number in range(5):
        queue.hello(f"d{number}")
    queue.pass_time("11 s")
    assert len(queue.adopt("w2", limit=0)) == 0
    assert len(queue.adopt("w2", limit=3)) == 3
    assert len(queue.adopt("w3", limit=3)) == 2


@pytest.mark.usefixtures("device")
def test_a_device_that_woke_long_ago_sleeps_and_its_visit_is_ended(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("9 min")
    assert queue.claim()["visits_due"] is True
    queue.pass_time("2 min")
    assert queue.claim()["visits_due"] is False
    assert queue.adopt("w2") == []
    assert visit(queue)["ended_at"] is not None


@pytest.mark.usefixtures("device")
def test_a_long_visit_that_is_held_is_not_ended_by_others(queue: Queue) -> None:
    queue.hello("d1", "w1")
    queue.pass_time("11 min")
    queue.hold("d1", worker="w1")
    assert queue.adopt("w2") == []
    assert visit(queue)["ended_at"] is None


@pytest.mark.usefixtures("device")
def test_an_adoption_waits_for_nobody_and_takes_what_is_free(queue: Queue) -> None:
    queue.hello("d1")
    queue.hello("d2")
    queue.pass_time("11 s")
    with queue.another() as person, person.connection.transaction():
        held = (
            "select from mqtt_private.visits join devices using (device_id)"
            " where device_mac = 'd1' for update"
        )
        person.rows(held)
        assert [row["topic_id"] for row in queue.adopt("w2")] == ["d2"]
    assert [row["topic_id"] for row in queue.adopt("w2")] == ["d1"]


# Ending


def test_only_the_worker_that_speaks_ends_a_visit_and_once(queue: Queue, device: UUID) -> None:
    other = queue.device("d2")
    queue.hello("d1", "w1")
    queue.hello("d2", "w2")
    assert queue.end(device, other, UUID(int=0), worker="w1") == 1
    assert queue.end(device, other, worker="w1") == 0
    assert one(queue.hold("d2", worker="w2"))["ended"] is False
    assert queue.end(worker="w1") == 0


def test_a_device_that_is_deleted_takes_its_visit_along(queue: Queue, device: UUID) -> None:
    queue.hello("d1")
    queue.connection.execute("delete from devices")
    assert one(queue.hold("d1"))["ended"] is True
    assert queue.end(device) == 0
    assert queue.adopt("w2") == []


@pytest.mark.parametrize("worker", ["", None])
def test_a_worker_must_have_a_name(queue: Queue, worker: str) -> None:
    for call in (queue.hold, queue.adopt, queue.end):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="p_worker"):
            call(worker=worker)


# The claim


@pytest.mark.usefixtures("device")
def test_a_claim_says_whether_a_visit_is_due(queue: Queue) -> None:
    assert queue.claim()["visits_due"] is False
    queue.hello("d1")
    assert queue.claim()["visits_due"] is False
    queue.pass_time("11 s")
    assert queue.claim()["visits_due"] is True
    queue.adopt("w2")
    assert queue.claim()["visits_due"] is False


def test_what_is_due_is_found_through_an_index_beside_20_000_visits(queue: Queue) -> None:
    # Autovacuum would read pages as well, and be counted.
    queue.connection.execute(
        """
        alter table mqtt_private.visits set (autovacuum_enabled = false);
        insert into devices (device_mac) select 'd' || n from generate_series(1, 20000) n;
        insert into mqtt_private.visits (device_id, lease_worker, lease_until, began_at, ended_at)
        select device_id, 'w', now() - interval '5 min', now() - interval '6 min', now() from devices;
        analyze mqtt_private.visits
        """
    )

    def blocks() -> int:
        """How many pages of visits and its indexes a claim reads."""
        read = """
            select pg_stat_get_blocks_fetched('mqtt_private.visits'::regclass)
              + (select sum(pg_stat_get_blocks_fetched(indexrelid)) from pg_index
                 where indrelid = 'mqtt_private.visits'::regclass) as pages
        """
        for statement in ("select pg_stat_force_next_flush()", "select pg_stat_clear_snapshot()"):
            queue.connection.execute(statement.encode())
        return int(queue.rows(read)[0]["pages"])

    queue.claim()
    before = blocks()
    for _ in range(10):
        assert queue.claim()["visits_due"] is False
    assert blocks() - before <= 100
