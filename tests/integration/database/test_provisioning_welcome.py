"""One welcome command for each mapping: no more, no less."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, about, copied, reseeded

COMPANY_A = UUID("a0000000-0000-4000-8000-000000000001")
PROGRAM_A = UUID("a0000000-0000-4000-8000-000000000011")
NORTH = UUID("a0000000-0000-4000-8000-000000000021")
SOUTH = UUID("a0000000-0000-4000-8000-000000000022")
MAPPED = UUID("a0000000-0000-4000-8000-000000000031")
WAITING = UUID("a0000000-0000-4000-8000-000000000032")


@pytest.fixture(scope="module")
def shared(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        yield connection


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(reseeded(shared))


def map_device(queue: Queue, device: UUID, site: UUID, **columns: object) -> UUID:
    return queue.insert("device_site_assignments", "assignment_id", device_id=device, site_id=site, **columns)


def new_devices(queue: Queue, count: int) -> list[UUID]:
    devices = [queue.device(f"cam-{number}", active=False) for number in range(count)]
    for device in devices:
        map_device(queue, device, NORTH)
    return devices


def welcome(queue: Queue, **parameters: object) -> list[Row]:
    welcomed: list[Row] = queue.call("fn_queue_welcome_commands", **parameters)
    return welcomed


def welcomes(queue: Queue, device: UUID) -> list[Row]:
    return queue.rows(
        "select * from device_commands where device_id = %s and idempotency_key like 'welcome:%%'"
        " order by issued_at",
        device,
    )


def test_a_newly_mapped_device_is_welcomed_once_with_its_schedule_and_where_it_belongs(queue: Queue) -> None:
    assignment = map_device(queue, WAITING, NORTH)
    [answer] = welcome(queue)
    assert welcome(queue) == []
    [command] = welcomes(queue, WAITING)
    assert answer["command_id"] == str(command["command_id"])
    assert (answer["device_id"], answer["device_code"], answer["site_id"]) == (
        str(WAITING), "DEVICE-ESP32S3-002", str(NORTH),
    )  # fmt: skip
    assert (command["command_type"], command["status"]) == ("set_wake_schedule", "pending")
    assert command["idempotency_key"].startswith(f"welcome:{assignment}")
    payload = command["command_payload"]
    [wake] = queue.rows("select next_wake_at as at from devices where device_id = %s", WAITING)
    assert datetime.fromisoformat(payload.pop("next_wake_time")) == wake["at"]
    assert payload == {
        "welcome": True, "wake_schedule_cron": "0 8,16 * * *", "timezone": "Europe/Berlin",
        "site_id": str(NORTH), "site_name": "Alder North", "program_id": str(PROGRAM_A),
        "program_name": "Alder Pilot", "company_id": str(COMPANY_A),
    }  # fmt: skip


def test_a_claim_says_that_a_welcome_is_due(queue: Queue) -> None:
    assert queue.claim()["welcome_due"] is False
    map_device(queue, WAITING, NORTH)
    assert queue.claim()["welcome_due"] is True
    welcome(queue)
    claimed = queue.claim()
    assert claimed["welcome_due"] is False
    [command] = claimed["commands"]
    [wake] = queue.rows("select next_wake_at from devices where device_id = %s", WAITING)
    assert datetime.fromisoformat(command["next_wake_at"]) == wake["next_wake_at"]


def test_a_schedule_that_does_not_parse_is_left_out_and_the_device_wakes_in_twelve_hours(
    queue: Queue,
) -> None:
    queue.connection.execute("update sites set wake_schedule_cron = 'at dawn' where site_id = %s", (NORTH,))
    map_device(queue, WAITING, NORTH)
    welcome(queue)
    [command] = welcomes(queue, WAITING)
    assert "wake_schedule_cron" not in command["command_payload"]
    wake = datetime.fromisoformat(command["command_payload"]["next_wake_time"])
    assert about(wake, queue.now() + timedelta(hours=12))


# Exactly once


def test_eight_workers_at_once_welcome_each_device_once(queue: Queue) -> None:
    devices = new_devices(queue, 40)
    barrier = threading.Barrier(8)

    def work(worker: Queue) -> list[str]:
        barrier.wait(timeout=10)
        # What another call holds is skipped by this one, so ask until none is due.
        answers = []
        while worker.rows("select from devices where welcome_due and is_active"):
            answers += [answer["device_id"] for answer in welcome(worker, p_limit=7)]
        return answers

    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        workers = [stack.enter_context(queue.another()) for _ in range(8)]
        answers = [answer for part in pool.map(work, workers) for answer in part]
    assert sorted(answers) == sorted(str(device) for device in devices)
    assert [len(welcomes(queue, device)) for device in devices] == [1] * 40


def test_a_device_that_another_call_is_welcoming_is_left_to_it(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH)
    with queue.another() as other:
        with queue.connection.transaction():
            queue.connection.execute("set local role service_role")
            queue.connection.execute("select fn_queue_welcome_commands()")
            assert welcome(other) == []
        assert welcome(other) == []
    assert len(welcomes(queue, WAITING)) == 1


def test_a_replayed_mapping_event_finds_nothing_due(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH)
    assert len(welcome(queue, p_device_ids=[WAITING])) == 1
    assert welcome(queue, p_device_ids=[WAITING]) == []


def test_only_the_devices_named_are_welcomed(queue: Queue) -> None:
    one, two = new_devices(queue, 2)
    assert [w["device_id"] for w in welcome(queue, p_device_ids=[two])] == [str(two)]
    assert [w["device_id"] for w in welcome(queue)] == [str(one)]


def test_a_limit_leaves_the_others_due(queue: Queue) -> None:
    new_devices(queue, 3)
    assert [len(welcome(queue, p_limit=2)) for _ in range(3)] == [2, 1, 0]


# What is a new mapping


def test_a_move_to_another_site_is_welcomed_again(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH)
    welcome(queue)
    map_device(queue, WAITING, SOUTH)
    assert [w["site_id"] for w in welcome(queue)] == [str(SOUTH)]
    assert len(welcomes(queue, WAITING)) == 2


def test_a_move_by_editing_the_assignment_is_welcomed_again_and_so_is_the_way_back(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH)
    welcome(queue)
    for site in (SOUTH, NORTH):
        queue.connection.execute(
            "update device_site_assignments set site_id = %s where device_id = %s", (site, WAITING)
        )
        assert [w["site_id"] for w in welcome(queue)] == [str(site)]


def test_an_assignment_that_is_ended_and_begun_again_is_welcomed_again(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH)
    welcome(queue)
    for flag in (False, True):
        queue.connection.execute(
            "update device_site_assignments set is_active = %s where device_id = %s", (flag, WAITING)
        )
    assert len(welcome(queue)) == 1


@pytest.mark.parametrize(
    "edit",
    [
        "update devices set last_seen_at = now(), battery_voltage = 3.7, wifi_rssi = -60",
        "update devices set device_name = 'door', wake_schedule_cron = '0 7 * * *'",
        "update devices set is_active = false; update devices set is_active = true",
        "update device_site_assignments set notes = 'by the door'",
        "update sites set wake_schedule_cron = '0 7 * * *'",
        f"insert into device_site_assignments (device_id, site_id) values ('{MAPPED}', '{NORTH}')",
    ],
    ids=["heartbeat", "edit", "switched off and on", "note", "schedule", "mapped to the same site"],
)
def test_nothing_but_a_mapping_makes_a_welcome(queue: Queue, edit: str) -> None:
    queue.connection.execute(edit.encode())
    assert queue.rows("select from devices where welcome_due") == []
    assert welcome(queue) == []


def test_a_device_that_is_unmapped_before_its_welcome_is_not_welcomed(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH)
    queue.connection.execute("update device_site_assignments set is_active = false")
    assert welcome(queue) == []


def test_a_client_whose_clock_is_slow_still_makes_a_new_mapping(queue: Queue) -> None:
    queue.command(MAPPED, "set_wake_schedule", command_payload='{"wake_schedule_cron": "0 7 * * *"}')
    map_device(queue, MAPPED, SOUTH, assigned_at=queue.now() - timedelta(hours=1))
    assert len(welcome(queue)) == 1


# Repairs


def repair(queue: Queue, device: UUID) -> bool:
    answer = queue.call(
        "fn_initialize_device_after_mapping", p_device_id=device, p_site_id=NORTH, p_program_id=PROGRAM_A
    )
    return bool(answer["welcome_due"])


def mapped_before_the_triggers(queue: Queue, device: UUID) -> None:
    with queue.connection.transaction():
        queue.connection.execute("set local session_replication_role = replica")
        map_device(queue, device, NORTH, assigned_at=queue.now() - timedelta(days=7))


def test_a_device_that_was_mapped_before_the_triggers_and_never_welcomed_is_owed_a_welcome(
    queue: Queue,
) -> None:
    mapped_before_the_triggers(queue, WAITING)
    assert repair(queue, WAITING) is True


def test_a_device_that_had_a_schedule_since_its_mapping_is_owed_none(queue: Queue) -> None:
    mapped_before_the_triggers(queue, WAITING)
    queue.command(WAITING, "set_wake_schedule", command_payload='{"wake_schedule_cron": "0 7 * * *"}')
    assert repair(queue, WAITING) is False


def test_completing_an_active_device_makes_no_welcome(queue: Queue) -> None:
    queue.connection.execute(
        "update devices set company_id = null, next_wake_at = null where device_id = %s", (MAPPED,)
    )
    assert repair(queue, MAPPED) is False
    [device] = queue.rows("select * from devices where device_id = %s", MAPPED)
    assert device["company_id"] == COMPANY_A
    assert device["next_wake_at"] is not None


def test_a_repair_leaves_a_welcome_that_is_due(queue: Queue) -> None:
    map_device(queue, WAITING, NORTH)
    assert repair(queue, WAITING) is True
    assert len(welcome(queue)) == 1
    assert repair(queue, WAITING) is False
