"""The plan of a fleet, and how its sums are shown."""

import asyncio
from dataclasses import replace
from io import StringIO

from rich.console import Console

from mqtt_service.simulator.device import ACK_FORMS, ROOTS
from mqtt_service.simulator.fleet_options import FleetOptions, plan_devices
from mqtt_service.simulator.fleet_report import Totals
from mqtt_service.simulator.fleet_view import line, show, table
from mqtt_service.simulator.pictures import ENCODINGS, SPELLINGS

FLEET = FleetOptions(tuple(f"device-{number}" for number in range(100)), seed=1)
TOTALS = Totals(
    awake=1, asleep=2, hung=3, wakes=4, heartbeats=5, answered=6, sent=7, acknowledged=8, pending=9,
    chunks=10, commands=11, complaints=12,
)  # fmt: skip


def test_devices_have_every_habit_of_the_field() -> None:
    devices = plan_devices(FLEET)
    cameras = [device.camera for device in devices if device.camera is not None]
    assert [device.device_id for device in devices] == list(FLEET.device_ids)
    assert {device.root for device in devices} == set(ROOTS)
    assert {device.ack_form for device in devices} == set(ACK_FORMS)
    assert {device.heartbeat_form for device in devices} == set(SPELLINGS)
    assert {camera.form.encoding for camera in cameras} == set(ENCODINGS)
    assert {camera.form.first_chunk for camera in cameras} == {0, 1}
    assert {
        (camera.waits_for_send_image, camera.lists_pending, camera.uploads_new) for camera in cameras
    } == {
        (waits, *offer) for waits in (False, True) for offer in ((True, False), (False, False), (True, True))
    }


def test_the_same_seed_gives_the_same_fleet() -> None:
    assert plan_devices(FLEET) == plan_devices(FLEET)
    assert plan_devices(FLEET) != plan_devices(replace(FLEET, seed=2))


def test_a_root_and_an_encoding_can_be_chosen() -> None:
    devices = plan_devices(replace(FLEET, root="ESP32CAM", encoding="array"))
    assert {device.root for device in devices} == {"ESP32CAM"}
    assert {device.camera.form.encoding for device in devices if device.camera} == {"array"}


def test_the_line_names_every_sum() -> None:
    assert line(TOTALS) == (
        "1 awake, 2 asleep, 3 hung, 5 HELLOs, 6 answered, 7 pictures sent, 8 acknowledged, 10 chunks, "
        "11 commands, 12 protocol faults"
    )


def test_the_table_shows_what_the_line_says() -> None:
    console = Console(file=StringIO(), width=40)
    console.print(table(TOTALS))
    shown = console.file.getvalue() if isinstance(console.file, StringIO) else ""
    rows = [row.rsplit(maxsplit=1) for row in shown.splitlines()]
    assert ", ".join(f"{number} {title.strip()}" for title, number in rows) == line(TOTALS)


class Screen(StringIO):
    """A terminal that says when something is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


async def test_a_terminal_shows_the_table_while_the_fleet_runs() -> None:
    screen = Screen()
    showing = asyncio.create_task(show([], Console(file=screen, force_terminal=True, width=200)))
    async with asyncio.timeout(10):
        while "HELLOs" not in screen.getvalue():
            screen.written.clear()
            await screen.written.wait()
    showing.cancel()
    await showing
