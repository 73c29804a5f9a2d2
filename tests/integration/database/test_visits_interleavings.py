"""Visits under bad luck: lost responses, devices deleted meanwhile, everything at once."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import pytest

from tests.integration.database.queue_calls import Queue, Row, waiting

MORNING = "2025-08-29T08:00:00Z"


@pytest.fixture
def other(queue: Queue) -> Iterator[Queue]:
    with queue.another() as other:
        yield other


@pytest.fixture
def device(queue: Queue) -> UUID:
    return queue.device("d1")


def visit(queue: Queue) -> Row:
    [row] = queue.rows("select * from mqtt_private.visits")
    return row


# Responses that are lost


@pytest.mark.usefixtures("device")
def test_an_echo_that_is_sent_again_is_an_echo_again(queue: Queue) -> None:
    """Fails when fn_join_or_begin_visit does not know a HELLO by its ref: then two workers would answer."""
    queue.hello("d1", "w1", ref="w1:1")
    for _ in range(3):
        assert queue.hello("d1", "w2", ref="w2:1")["holds_lease"] is False
    assert visit(queue)["lease_worker"] == "w1"
    assert visit(queue)["received_by"] == ["w1", "w2"]


@pytest.mark.usefixtures("device")
def test_a_hello_that_is_sent_again_begins_no_further_visit_and_lengthens_the_lease(queue: Queue) -> None:
    queue.hello("d1", "w1", ref="w1:1", pending_count=2, pending_names=["a.jpg", "b.jpg"])
    queue.hello("d1", "w2", ref="w2:1")
    queue.pass_time("30 s")
    picture = queue.image("d1", "w1", image_name="a.jpg")
    queue.settle_image(picture["image_id"], "complete", "w1", sha256="1")
    queue.pass_time("30 s")
    before = visit(queue)
    assert queue.hello("d1", "w1", ref="w1:1", pending_names=["a.jpg", "b.jpg"])["holds_lease"] is True
    after = visit(queue)
    assert after["lease_until"] > before["lease_until"]
    assert {**after, "lease_until": None} == {**before, "lease_until": None}
    [held] = queue.hold("d1", worker="w1")
    assert (held["holds_lease"], held["pending_names"]) == (True, ["b.jpg"])


@pytest.mark.usefixtures("device")
def test_a_hello_that_is_sent_again_after_a_takeover_does_not_take_the_visit_back(queue: Queue) -> None:
    queue.hello("d1", "w1", ref="w1:1")
    queue.pass_time("11 s")
    assert queue.hold("d1", worker="w2")[0]["took_over"] is True
    assert queue.hello("d1", "w1", ref="w1:1")["holds_lease"] is False
    assert visit(queue)["lease_worker"] == "w2"


@pytest.mark.usefixtures("device")
def test_hellos_without_a_ref_are_each_a_hello(queue: Queue) -> None:
    first = queue.hello("d1", ref=None) and visit(queue)
    assert queue.hello("d1", ref=None)["holds_lease"] is True
    assert visit(queue)["began_at"] > first["began_at"]


def test_registrations_whose_response_was_lost_are_known_and_still_spoken_to(queue: Queue) -> None:
    hellos = [{"topic_id": f"n{number}", "ref": f"w1:{number}"} for number in range(3)]
    first, again = queue.hellos(*hellos), queue.hellos(*hellos)
    assert [answer["result"] for answer in first] == ["created"] * 3
    assert [(answer["result"], answer["holds_lease"]) for answer in again] == [("known", True)] * 3
    assert [answer["device_id"] for answer in again] == [answer["device_id"] for answer in first]


def test_pictures_whose_response_was_lost_are_the_same_rows(queue: Queue) -> None:
    pictures = [
        {"topic_id": "d1", "image_name": "a.jpg", "captured_at": MORNING, "temperature": 20.5},
        {"topic_id": "d1", "image_name": "b.jpg", "temperature": 20.5},
    ]
    first, again = queue.images(*pictures), queue.images(*pictures)
    for old, new in zip(first, again, strict=True):
        assert (old["image_id"], old["storage_path"]) == (new["image_id"], new["storage_path"])
        assert (old["result"], new["result"]) == ("receiving", "receiving")
    assert len(queue.rows("select from device_telemetry")) == 2


def test_a_call_that_broke_off_left_nothing(queue: Queue, other: Queue, device: UUID) -> None:
    command = queue.command(device, "update_config", command_payload='{"a": 1}')
    queue.settle(queue.claim()["commands"])
    queue.pass_time("1 h")
    other.connection.execute("begin")
    other.hellos({"topic_id": "d1", "pending_names": ["a.jpg"]}, {"topic_id": "new"})
    other.image("d1", image_name="b.jpg", temperature=20)
    other.connection.execute("rollback")
    assert queue.row(command)["status"] == "sent"
    for table in ("mqtt_private.visits", "device_images", "device_telemetry", "device_history"):
        assert queue.rows(f"select from {table}") == []
    assert queue.hello("d1", "w2")["commands"] == 1


# A lease that runs out


@pytest.mark.usefixtures("device")
def test_a_lease_runs_out_by_the_databases_clock_and_another_worker_speaks(queue: Queue) -> None:
    queue.hellos({"topic_id": "d1"}, worker="w1", p_lease_seconds=0.2)
    deadline = time.monotonic() + 10
    while not queue.rows("select from mqtt_private.visits where lease_until <= clock_timestamp()"):
        assert time.monotonic() < deadline, "the lease did not run out"
    [adopted] = queue.adopt("w2")
    assert (adopted["took_over"], adopted["holds_lease"]) == (True, True)
    assert queue.image("d1", "w1")["result"] == "silent"
    assert queue.end(UUID(adopted["device_id"]), worker="w1") == 0
    assert queue.end(UUID(adopted["device_id"]), worker="w2") == 1


# A device that is deleted meanwhile


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda queue: queue.hellos({"topic_id": "d1"}, {"topic_id": "d2"}), ["refused", "known"]),
        (
            lambda queue: queue.images({"topic_id": "d1"}, {"topic_id": "d2"}),
            ["unknown_device", "receiving"],
        ),
    ],
    ids=["hello", "picture"],
)
def test_a_device_that_is_deleted_while_its_message_waits_is_unknown_and_harms_no_other(
    queue: Queue, other: Queue, device: UUID, call: Callable[[Queue], list[Row]], result: list[str]
) -> None:
    queue.device("d2")
    queue.connection.execute("begin")
    queue.connection.execute("delete from devices where device_id = %s", (device,))
    with waiting(other, lambda: call(other)) as answers:
        queue.connection.execute("commit")
        assert [answer["result"] for answer in answers.result(timeout=10)] == result
    assert len(queue.rows("select from mqtt_private.visits")) == 1


def test_a_picture_that_is_deleted_with_its_device_is_unknown(
    queue: Queue, other: Queue, device: UUID
) -> None:
    queue.device("d2")
    pictures = [answer["image_id"] for answer in queue.images({"topic_id": "d1"}, {"topic_id": "d2"})]
    results = [{"image_id": picture, "outcome": "complete", "sha256": "1"} for picture in pictures]
    queue.connection.execute("begin")
    queue.connection.execute("delete from devices where device_id = %s", (device,))
    with waiting(other, lambda: other.settle_images(*results)) as settled:
        queue.connection.execute("commit")
        assert [row["result"] for row in settled.result(timeout=10)] == ["unknown", "complete"]


def test_a_device_that_was_deleted_registers_itself_anew(queue: Queue) -> None:
    first = queue.hello("n1")
    queue.connection.execute("delete from devices")
    again = queue.hello("n1")
    assert (again["result"], again["device_id"] != first["device_id"]) == ("created", True)


def test_a_device_that_appears_while_a_call_waits_is_left_to_its_next_message(
    queue: Queue, other: Queue, device: UUID
) -> None:
    """Fails when a device is looked up again after the locks: it would be locked out of order."""
    hellos = {"topic_id": "new"}, {"topic_id": "d1"}
    queue.connection.execute("begin")
    queue.rows("select from devices where device_id = %s for update", device)
    with waiting(other, lambda: other.hellos(*hellos, p_register=False)) as answers:
        with queue.another() as person:
            person.device("new")
        queue.connection.execute("commit")
        assert [answer["result"] for answer in answers.result(timeout=10)] == ["refused", "known"]
    assert [answer["result"] for answer in other.hellos(*hellos, p_register=False)] == ["known", "known"]


# Everything at once


def test_workers_and_people_who_do_everything_at_once_end_in_no_deadlock(queue: Queue) -> None:
    """Fails when a call locks pictures or visits before devices, or devices not in the order of device_id.

    A lock that is waited for too long would be no failure of the order; nothing here holds one that long.
    """
    names = [f"cam-{number}" for number in range(12)] + [f"gone-{number}" for number in range(4)]
    for name in names:
        queue.device(name)
    with ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        barrier = threading.Barrier(6)
        queues = [stack.enter_context(queue.another()) for _ in range(6)]
        actors = [pool.submit(_work, queues[n], f"w{n}", names, barrier) for n in range(4)]
        actors += [pool.submit(_edit, queues[4], names, barrier), pool.submit(_delete, queues[5], barrier)]
        for actor in actors:
            actor.result(timeout=90)
    spelled_twice = "select from devices group by mqtt_private.fn_device_key(device_mac) having count(*) > 1"
    assert queue.rows(spelled_twice) == []
    assert queue.rows("select from device_images where status = 'complete' and storage_path is null") == []
    assert (
        queue.rows("select from device_images where status <> 'complete' and storage_path is not null") == []
    )
    stray = (
        "select from mqtt_private.visits v left join devices d using (device_id) where d.device_id is null"
    )
    assert queue.rows(stray) == []


def _work(queue: Queue, worker: str, names: list[str], barrier: threading.Barrier) -> None:
    chance = random.Random(worker)
    barrier.wait(timeout=10)
    for turn in range(15):
        part = chance.sample(names, 8)
        queue.hellos(
            *({"topic_id": name, "pending_names": [f"{turn}.jpg", "x.jpg"]} for name in part),
            worker=worker, p_registrations_per_minute=1000,
        )  # fmt: skip
        part = chance.sample(names, 8)
        recorded = queue.images(
            *({"topic_id": name, "image_name": f"{turn}.jpg", "temperature": 20} for name in part),
            worker=worker, p_registrations_per_minute=1000,
        )  # fmt: skip
        queue.hold(*chance.sample(names, 8), worker=worker)
        queue.settle(queue.claim(worker, limit=5)["commands"], worker=worker)
        queue.acknowledge(*({"topic_id": name} for name in chance.sample(names[:12], 8)), worker=worker)
        pictures = [answer["image_id"] for answer in recorded if answer["image_id"]]
        queue.settle_images(
            *(
                {
                    "image_id": picture,
                    "outcome": chance.choice(["complete", "failed", "asked"]),
                    "sha256": "1",
                }
                for picture in chance.sample(pictures, len(pictures))
            ),
            worker=worker,
        )
        queue.end(*(UUID(answer["device_id"]) for answer in recorded if answer["device_id"]), worker=worker)
        queue.adopt(worker)


def _edit(queue: Queue, names: list[str], barrier: threading.Barrier) -> None:
    """A person who queues commands and edits devices, one at a time."""
    barrier.wait(timeout=10)
    for turn in range(60):
        name = names[turn % 12]
        queue.connection.execute(
            "with device as (select device_id from devices where device_mac = %s for key share)"
            " insert into device_commands (device_id, command_type) select device_id, 'reboot' from device",
            (name,),
        )
        queue.connection.execute(
            "update devices set is_active = not is_active where device_mac = %s", (name,)
        )


def _delete(queue: Queue, barrier: threading.Barrier) -> None:
    """A person who deletes devices, which come back by themselves."""
    barrier.wait(timeout=10)
    for _ in range(10):
        queue.connection.execute(
            "delete from devices where device_id ="
            " (select device_id from devices where device_mac ~ '^gone' order by random() limit 1)"
        )
