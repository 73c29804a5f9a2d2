"""One device's commands keep their order, also where claims overlap and one of them is given back."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import cast
from uuid import UUID

import pytest

from mqtt_service.adapters.supabase.commands import Settlement
from mqtt_service.errors import BrokerUnavailableError, PermanentError, SupabaseUnavailableError
from mqtt_service.protocol.commands import Command
from mqtt_service.publisher import Done, PublishResult, Withdraw
from mqtt_service.queue import publishing
from mqtt_service.queue.publishing import CommandPublisher
from mqtt_service.queue.settling import Settler
from tests.unit.devices.visit_fakes import until

HAS_IT = PublishResult(no_subscriber=False)


class Link:
    """Keeps what is sent; a test says when the broker has it."""

    connected = True

    def __init__(self) -> None:
        self.sent: list[Done] = []
        self.withdrawals = 0
        self.waits = False  # whether what was sent last is still here

    def send(self, topic: str, payload: bytes, *, expiry_seconds: int | None, done: Done) -> Withdraw:
        self.sent.append(done)
        return self._withdraw

    def _withdraw(self) -> bool:
        self.withdrawals += 1
        return self.waits


class Settlements:
    """What became of each command; a test says when the database has it."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[int, str]] = []
        self.written: list[Callable[[], None]] = []

    def settle(self, settlement: Settlement, _: Command, written: Callable[[], None]) -> None:
        self.outcomes.append((settlement.command_id.int, settlement.outcome))
        self.written.append(written)

    async def wait_until_written(self) -> None:
        """The database has all of them."""
        for written in self.written:
            written()


def command(number: int) -> Command:
    return Command(
        UUID(int=number),
        UUID(int=99),
        None,
        None,
        "AABBCCDDEEFF",
        "device",
        "AABBCCDDEEFF",
        "reboot",
        {},
        1,
        0,
        900,
    )


def publisher(link: Link, settlements: Settlements) -> CommandPublisher:
    return CommandPublisher(link, cast("Settler", settlements), 1e9, "12h")


async def test_a_devices_next_command_follows_the_puback_of_the_last_whichever_claim_brought_it() -> None:
    link, settlements = Link(), Settlements()
    one = publisher(link, settlements)
    assert one.take([command(1), command(2)], 1e12) == 2
    assert one.take([command(3)], 1e12) == 1
    for sent in range(3):
        assert len(link.sent) == sent + 1
        link.sent[sent](HAS_IT)
    assert settlements.outcomes == [(1, "sent"), (2, "sent"), (3, "sent")]
    assert one.in_hand == []


async def test_once_one_is_given_back_so_is_what_a_claim_from_before_brings() -> None:
    link, settlements = Link(), Settlements()
    one = publisher(link, settlements)
    one.take([command(1), command(2)], 1e12)
    link.sent[0](BrokerUnavailableError("away"))
    assert settlements.outcomes == [(1, "released"), (2, "released")]
    assert one.take([command(3)], 1e12) == 0  # the database does not have that yet
    for written in settlements.written:
        written()
    assert one.take([command(4)], 0.0) == 0  # claimed before the database had it
    assert [outcome for _, outcome in settlements.outcomes] == ["released"] * 4
    for written in settlements.written[3:]:
        written()
    assert one.take([command(1)], 1e12) == 1
    assert len(link.sent) == 2


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        (True, "the broker did not take what was sent before it in time"),
        (False, "the broker did not acknowledge in time; 1 of them may have arrived"),
    ],
)
async def test_what_is_released_while_it_waits_for_its_turn_is_taken_back_from_the_link(
    waits: bool, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    link, settlements = Link(), Settlements()
    link.waits = waits
    one = publisher(link, settlements)
    one.take([command(1)], 1e12)
    one.stop(0.0)
    looking = asyncio.create_task(one.run())
    await until(lambda: said in caplog.text)
    looking.cancel()
    assert link.withdrawals == 1
    assert settlements.outcomes == [(1, "released")]
    assert one.in_hand == []


async def test_a_fault_in_what_is_said_of_a_command_fails_it_alone_and_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the PUBACK it would end the connection, and the command would stay in hand for ever."""

    def notice(of: Command, **_: object) -> None:
        if of.command_id.int == 1:
            raise OverflowError

    monkeypatch.setattr(publishing, "delivery_notice", notice)
    link, settlements = Link(), Settlements()
    one = publisher(link, settlements)
    one.take([command(1), command(2)], 1e12)
    link.sent[0](HAS_IT)
    assert settlements.outcomes == [(1, "failed"), (2, "sent")]
    assert one.in_hand == []


async def test_an_answer_waits_for_what_is_being_sent_to_its_own_device_in_any_spelling() -> None:
    link, settlements = Link(), Settlements()
    one = publisher(link, settlements)
    one.take([command(1)], 1e12)
    await one.wait_until_sent_is_recorded("another device")
    waiting = asyncio.create_task(one.wait_until_sent_is_recorded("aa:bb:cc:dd:ee:ff"))
    await asyncio.sleep(0)
    assert not waiting.done()
    link.sent[0](HAS_IT)
    await asyncio.wait_for(waiting, 10)
    assert (one._lanes, one._devices) == ({}, {})


class Storage:
    """Signs when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def sign(self, path: str, seconds: float) -> str:
        self.asked.append((path, seconds))
        return await self.answer


def firmware(number: int, device: int, lives: float = 900) -> Command:
    return replace(
        command(number),
        device_id=UUID(int=device),
        topic_id=f"AABBCCDDEE{device:02}",
        command_type="update_firmware",
        payload={"version": "1.4.0"},
        firmware_path="c/1.bin",
        seconds_to_expiry=lives,
    )


def signing_publisher(
    lease: float = 1e9,
) -> tuple[CommandPublisher, Link, Settlements, Storage]:
    link, settlements, storage = Link(), Settlements(), Storage()
    made = CommandPublisher(link, cast("Settler", settlements), lease, "12h", storage.sign)
    return made, link, settlements, storage


async def test_the_devices_of_one_claim_share_an_address_that_lives_as_long_as_the_last_of_them() -> None:
    one, link, settlements, storage = signing_publisher()
    one.take(
        [firmware(1, 11), firmware(2, 12, lives=7200), replace(command(3), device_id=UUID(int=11))], 1e12
    )
    await until(lambda: storage.asked == [("c/1.bin", 7200 + 3600)])
    assert link.sent == []
    storage.answer.set_result("https://files.example.com/signed")
    await until(lambda: len(link.sent) == 2)
    link.sent[0](HAS_IT)  # and only then its device's next
    assert len(link.sent) == 3
    assert settlements.outcomes == [(1, "sent")]


async def test_while_storage_is_away_firmware_is_given_back_uncounted_and_left_for_a_while() -> None:
    one, link, settlements, storage = signing_publisher()
    one.take([firmware(1, 11), firmware(2, 12)], 1e12)
    storage.answer.set_exception(SupabaseUnavailableError("away"))
    await until(lambda: len(settlements.outcomes) == 2)
    assert settlements.outcomes == [(1, "released"), (2, "released")]
    assert one.postponed == [UUID(int=1), UUID(int=2)]
    assert link.sent == []


async def test_firmware_whose_file_is_gone_fails_and_says_so() -> None:
    one, _, settlements, storage = signing_publisher()
    one.take([firmware(1, 11)], 1e12)
    storage.answer.set_exception(PermanentError("no such file"))
    await until(lambda: settlements.outcomes == [(1, "failed")])
    assert one.postponed == []


async def test_firmware_that_is_never_signed_is_given_back_before_its_lease_ends() -> None:
    one, link, settlements, _ = signing_publisher(lease=0.0)
    one.take([firmware(1, 11)], asyncio.get_running_loop().time() + 0.01)
    running = asyncio.create_task(one.run())
    await until(lambda: settlements.outcomes == [(1, "released")])
    running.cancel()
    assert link.sent == []
