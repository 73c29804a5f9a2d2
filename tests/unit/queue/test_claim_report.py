"""Commands that the database refuses to change: what a claim says of them, and the log."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest

from mqtt_service.adapters.supabase.commands import (
    Claim,
    CommandGateway,
    ExpiredCommand,
    RefusedCommand,
    Settled,
)
from mqtt_service.publisher import Sender
from mqtt_service.queue import claim_report
from mqtt_service.queue.command_queue import CommandQueueProcessor, QueueOptions


class NoLink:
    """Never up: claims take nothing, and sweep all the same."""

    connected = False


class ScriptedGateway:
    """Answers claims in turn; after the last, with nothing."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._claims = list(claims)
        self.exhausted = asyncio.Event()

    async def settle(self, _: Any) -> list[Settled]:
        """Nothing is claimed, so nothing comes here."""
        raise AssertionError("a settlement of nothing")

    async def claim(self, **_: Any) -> Claim:
        if self._claims:
            return self._claims.pop(0)
        self.exhausted.set()
        return Claim([])


def refused(number: int, code: str | None = "DEVICE-1") -> RefusedCommand:
    return RefusedCommand(UUID(int=number), code, "not this one")


async def test_a_type_that_is_left_alone_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    gateway = ScriptedGateway(
        [Claim([], unknown_types=["selfie"]), Claim([], unknown_types=["dance", "selfie"])]
    )
    queue = CommandQueueProcessor(
        cast("CommandGateway", gateway), cast("Sender", NoLink()), QueueOptions(poll_interval=0.001)
    )
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(10):
        await gateway.exhausted.wait()
    await queue.stop(1)
    await running
    named = [record.args for record in caplog.records if "are left alone" in record.message]
    assert named == [("selfie",), ("dance",)]


async def lines(caplog: pytest.LogCaptureFixture, *claims: Claim) -> list[str]:
    """What the queue logs of refused commands in these claims."""
    gateway = ScriptedGateway(claims)
    queue = CommandQueueProcessor(
        cast("CommandGateway", gateway),
        cast("Sender", NoLink()),
        QueueOptions(poll_interval=0.001),
    )
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(10):
        await gateway.exhausted.wait()
        await queue.stop(1)
        await running
    return [record.getMessage() for record in caplog.records if "refuses to change" in record.getMessage()]


async def test_a_refused_command_is_named_once_however_often_claims_find_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    claim = Claim([], refused=[refused(1), refused(2, None)])
    says = "[CommandQueue] The database refuses to change {} (device {}): not this one; it is passed over, "
    says += "the rest goes on"
    assert await lines(caplog, claim, Claim([]), claim) == [
        says.format(UUID(int=1), "DEVICE-1"),
        says.format(UUID(int=2), "without a code"),
    ]


async def test_a_command_that_went_on_is_named_again_when_it_is_refused_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    claim = Claim([], refused=[refused(1)])
    went_on = Claim([], expired=[ExpiredCommand(UUID(int=1), UUID(int=9), None, "reboot")])
    assert len(await lines(caplog, claim, went_on, claim)) == 2


async def test_what_is_remembered_is_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_report, "_MAX_REFUSED_REMEMBERED", 2)
    claims = [Claim([], refused=[refused(number)]) for number in (1, 2, 3, 3, 2, 1)]
    assert len(await lines(caplog, *claims)) == 4
