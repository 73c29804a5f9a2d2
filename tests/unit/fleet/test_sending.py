"""Queueing for many devices: how many calls, and what becomes of what is refused or uncertain."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from mqtt_service.adapters.supabase.fleet_commands import CommandTable
from mqtt_service.adapters.supabase.fleet_rows import NewCommand
from mqtt_service.errors import PermanentError, SupabaseUnavailableError
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.send import say_queued
from mqtt_service.fleet.sending import Order, commands_for, queue
from tests.unit.fleet.rows import device


class Table(CommandTable):
    """Takes all commands but those of certain devices; goes away after so many calls."""

    def __init__(self, *, refuses: Sequence[int] = (), calls: int = 1000) -> None:
        self.refuses = {UUID(int=number) for number in refuses}
        self.calls_left = calls
        self.sizes: list[int] = []

    async def queue(self, commands: Sequence[NewCommand]) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise SupabaseUnavailableError("away")
        if any(command.device_id in self.refuses for command in commands):
            raise PermanentError("the device is in repair")
        self.sizes.append(len(commands))


def commands(count: int, payload: dict[str, str] | None = None) -> list[NewCommand]:
    devices = [device(device_id=UUID(int=number)) for number in range(count)]
    return commands_for(Order("reboot", payload or {}), devices, uuid4)


async def test_a_fleet_is_queued_in_few_calls() -> None:
    table = Table()
    queued = await queue(table, commands(1201))
    assert table.sizes == [1, 500, 500, 200]
    assert len({command.command_id for command in queued.commands}) == 1201


async def test_large_payloads_go_in_smaller_calls() -> None:
    table = Table()
    await queue(table, commands(11, {"text": "x" * 300_000}))
    assert max(table.sizes) == 3


async def test_what_is_refused_of_the_first_is_refused_of_all() -> None:
    table = Table(refuses=range(1000))
    with pytest.raises(PermanentError, match="in repair"):
        await queue(table, commands(1000))
    assert table.calls_left == 999


async def test_a_device_that_is_refused_harms_no_other() -> None:
    queued = await queue(Table(refuses=[7, 600]), commands(1000))
    assert len(queued.commands) == 998
    assert {command.device_id.int: reason for command, reason in queued.refused} == {
        7: "the device is in repair",
        600: "the device is in repair",
    }


async def test_what_may_not_be_queued_is_told_apart_when_the_api_goes_away() -> None:
    queued = await queue(Table(calls=2), commands(1201))
    assert (len(queued.commands), len(queued.unknown), queued.error) == (501, 700, "away")


@pytest.mark.parametrize("count", [1, 3])
async def test_of_one_whose_answer_was_lost_the_id_is_told(
    count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = commands(count)
    queued = await queue(Table(calls=0), sent)
    assert (queued.commands, queued.unknown, queued.error) == ([], sent, "away")
    say_queued(queued, {}, Output(as_json=False))
    said = capsys.readouterr()
    if count == 1:
        assert said.out == ""
        assert f"Perhaps queued, as {sent[0].command_id}: away" in said.err
    else:
        assert said.out == "Queued: 0\n"
        assert "The rest (3) may not be queued: away" in said.err
