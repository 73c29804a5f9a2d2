"""What the database refuses to settle stays with the worker, stops nothing else, and is tried again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast
from uuid import UUID, uuid4

import pytest

from mqtt_service.adapters.supabase.commands import Claim, CommandGateway, Settled, Settlement
from mqtt_service.publisher import Sender
from mqtt_service.queue import settling
from mqtt_service.queue.command_queue import CommandQueueProcessor, QueueOptions


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "_REFUSED_RETRY_DELAY", 0.01)


class Database:
    """Answers as the gateway; what is in `results` has that result, the rest is settled."""

    def __init__(self) -> None:
        self.results: dict[UUID, str] = {}
        self.calls: list[list[Settlement]] = []
        self.claims: list[tuple[int, set[UUID]]] = []

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        self.calls.append(list(settlements))
        return [
            Settled(each.command_id, self.results.get(each.command_id, "settled"), error="not this one")  # type: ignore[arg-type]
            for each in settlements
        ]

    async def claim(self, *, limit: int, lease: float, held: Sequence[UUID]) -> Claim:
        self.claims.append((limit, set(held)))
        return Claim(commands=[], unreadable=[])


class Broker:
    connected = True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it looks at has no event
            await asyncio.sleep(0.001)  # the pause between two looks


@asynccontextmanager
async def settler(database: Database) -> AsyncIterator[settling.Settler]:
    one = settling.Settler(cast("CommandGateway", database))
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def sent() -> Settlement:
    return Settlement(uuid4(), 1, "sent")


async def test_a_refused_command_is_held_though_nothing_of_it_waits_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database, settlement = Database(), sent()
    database.results[settlement.command_id] = "refused"
    async with settler(database) as one:
        one.settle(settlement)
        await one.wait_until_written()
        await until(lambda: len(database.calls) > 6)
        assert (one.held, one.unsettled) == ([settlement.command_id], 0)
    assert caplog.text.count("takes neither sent nor failed") == 1


@pytest.mark.parametrize("result", ["settled", "stale"])
async def test_a_refused_command_is_let_go_once_its_outcome_is_taken_or_somebody_elses(result: str) -> None:
    database, settlement = Database(), sent()
    database.results[settlement.command_id] = "refused"
    async with settler(database) as one:
        one.settle(settlement)
        await until(lambda: len(database.calls) > 2)
        database.results[settlement.command_id] = result
        await until(lambda: one.held == [])
        assert database.calls[-1][0].command_id == settlement.command_id
        calls = len(database.calls)
        one.settle(sent())
        await one.wait_until_written()
        await asyncio.sleep(5 * settling._REFUSED_RETRY_DELAY)  # nothing comes, so nothing to wait for
        assert len(database.calls) == calls + 1


async def test_however_many_are_refused_each_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "_REFUSED_RETRY_LIMIT", 2)
    database, settlements = Database(), [sent() for _ in range(7)]
    database.results = {each.command_id: "refused" for each in settlements}
    async with settler(database) as one:
        for each in settlements:
            one.settle(each)
        await one.wait_until_written()
        database.results[settlements[-1].command_id] = "settled"
        await until(lambda: settlements[-1].command_id not in one.held)
        assert len(one.held) == 6
        database.results.clear()
        await until(lambda: one.held == [])


async def test_thousands_of_refused_commands_stop_no_claim() -> None:
    database, settlements = Database(), [sent() for _ in range(2600)]
    database.results = {each.command_id: "refused" for each in settlements}
    queue = CommandQueueProcessor(
        cast("CommandGateway", database), cast("Sender", Broker()), QueueOptions(poll_interval=0.01)
    )
    for each in settlements:
        queue._settler.settle(each)
    assert queue.settling_overdue
    settler_task = asyncio.create_task(queue.run_settler())
    await queue._settler.wait_until_written()
    assert not queue.settling_overdue
    task = asyncio.create_task(queue.run())
    await until(lambda: bool(database.claims))
    await queue.stop(5)
    await task
    settler_task.cancel()
    await asyncio.gather(settler_task, return_exceptions=True)
    assert database.claims[0] == (100, {each.command_id for each in settlements})
