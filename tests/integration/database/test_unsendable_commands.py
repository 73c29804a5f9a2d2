"""What must not be in a claim's answer: payloads that no worker can take out of it, and what has expired."""

from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue

DEEP = '{"a":' * 33 + "1" + "}" * 33
PROBLEMS = {
    DEEP: "command_payload is nested deeper than 32",
    '{"a": ' + "[" * 40 + "]" * 40 + "}": "command_payload is nested deeper than 32",
    '{"n": 2e308}': "command_payload holds a number beyond 1e308",
    '{"n": [1, {"m": -2e308}]}': "command_payload holds a number beyond 1e308",
    '{"n": "%s"}' % ("x" * 131072): "command_payload has 131081 bytes, more than 131072",
}
HARMLESS = [DEEP[5:-1], '{"n": 1e308, "m": [-1e308, 0.1, "2e309"]}', '{"n": "%s"}' % ("7" * 5000)]


def smuggle(queue: Queue, command: UUID, payload: str) -> None:
    """Write a payload past the guards."""
    with queue.connection.transaction():
        queue.connection.execute("set local session_replication_role = replica")
        queue.rows(
            "update device_commands set command_payload = %s where command_id = %s returning 1",
            payload,
            command,
        )


@pytest.mark.parametrize("payload", PROBLEMS)
def test_a_payload_that_cannot_be_sent_is_refused_when_it_is_inserted(queue: Queue, payload: str) -> None:
    device = queue.device("d1")
    with pytest.raises(psycopg.errors.CheckViolation, match=PROBLEMS[payload]):
        queue.command(device, "update_config", command_payload=payload)


@pytest.mark.parametrize("payload", PROBLEMS)
def test_one_that_came_past_the_guards_fails_for_good_when_it_is_claimed(queue: Queue, payload: str) -> None:
    device = queue.device("d1")
    command, other = queue.command(device, "update_config"), queue.command(device)
    smuggle(queue, command, payload)
    claim = queue.claim()
    assert [row["command_id"] for row in claim["commands"]] == [str(other)]
    assert [(row["command_id"], row["final"]) for row in claim["failed"]] == [(str(command), True)]
    row = queue.row(command)
    assert (row["status"], row["last_error"], row["due_at"]) == ("failed", PROBLEMS[payload], None)
    assert (row["retry_count"], row["lease_until"]) == (1, None)


@pytest.mark.parametrize("payload", HARMLESS)
def test_what_is_large_but_can_be_sent_is_handed_out(queue: Queue, payload: str) -> None:
    command = queue.command(queue.device("d1"), "update_config", command_payload=payload)
    assert queue.claim_ids() == [command]


def test_nothing_is_handed_out_after_its_time_however_much_waits_to_expire(queue: Queue) -> None:
    """Fails without `is_over` in fn_hand_out_commands: a claim expires 500 and would lease the next ones."""
    device = queue.device("d1")
    queue.connection.execute(
        "insert into device_commands (device_id, command_type, expires_at)"
        " select %s, 'reboot', now() - interval '1 s' from generate_series(1, 800)",
        (device,),
    )
    claim = queue.claim(limit=200)
    assert (claim["commands"], len(claim["expired"]), len(claim["failed"])) == ([], 500, 200)
    assert claim["more"]
    fresh = queue.command(device)
    assert queue.claim_ids(limit=200) == [fresh]
    [row] = queue.rows(
        "select count(*), sum(retry_count) as counted from device_commands where status = 'expired'"
    )
    assert row == {"count": 800, "counted": 0}
