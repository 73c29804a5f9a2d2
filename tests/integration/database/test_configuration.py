"""Desired and reported configuration: what goes out when a device wakes, and what its answers move."""

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.integration.database.queue_calls import Queue, Row, emptied, waiting


@pytest.fixture
def queue(shared: psycopg.Connection) -> Queue:
    return Queue(emptied(shared))


@pytest.fixture
def device(queue: Queue) -> UUID:
    return queue.device("d1")


def desire(queue: Queue, device: UUID, config: Row | None) -> None:
    queue.connection.execute(
        "update devices set desired_config = %s where device_id = %s",
        (None if config is None else json.dumps(config), device),
    )


def state(queue: Queue, device: UUID) -> Row:
    return queue.rows("select * from devices where device_id = %s", device)[0]


def configs(queue: Queue) -> list[tuple[str, Any]]:
    """The configurations that were queued, in order: status and payload."""
    rows = queue.rows("select status, command_payload from device_commands order by issue_number")
    return [(row["status"], row["command_payload"]) for row in rows]


def wake(queue: Queue) -> None:
    queue.pass_time("1 h")
    queue.hello("d1")


def send(queue: Queue) -> list[Row]:
    commands: list[Row] = queue.claim()["commands"]
    queue.settle(commands)
    return commands


def answer(queue: Queue, command: Row, outcome: str = "success", **more: Any) -> None:
    queue.acknowledge({"topic_id": "d1", "command_id": command["command_id"], "outcome": outcome, **more})


def configure(queue: Queue, device: UUID, config: Row) -> None:
    """Have the device at this configuration."""
    desire(queue, device, config)
    wake(queue)
    [command] = send(queue)
    answer(queue, command)
    assert not state(queue, device)["config_due"]


def test_a_device_that_slept_through_five_changes_gets_one_message(queue: Queue, device: UUID) -> None:
    for interval in range(5):
        desire(queue, device, {"interval": interval, "led": True})
    wake(queue)
    assert configs(queue) == [("pending", {"interval": 4, "led": True})]
    [command] = send(queue)
    answer(queue, command)
    row = state(queue, device)
    assert row["reported_config"] == row["desired_config"]
    assert row["reported_config_version"] == row["desired_config_version"] == 5
    wake(queue)
    assert len(configs(queue)) == 1


def test_only_what_differs_goes_out(queue: Queue, device: UUID) -> None:
    configure(queue, device, {"interval": 30, "led": True, "wifi": {"power": 1, "channel": 6}})
    desire(queue, device, {"interval": 30, "led": False, "wifi": {"power": 2, "channel": 6}})
    wake(queue)
    assert configs(queue)[1:] == [("pending", {"led": False, "wifi": {"power": 2, "channel": 6}})]


def test_a_key_that_is_no_longer_desired_is_the_devices_own(queue: Queue, device: UUID) -> None:
    configure(queue, device, {"interval": 30, "led": True})
    desire(queue, device, {"interval": 30})
    wake(queue)
    assert len(configs(queue)) == 1
    assert state(queue, device)["reported_config"] == {"interval": 30, "led": True}


def test_null_is_a_value_that_is_sent(queue: Queue, device: UUID) -> None:
    configure(queue, device, {"led": True})
    desire(queue, device, {"led": None})
    wake(queue)
    assert configs(queue)[1:] == [("pending", {"led": None})]


def test_saving_the_same_again_is_no_new_version(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"a": 1, "b": 2})
    desire(queue, device, {"b": 2, "a": 1})
    assert state(queue, device)["desired_config_version"] == 1


def test_a_change_and_back_sends_nothing(queue: Queue, device: UUID) -> None:
    configure(queue, device, {"led": True})
    desire(queue, device, {"led": False})
    desire(queue, device, {"led": True})
    wake(queue)
    row = state(queue, device)
    assert len(configs(queue)) == 1
    assert row["reported_config_version"] == row["desired_config_version"] == 3


def test_a_change_replaces_what_was_not_sent(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"interval": 1})
    wake(queue)
    desire(queue, device, {"interval": 2})
    wake(queue)
    assert configs(queue) == [("cancelled", {"interval": 1}), ("pending", {"interval": 2})]


def test_a_late_answer_to_an_older_configuration_moves_only_what_it_carried(
    queue: Queue, device: UUID
) -> None:
    desire(queue, device, {"interval": 1, "led": True})
    wake(queue)
    [older] = send(queue)
    desire(queue, device, {"interval": 2, "led": True})
    answer(queue, older)
    row = state(queue, device)
    assert row["reported_config"] == {"interval": 1, "led": True}
    assert (row["reported_config_version"], row["config_due"]) == (1, True)
    wake(queue)
    assert configs(queue)[1:] == [("pending", {"interval": 2})]


def test_an_older_configuration_is_not_redelivered_and_its_late_answer_undoes_nothing(
    queue: Queue, device: UUID
) -> None:
    desire(queue, device, {"interval": 1})
    wake(queue)
    [older] = send(queue)
    desire(queue, device, {"interval": 2})
    wake(queue)
    assert configs(queue) == [("sent", {"interval": 1}), ("pending", {"interval": 2})]
    [newer] = send(queue)
    answer(queue, newer)
    answer(queue, older)
    assert state(queue, device)["reported_config"] == {"interval": 2}
    assert not state(queue, device)["config_due"]


def test_what_a_device_may_have_got_is_sent_again_when_it_is_desired_otherwise(
    queue: Queue, device: UUID
) -> None:
    """It was sent another value, never answered, and the value that it is known to have is desired again."""
    configure(queue, device, {"led": True})
    desire(queue, device, {"led": False})
    wake(queue)
    send(queue)
    desire(queue, device, {"led": True})
    wake(queue)
    assert configs(queue)[1:] == [("sent", {"led": False}), ("pending", {"led": True})]


def test_an_unanswered_configuration_is_delivered_again_under_its_id(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"led": True})
    wake(queue)
    [first] = send(queue)
    wake(queue)
    [again] = send(queue)
    assert again["command_id"] == first["command_id"]
    assert len(configs(queue)) == 1


def test_a_rejected_configuration_waits_for_a_change_and_says_why(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"led": "purple"})
    wake(queue)
    [command] = send(queue)
    answer(queue, command, "rejected", message="no such colour")
    row = state(queue, device)
    assert (row["config_due"], row["config_error"]) == (False, "the device refuses: no such colour")
    wake(queue)
    assert [status for status, _ in configs(queue)] == ["rejected"]
    desire(queue, device, {"led": "red"})
    wake(queue)
    [command] = send(queue)
    answer(queue, command)
    row = state(queue, device)
    assert (row["config_due"], row["config_error"]) == (False, None)
    assert row["reported_config"] == {"led": "red"}


def test_one_that_expired_goes_out_again_at_the_next_wake(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"led": True})
    wake(queue)
    [command] = send(queue)
    queue.change(UUID(command["command_id"]), "expires_at = now() - interval '1 s'")
    queue.claim()
    wake(queue)
    assert configs(queue) == [("expired", {"led": True}), ("pending", {"led": True})]


@pytest.mark.parametrize("config", [[1], "led", {"device_id": "other"}, {"a": 1e309}])
def test_what_can_be_no_configuration_is_refused(queue: Queue, device: UUID, config: Any) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.connection.execute(
            "update devices set desired_config = %s::jsonb where device_id = %s",
            (json.dumps(config).replace("Infinity", "1e400"), device),
        )


def test_a_device_that_is_not_active_gets_nothing(queue: Queue) -> None:
    device = queue.device("d1", active=False)
    desire(queue, device, {"led": True})
    wake(queue)
    assert configs(queue) == []


def test_two_workers_that_hear_a_wake_queue_it_once(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"led": True})
    with queue.another() as first, queue.another() as second:
        first.connection.execute("begin")
        first.hello("d1")
        with waiting(second, lambda: second.hello("d1", worker="w2")) as joined:
            first.connection.execute("commit")
        assert joined.result()["result"] == "known"
    assert configs(queue) == [("pending", {"led": True})]


def test_a_target_is_configured_at_once_and_keys_are_merged(queue: Queue) -> None:
    company = queue.insert("companies", "company_id", name="Ours")
    for mac in ("d1", "d2"):
        queue.device(mac)
    queue.connection.execute("update devices set company_id = %s", (company,))
    target = json.dumps({"company": str(company)})
    for config, changed in (({"led": True}, 2), ({"interval": 30}, 2), ({"led": True}, 0)):
        assert queue.call("fn_set_desired_config", p_config=json.dumps(config), p_target=target) == {
            "matched": 2, "changed": changed,
        }  # fmt: skip
    rows = queue.rows("select distinct desired_config, desired_config_version from devices")
    assert rows == [{"desired_config": {"led": True, "interval": 30}, "desired_config_version": 2}]


def test_replacing_leaves_nothing_of_what_was_there(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"led": True})
    queue.call("fn_set_desired_config", p_config='{"interval": 5}', p_device_id=device, p_replace=True)
    assert state(queue, device)["desired_config"] == {"interval": 5}


def test_a_project_that_refuses_the_command_gets_its_hello_answered(queue: Queue, device: UUID) -> None:
    desire(queue, device, {"led": True})
    queue.connection.execute(
        "alter table device_commands add constraint never check (config_version is null)"
    )
    try:
        queue.pass_time("1 h")
        hello = queue.hello("d1")
    finally:
        queue.connection.execute("alter table device_commands drop constraint never")
    assert hello["result"] == "known"
    assert any("its configuration is not queued" in warning for warning in hello["warnings"])
    wake(queue)
    assert configs(queue) == [("pending", {"led": True})]
