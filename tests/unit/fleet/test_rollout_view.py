"""How rollouts and windows are drawn."""

from dataclasses import replace
from uuid import UUID

import pytest
from rich.console import Console

from mqtt_service.adapters.supabase.fleet_rollouts import RolloutDevice, RolloutRow, WindowRow
from mqtt_service.errors import UsageError
from mqtt_service.fleet.rollout_view import progress_line, rollout_page, windows_table
from mqtt_service.fleet.rollouts import the_rollout
from tests.unit.fleet.rows import NOW, later

ROW = RolloutRow(
    rollout_id=UUID(int=1), company_id=UUID(int=2), name="firmware 1.5", status="running",
    command_type="update_firmware", continuous=False, started_at=NOW, finished_at=None,
    next_release_at=later(seconds=40), rate_per_minute=50, total=100, waiting=60, pending=5, sent=10,
    unverified=4, succeeded=18, failed=2, cancelled=0, skipped=1, refused=0, ended=20, last_result=None,
)  # fmt: skip
WINDOW = WindowRow(
    window_id=UUID(int=3), site_id=UUID(int=4), rollout_id=None, cron="0 2 * * *", duration="02:00:00",
    timezone=None, command_types=["reboot"], enabled=True, opens_at=later(hours=2), closes_at=later(hours=4),
    problem=None,
)  # fmt: skip


def drawn(view: object) -> str:
    console = Console(width=200, record=True, file=None, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(view)
    return captured.get()


def test_a_page_says_how_many_devices_stand_where_and_what_comes_next() -> None:
    unlucky = [RolloutDevice(UUID(int=9), None, "skipped", "not active")]
    text = drawn(rollout_page(ROW, unlucky, {UUID(int=9): "DEVICE-9"}, NOW))
    assert "firmware 1.5: update_firmware, running, 50 a minute, the next" in text
    assert "60 waiting  5 pending  10 sent  4 unverified  18 succeeded  2 failed  1 skipped" in text
    assert "DEVICE-9 skipped not active" in " ".join(text.split())


def test_a_line_says_the_same_for_a_log() -> None:
    assert progress_line(ROW).startswith("firmware 1.5 is running: 60 waiting, 5 pending")
    empty = replace(ROW, waiting=None, pending=0, sent=0, unverified=0, succeeded=0, failed=0, skipped=0)
    assert progress_line(empty) == "firmware 1.5 is running: no device yet"


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (WINDOW, "in 2 h"),
        (replace(WINDOW, opens_at=NOW), "open, closes"),
        (replace(WINDOW, opens_at=None, closes_at=None, enabled=False), "disabled"),
        (replace(WINDOW, opens_at=None, closes_at=None, problem="not in force"), "not in force"),
    ],
)
def test_a_window_says_when_it_opens_or_why_not(window: WindowRow, said: str) -> None:
    text = drawn(windows_table([window], {UUID(int=4): "Alder North"}, NOW))
    assert said in text
    assert "Alder North" in text


def test_a_rollout_is_found_by_its_name_or_how_its_id_begins() -> None:
    other = replace(ROW, rollout_id=UUID(int=7 << 120), name="reboots")
    assert the_rollout("FIRMWARE 1.5", [ROW, other]) is ROW
    assert the_rollout("07", [ROW, other]) is other
    for reference, said in (("0", "fits 2 rollouts"), ("x", "no rollout is 'x'"), ("", "no rollout is ''")):
        with pytest.raises(UsageError, match=said):
            the_rollout(reference, [ROW, other])
