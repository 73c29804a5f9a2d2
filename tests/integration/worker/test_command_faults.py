"""One fault at a time: what it must not do to commands and answers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mqtt_service.devstack.faults import RestFault
from mqtt_service.devstack.stack import Stack, running_stack
from tests.integration.worker.harness import Rows, eventually, rows, running_worker, wire

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stack]:
    async with running_stack(data_dir=None) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def stack(running: Stack) -> AsyncIterator[Stack]:
    """The stack, without faults of an earlier test."""
    running.faults.clear()
    yield running
    running.faults.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def database(stack: Stack) -> AsyncIterator[Rows]:
    async with rows(stack) as view:
        await view.all("delete from public.device_commands")
        yield view


async def statuses(database: Rows) -> list[str]:
    found = await database.all("select status from public.device_commands order by issue_number")
    return [row["status"] for row in found]


@pytest.mark.parametrize("function", ["fn_claim_commands", "fn_settle_commands"])
@pytest.mark.parametrize("kind", ["lose_response", "malformed", "close", "status"])
async def test_a_fault_of_the_api_publishes_nothing_twice_and_does_not_wait_for_the_lease(
    stack: Stack, database: Rows, function: str, kind: Any
) -> None:
    (device,) = await database.add_active_devices(1)
    async with running_worker(stack, lease_duration=600), wire(stack) as device_side:
        stack.faults.add_rest(RestFault(match=f"rpc/{function}", kind=kind, times=2))
        command_id = await database.queue(device["device_id"], "reboot")
        row = await database.becomes(command_id, "sent")
        await eventually(lambda: stack.faults.rest == [], "both faults")
        # Another command goes the whole way: whatever would come twice has come by then.
        await database.becomes(await database.queue(device["device_id"], "capture_image"), "sent")
    assert row["attempt"] <= 2
    assert row["retry_count"] == 0
    assert [sorted(message.keys() - {"device_id", "command_id"}) for _, message in device_side.heard] == [
        ["reboot"],
        ["capture_image"],
    ]


async def test_an_answer_without_an_id_counts_once_when_its_response_is_lost(
    stack: Stack, database: Rows
) -> None:
    (device,) = await database.add_active_devices(1)
    async with running_worker(stack), wire(stack) as device_side:
        for _ in range(3):
            await database.becomes(await database.queue(device["device_id"], "reboot"), "sent")
        stack.faults.add_rest(RestFault(match="rpc/fn_acknowledge_commands", kind="lose_response", times=2))
        device_side.say(f"device/{device['device_mac']}/ack", {"command_ack": "ok"})
        await eventually(lambda: stack.faults.rest == [], "both lost responses")
    assert await statuses(database) == ["sent", "sent", "acknowledged"]


async def test_an_answer_without_an_id_that_two_workers_hear_counts_once(
    stack: Stack, database: Rows
) -> None:
    (device,) = await database.add_active_devices(1)
    topic = f"device/{device['device_mac']}/ack"
    async with running_worker(stack), running_worker(stack), wire(stack) as device_side:
        for _ in range(4):
            await database.becomes(await database.queue(device["device_id"], "reboot"), "sent")
        for answered in (1, 2):
            device_side.say(topic, {"command_ack": "ok"})

            async def both_heard(expected: int = answered * 2) -> bool:
                found = await database.one("select count(*) from mqtt_private.acknowledgements")
                return bool(found["count"] >= expected)

            await eventually(both_heard, "both workers' records of the answer")
            assert sorted(await statuses(database)) == ["acknowledged"] * answered + ["sent"] * (4 - answered)


async def test_a_command_whose_outcome_the_project_refuses_is_published_once_and_fails(
    stack: Stack, database: Rows
) -> None:
    (device,) = await database.add_active_devices(1)
    await database.all(
        "create or replace function public.refuse_sent() returns trigger language plpgsql as $$ begin"
        " if new.status = 'sent' then raise exception 'not on my watch'; end if; return new; end $$"
    )
    await database.all(
        "create trigger refuse_sent before update on public.device_commands"
        " for each row execute function public.refuse_sent()"
    )
    try:
        async with running_worker(stack), wire(stack) as device_side:
            command_id = await database.queue(device["device_id"], "reboot")
            row = await database.becomes(command_id, "failed")
            other = await database.queue(device["device_id"], "capture_image")
            await database.becomes(other, "failed")
    finally:
        await database.all("drop trigger refuse_sent on public.device_commands")
    assert "not on my watch" in row["last_error"]
    assert row["due_at"] is None
    assert [message["command_id"] for _, message in device_side.heard] == [str(command_id), str(other)]


async def test_while_settling_hangs_no_more_is_published_than_can_be_settled(
    stack: Stack, database: Rows
) -> None:
    devices = await database.add_active_devices(50)
    await database.all(
        "insert into public.device_commands (device_id, command_type)"
        " select d, 'reboot' from generate_series(1, 40) n, unnest(%s::uuid[]) d",
        [device["device_id"] for device in devices],
    )
    stack.faults.add_rest(RestFault(match="rpc/fn_settle_commands", kind="hang"))
    async with running_worker(stack) as worker, wire(stack) as device_side:
        await eventually(lambda: worker.queue.settling_overdue, "settling that is overdue")
        assert worker.snapshot().verdict == "unhealthy"
        assert len(device_side.heard) <= 1500  # of 2000
        stack.faults.clear()

        async def done() -> bool:
            return set(await statuses(database)) == {"sent"}

        await eventually(done, "2,000 sent commands", 60)
        await eventually(lambda: worker.snapshot().ready, "health")


async def test_the_broker_going_away_counts_against_no_command(stack: Stack, database: Rows) -> None:
    (device,) = await database.add_active_devices(1)
    async with running_worker(stack) as worker:
        await stack.broker.stop()
        await eventually(lambda: not worker.link.connected, "the loss of the broker")
        ids = [await database.queue(device["device_id"], "update_config", {"n": n}) for n in range(20)]
        polled = worker.queue.last_poll or 0.0
        await eventually(lambda: (worker.queue.last_poll or 0.0) > polled, "a poll without a broker")
        assert await statuses(database) == ["pending"] * 20
        await stack.broker.start()
        async with wire(stack) as device_side:
            for command_id in ids:
                row = await database.becomes(command_id, "sent", deadline=40)
                assert row["retry_count"] == 0
    numbers = [message["n"] for _, message in device_side.heard]
    assert numbers == sorted(numbers)
