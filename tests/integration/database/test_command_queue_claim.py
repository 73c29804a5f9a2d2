"""What a claim hands out, in what order, and what it leaves, fails and expires."""

from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, about, ids, reseeded

NOT_ACTIVE = "device CODE-d1 is not active: map it to a site"


def test_commands_of_a_device_come_in_the_order_of_issue(queue: Queue) -> None:
    device = queue.device("d1")
    with queue.connection.transaction():  # one issued_at for all
        issued = [queue.command(device) for _ in range(20)]
    assert queue.claim_ids() == issued


def test_a_higher_priority_goes_first_and_within_it_the_order_of_issue(queue: Queue) -> None:
    device = queue.device("d1")
    later, urgent, urgent_too = (queue.command(device, priority=p) for p in (0, 5, 5))
    last = queue.command(device, priority=-1)
    assert queue.claim_ids() == [urgent, urgent_too, later, last]


def test_a_limit_leaves_the_later_commands_of_each_device_and_says_so(queue: Queue) -> None:
    one, two = queue.device("d1"), queue.device("d2")
    issued = [queue.command(device) for device in (one, two) * 3]
    first = queue.claim(limit=4)
    second = queue.claim(limit=4, p_held=ids(first["commands"]))
    assert ids(first["commands"]) == issued[:4]
    assert ids(second["commands"]) == issued[4:]
    assert (first["more"], second["more"]) == (True, False)


def test_a_claim_of_everything_there_is_leaves_no_more(queue: Queue) -> None:
    device = queue.device("d1")
    queue.command(device)
    queue.command(device)
    assert queue.claim(limit=2)["more"] is False


def test_a_limit_of_nothing_leases_nothing(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    assert queue.claim(limit=0)["commands"] == []
    assert queue.row(command)["attempt"] == 0


def test_a_claimed_command_stays_pending_and_is_leased_for_the_time_asked(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.claim("w1", p_lease_seconds=60)
    row = queue.row(command)
    assert (row["status"], row["lease_worker"], row["attempt"]) == ("pending", "w1", 1)
    assert about(row["lease_until"], queue.now() + timedelta(seconds=60))
    assert row["due_at"] == row["lease_until"]


def test_what_is_handed_out_is_what_publishing_needs(queue: Queue) -> None:
    device = queue.device("AA:BB:CC:DD:EE:FF")
    command = queue.command(device, "send_image", command_payload='{"image_name": "a.jpg"}')
    [handed] = queue.claim()["commands"]
    assert handed.pop("issued_at") is not None
    assert 0 <= handed.pop("waited_seconds") < 10
    assert handed.pop("seconds_to_expiry") == pytest.approx(86400, abs=10)
    assert handed == {
        "command_id": str(command), "device_id": str(device), "device_code": "CODE-AA:BB:CC:DD:EE:FF",
        "device_name": None, "device_mac": "AA:BB:CC:DD:EE:FF", "topic_root": "device",
        "topic_id": "AA:BB:CC:DD:EE:FF", "command_type": "send_image",
        "command_payload": {"image_name": "a.jpg"}, "attempt": 1, "retry_count": 0, "next_wake_at": None,
        "firmware_path": None,
    }  # fmt: skip


def test_the_topic_is_the_one_the_device_last_used(queue: Queue) -> None:
    device = queue.device("AA:BB:CC:DD:EE:FF")
    queue.connection.execute("update devices set mqtt_root = 'ESP32CAM', mqtt_id = 'aabbccddeeff'")
    queue.command(device)
    [handed] = queue.claim()["commands"]
    assert (handed["topic_root"], handed["topic_id"]) == ("ESP32CAM", "aabbccddeeff")


def test_an_idle_claim_says_when_something_is_due_next(queue: Queue) -> None:
    assert queue.claim()["seconds_to_next_due"] is None
    device = queue.device("d1")
    queue.command(device, scheduled_for=queue.now() + timedelta(hours=2))
    queue.command(device, scheduled_for="infinity")
    assert queue.claim()["seconds_to_next_due"] == pytest.approx(7200, abs=10)


def test_a_command_waits_until_it_is_scheduled(queue: Queue) -> None:
    device = queue.device("d1")
    scheduled = queue.command(device, scheduled_for=queue.now() + timedelta(hours=1))
    at_once = queue.command(device)
    assert queue.claim_ids() == [at_once]
    queue.change(scheduled, "due_at = now()")
    assert queue.claim_ids(p_held=[at_once]) == [scheduled]


def test_a_worker_must_have_a_name(queue: Queue) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="p_worker"):
        queue.claim("")


# Leases


def test_a_claim_whose_response_was_lost_comes_again_at_once_as_the_same_attempt(queue: Queue) -> None:
    device = queue.device("d1")
    issued = [queue.command(device) for _ in range(3)]
    queue.claim("w1")
    again = queue.claim("w1")["commands"]
    assert ids(again) == issued
    assert [command["attempt"] for command in again] == [1, 1, 1]


def test_what_comes_again_keeps_its_lease_so_that_it_lapses_even_if_it_is_never_settled(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.claim(p_lease_seconds=30)
    before = queue.row(command)
    assert queue.claim_ids(p_lease_seconds=90) == [command]
    assert queue.row(command) == before
    queue.lapse(command)
    assert queue.claim()["commands"][0]["attempt"] == 2


def test_what_a_worker_holds_is_not_handed_to_it_again(queue: Queue) -> None:
    device = queue.device("d1")
    held, unseen = queue.command(device), queue.command(device)
    queue.claim()
    assert queue.claim_ids(p_held=[held]) == [unseen]


def test_unseen_and_new_commands_of_a_device_come_in_one_order(queue: Queue) -> None:
    device = queue.device("d1")
    first = queue.command(device)
    queue.claim()
    urgent, last = queue.command(device, priority=1), queue.command(device)
    assert queue.claim_ids() == [urgent, first, last]


def test_unseen_commands_count_towards_the_limit(queue: Queue) -> None:
    device = queue.device("d1")
    issued = [queue.command(device) for _ in range(4)]
    queue.claim(limit=3)
    assert queue.claim_ids(limit=2) == issued[:2]
    assert queue.row(issued[3])["attempt"] == 0


def test_a_device_whose_command_another_worker_holds_is_left_alone(queue: Queue) -> None:
    device = queue.device("d1")
    queue.command(device)
    queue.claim("w1")
    queue.command(device)
    other = queue.command(queue.device("d2"))
    claimed = queue.claim("w2")
    assert ids(claimed["commands"]) == [other]
    assert claimed["more"] is False


def test_a_lapsed_lease_goes_to_the_next_worker_in_the_old_order(queue: Queue) -> None:
    device = queue.device("d1")
    first = queue.command(device)
    queue.claim("w1")
    second = queue.command(device)
    queue.lapse(first)
    rescued = queue.claim("w2")["commands"]
    assert ids(rescued) == [first, second]
    assert rescued[0]["attempt"] == 2


def test_a_claim_names_the_workers_whose_leases_ran_out_on_what_it_hands_out(queue: Queue) -> None:
    commands = [queue.command(queue.device(mac)) for mac in ("a1", "a2", "a3", "a4")]
    queue.claim("dead", limit=2)
    queue.claim("w1", limit=1)
    assert queue.claim("w2", limit=0)["rescued"] == {}
    queue.lapse(*commands[:3])
    assert queue.claim("w1", limit=0)["rescued"] == {}
    assert queue.claim("w1")["rescued"] == {"dead": 2}
    assert queue.claim("w1")["rescued"] == {}


def test_a_worker_is_not_handed_its_own_lapsed_command_while_it_holds_it(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.claim("w1")
    queue.lapse(command)
    assert queue.claim_ids("w1", p_held=[command]) == []


def test_a_row_that_someone_else_has_locked_delays_its_device_alone(queue: Queue) -> None:
    one, two = queue.device("d1"), queue.device("d2")
    before, locked, after = (queue.command(one) for _ in range(3))
    other = queue.command(two)
    with queue.another() as person, person.connection.transaction():
        person.rows("select from device_commands where command_id = %s for update", locked)
        assert queue.claim_ids() == [before, other]
    assert queue.claim_ids(p_held=[before, other]) == [locked, after]


def backlog(queue: Queue, device: UUID, count: int) -> None:
    queue.connection.execute(
        "insert into device_commands (device_id, command_type)"
        " select %s, 'reboot' from generate_series(1, %s)",
        (device, count),
    )


def test_devices_whose_next_command_is_locked_keep_no_other_device_out(queue: Queue) -> None:
    locked = []
    for number in range(15):  # together more than the limit
        device = queue.device(f"locked-{number}")
        locked.append(queue.command(device))
        backlog(queue, device, 40)
    other = queue.command(queue.device("other"))
    with queue.another() as person, person.connection.transaction():
        person.rows("select from device_commands where command_id = any (%s) for update", locked)
        claimed = queue.claim(limit=100)
        assert ids(claimed["commands"]) == [other]
        assert claimed["more"] is True
        again = queue.claim(limit=100, p_held=[other])
        assert (again["commands"], again["more"]) == ([], False)
    assert set(locked) <= set(queue.claim_ids(limit=400, p_held=[other]))


def test_a_claim_that_leases_nothing_never_says_there_is_more(queue: Queue) -> None:
    device = queue.device("d1")
    backlog(queue, device, 10)
    with queue.another() as person, person.connection.transaction():
        person.rows("select from device_commands for update")
        claimed = queue.claim(limit=5)
        assert (claimed["commands"], claimed["more"]) == ([], False)


def test_a_long_backlog_of_one_device_leaves_room_for_the_others(queue: Queue) -> None:
    backlog(queue, queue.device("d1"), 100)
    other = queue.command(queue.device("d2"))
    claimed = queue.claim_ids(limit=50)
    assert other in claimed
    assert len(claimed) == 50
    issued = queue.rows("select command_id from device_commands order by issue_number limit 49")
    assert [command for command in claimed if command != other] == [row["command_id"] for row in issued]


def test_more_rows_than_an_api_returns_come_in_one_answer(queue: Queue) -> None:
    backlog(queue, queue.device("d1"), 1500)
    assert len(queue.claim(limit=2000)["commands"]) == 1500


# Devices that are not active


def test_a_command_for_an_inactive_device_fails_at_once_three_times_and_stays_failed(queue: Queue) -> None:
    command = queue.command(queue.device("d1", active=False))
    for count in (1, 2, 3):
        claimed = queue.claim()
        assert claimed["commands"] == []
        [failed] = claimed["failed"]
        assert (failed["retry_count"], failed["final"], failed["error"]) == (count, count == 3, NOT_ACTIVE)
        row = queue.row(command)
        assert (row["status"], row["retry_count"], row["last_error"]) == ("failed", count, NOT_ACTIVE)
        if count < 3:
            assert about(row["due_at"], queue.now() + timedelta(seconds=30))
            assert queue.claim()["failed"] == []  # not before the delay
            queue.change(command, "due_at = now()")
    assert queue.row(command)["due_at"] is None
    assert queue.claim()["failed"] == []


def test_a_device_that_is_mapped_between_two_tries_gets_its_command(queue: Queue) -> None:
    device = queue.device("d1", active=False)
    command = queue.command(device)
    queue.claim(p_retry_delay_seconds=0)
    queue.connection.execute("update devices set is_active = true")
    [handed] = queue.claim()["commands"]
    assert (handed["command_id"], handed["retry_count"]) == (str(command), 1)


def test_what_used_its_retries_up_under_a_higher_limit_is_final_and_not_counted(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.settle(queue.claim()["commands"], "failed", error="no PUBACK", delay=0)
    claimed = queue.claim(p_max_retries=1)
    assert claimed["commands"] == []
    assert [(f["retry_count"], f["final"], f["error"]) for f in claimed["failed"]] == [(1, True, "no PUBACK")]
    assert queue.row(command)["due_at"] is None


def test_a_person_may_try_a_finally_failed_command_again(queue: Queue) -> None:
    device = queue.device("d1", active=False)
    command = queue.command(device)
    for _ in range(3):
        queue.claim(p_retry_delay_seconds=0)
    queue.connection.execute("update devices set is_active = true")
    queue.change(command, "status = 'pending'")
    assert queue.claim_ids() == [command]


# Expiry


@pytest.mark.parametrize("lifetime", ["issued_at = now() - interval '25 h'", "expires_at = now()"])
def test_a_pending_command_expires_when_its_time_is_over(queue: Queue, lifetime: str) -> None:
    command = queue.command(queue.device("d1"))
    queue.change(command, lifetime)
    claimed = queue.claim()
    assert claimed["commands"] == []
    assert ids(claimed["expired"]) == [command]
    row = queue.row(command)
    assert (row["status"], row["due_at"]) == ("expired", None)
    assert row["last_error"] == "expired: it could not be delivered in time"


def test_a_sent_command_that_is_not_answered_expires(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.settle(queue.claim()["commands"])
    queue.change(command, "issued_at = now() - interval '25 h'")
    [expired] = queue.claim()["expired"]
    assert (expired["command_id"], expired["device_code"]) == (str(command), "CODE-d1")
    assert "did not answer" in expired["error"]
    assert queue.row(command)["last_error"] == expired["error"]


def test_a_failing_command_expires_with_its_last_failure_and_a_finally_failed_one_stays(queue: Queue) -> None:
    device = queue.device("d1", active=False)
    trying, failed = queue.command(device), queue.command(device)
    queue.claim()
    queue.change(failed, "due_at = null")
    queue.connection.execute("update device_commands set issued_at = now() - interval '25 h'")
    assert ids(queue.claim()["expired"]) == [trying]
    assert queue.row(trying)["last_error"].endswith(f"; last failure: {NOT_ACTIVE}")
    assert queue.row(failed)["status"] == "failed"


def test_a_command_that_a_worker_is_publishing_does_not_expire_under_it(queue: Queue) -> None:
    command = queue.command(queue.device("d1"))
    queue.claim("w1")
    queue.change(command, "expires_at = now() - interval '1 s'")
    assert queue.claim("w2")["expired"] == []
    queue.lapse(command)
    assert ids(queue.claim("w2")["expired"]) == [command]


def test_a_command_scheduled_beyond_its_time_to_live_lives_from_then(queue: Queue) -> None:
    command = queue.command(queue.device("d1"), scheduled_for=queue.now() + timedelta(days=3))
    queue.change(command, "issued_at = now() - interval '2 d'")
    assert queue.claim()["expired"] == []
    queue.change(command, "scheduled_for = now(), due_at = now()")
    [handed] = queue.claim()["commands"]
    assert handed["seconds_to_expiry"] == pytest.approx(86400, abs=10)


@pytest.mark.parametrize("moment", ["expires_at", "scheduled_for"])
def test_an_infinite_moment_hurts_no_claim(queue: Queue, moment: str) -> None:
    device = queue.device("d1")
    queue.command(device, **{moment: "infinity"})
    other = queue.command(device)
    assert other in queue.claim_ids()


# Wake schedules


def test_a_wake_schedule_is_worked_out_at_the_claim_in_the_time_zone_of_the_site(
    queue: Queue,
) -> None:
    reseeded(queue.connection)
    queue.command(
        UUID("a0000000-0000-4000-8000-000000000031"), "set_wake_schedule",
        command_payload='{"wake_schedule_cron": "0 8 * * *"}',
    )  # fmt: skip
    claimed = queue.claim()
    expected = queue.rows(
        "select fn_calculate_next_wake('0 8 * * *', %s, 'Europe/Berlin') as at", claimed["now"]
    )
    assert queue.rows("select %s::timestamptz as at", claimed["commands"][0]["next_wake_at"]) == expected


def test_a_wake_time_that_is_given_is_taken(queue: Queue) -> None:
    queue.command(
        queue.device("d1"),
        "set_wake_schedule",
        command_payload='{"next_wake_time": "2030-01-02T03:04:05+01:00"}',
    )
    assert queue.claim()["commands"][0]["next_wake_at"] == "2030-01-02T02:04:05+00:00"


@pytest.mark.parametrize(
    "payload",
    [
        '{"wake_schedule_cron": "61 * * * *"}',
        "{}",
        '{"next_wake_time": "soon"}',
        '{"next_wake_time": "infinity"}',
    ],
)
def test_a_schedule_that_cannot_be_worked_out_fails_alone_and_for_good(queue: Queue, payload: str) -> None:
    device = queue.device("d1")
    with queue.connection.transaction():  # rows from before the guards
        queue.connection.execute("set local session_replication_role = replica")
        broken = queue.command(device, "set_wake_schedule", command_payload=payload, due_at=queue.now())
    other = queue.command(device)
    claimed = queue.claim()
    assert ids(claimed["commands"]) == [other]
    [failed] = claimed["failed"]
    assert (failed["command_id"], failed["final"]) == (str(broken), True)
    row = queue.row(broken)
    assert (row["status"], row["due_at"], row["lease_worker"]) == ("failed", None, None)
    assert row["last_error"].startswith("set_wake_schedule ")
