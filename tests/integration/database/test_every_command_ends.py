"""No command waits for ever, and none is sent before its time."""

from uuid import UUID

import pytest

from tests.integration.database.queue_calls import Queue, ids


@pytest.fixture
def device(queue: Queue) -> UUID:
    return queue.device("d1")


@pytest.mark.parametrize("when", ["inserted", "changed"])
def test_a_command_that_was_to_expire_never_expires_after_its_time_to_live(
    queue: Queue, device: UUID, when: str
) -> None:
    """Fails where the guards let expires_at be infinite: a delivered command stays sent for ever."""
    command = queue.command(device, **({"expires_at": "infinity"} if when == "inserted" else {}))
    if when == "changed":
        queue.change(command, "expires_at = 'infinity'")
    queue.settle(queue.claim()["commands"])
    queue.change(command, "issued_at = now() - interval '25 h'")
    assert ids(queue.claim()["expired"]) == [command]


def test_a_word_that_is_not_ours_keeps_back_nothing_of_its_device(queue: Queue, device: UUID) -> None:
    first, second = queue.command(device), queue.command(device)
    with queue.connection.transaction(force_rollback=True):  # as in a table that was there before
        queue.connection.execute("alter table device_commands drop constraint device_commands_status_check")
        queue.change(first, "status = 'on hold', issued_at = now() - interval '25 h'")
        claim = queue.claim()
        assert (ids(claim["commands"]), claim["expired"]) == ([second], [])


def test_who_moves_the_time_of_a_command_that_waits_moves_the_command(queue: Queue, device: UUID) -> None:
    command = queue.command(device)
    queue.change(command, "scheduled_for = now() + interval '1 h'")
    assert queue.claim_ids() == []
    queue.change(command, "scheduled_for = null")
    assert queue.claim_ids() == [command]


def test_a_count_that_is_not_there_is_none(queue: Queue, device: UUID) -> None:
    queue.connection.execute("alter table device_commands alter column retry_count drop not null")
    try:
        command = queue.command(device, retry_count=None)
        assert queue.row(command)["retry_count"] == 0
    finally:
        queue.connection.execute("alter table device_commands alter column retry_count set not null")
