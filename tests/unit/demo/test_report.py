"""The demo's verdict: what it counts, and what it calls a problem."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from random import Random
from uuid import uuid4

import pytest
from rich.console import Console

from mqtt_service.demo.dashboard import CommandRow, PictureRow
from mqtt_service.demo.pictures import PictureSummary
from mqtt_service.demo.report import PAYLOADS, CommandSummary, DeviceSummary, Report
from mqtt_service.demo.run import plan_fleet
from mqtt_service.simulator.device import DeviceOptions, ReceivedCommand, SimulatedDevice

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACKNOWLEDGED = CommandRow(
    uuid4(), uuid4(), "reboot", "acknowledged", NOW, NOW, NOW + timedelta(milliseconds=250), None, False
)
HAPPY_DEVICE = DeviceSummary("DEVICE-ESP32S3-004", "device/x/cmd", "plain", "5:30PM", 1, 1, 6, ())
HAPPY_PICTURE = PictureSummary(
    "DEVICE-ESP32S3-004",
    "image_001.jpg",
    "base64",
    48_000,
    47,
    5,
    2,
    PictureRow("complete", 1, "a/b/c.jpg", None),
    stored_as_sent=True,
    confirmed=True,
    complaints=(),
)


def test_latencies_are_from_the_insert_to_the_answer_in_the_row() -> None:
    slower = replace(ACKNOWLEDGED, acknowledged_at=NOW + timedelta(milliseconds=750))
    summary = CommandSummary.of("reboot", [ACKNOWLEDGED, slower])
    assert (summary.median_ms, summary.slowest_ms) == (500, 750)


def test_a_welcome_is_not_counted_among_the_commands_that_a_person_queued() -> None:
    welcome = replace(ACKNOWLEDGED, command_type="set_wake_schedule", welcome=True)
    assert CommandSummary.of("set_wake_schedule", [welcome]).queued == 0


def test_a_command_that_nobody_answered_has_no_latency() -> None:
    silent = replace(ACKNOWLEDGED, status="sent", acknowledged_at=None)
    summary = CommandSummary.of("reboot", [silent])
    assert (summary.sent, summary.acknowledged, summary.median_ms) == (1, 0, None)


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        (replace(HAPPY_DEVICE, welcomes_queued=2), "DEVICE-ESP32S3-004 had 2 welcome commands queued, not 1"),
        (replace(HAPPY_DEVICE, welcomes_queued=0), "DEVICE-ESP32S3-004 had 0 welcome commands queued, not 1"),
        (replace(HAPPY_DEVICE, welcomed=0), "DEVICE-ESP32S3-004 has not answered its welcome command"),
        (
            replace(HAPPY_DEVICE, complaints=("retained",)),
            "DEVICE-ESP32S3-004 got something that breaks the protocol: retained",
        ),
    ],
)
def test_a_device_that_was_not_treated_right_is_a_problem(device: DeviceSummary, problem: str) -> None:
    report = Report(1.0, 1, (), (HAPPY_DEVICE, device), ())
    assert report.problems == [problem]
    assert not report.ok


def test_a_welcome_is_counted_by_its_row_and_not_by_any_wake_time_that_was_told() -> None:
    device = SimulatedDevice(DeviceOptions("x"), "127.0.0.1", 1, rng=Random(1))
    welcome = replace(ACKNOWLEDGED, command_id=uuid4(), command_type="set_wake_schedule", welcome=True)
    answer_to_a_hello = "6d717474-0000-8000-8000-000000000000"
    for told in (answer_to_a_hello, str(welcome.command_id), str(ACKNOWLEDGED.command_id)):
        device.received.append(ReceivedCommand("any", told, {}, "device/x/cmd", 0.0, duplicate=False))
    summary = DeviceSummary.of("X", device, [welcome, ACKNOWLEDGED])
    assert (summary.welcomes_queued, summary.welcomed, summary.obeyed) == (1, 1, 1)


def test_a_device_that_was_told_a_wake_time_without_a_row_is_not_welcomed() -> None:
    device = SimulatedDevice(DeviceOptions("x"), "127.0.0.1", 1, rng=Random(1))
    told = ReceivedCommand("set_wake_schedule", str(uuid4()), {}, "device/x/cmd", 0.0, duplicate=False)
    device.received.append(told)
    summary = DeviceSummary.of("X", device, [replace(ACKNOWLEDGED, welcome=True)])
    assert (summary.welcomed, summary.obeyed) == (0, 0)


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        (replace(HAPPY_PICTURE, row=None), "did not arrive: it has no row"),
        (
            replace(HAPPY_PICTURE, row=PictureRow("failed", 3, None, "3 of 47 chunks did not come")),
            "did not arrive: 3 of 47 chunks did not come",
        ),
        (replace(HAPPY_PICTURE, row=PictureRow("receiving", 0, None, None)), "did not arrive: receiving"),
        (
            replace(HAPPY_PICTURE, stored_as_sent=False),
            "is complete, but what is in Storage is not what was sent",
        ),
        (replace(HAPPY_PICTURE, confirmed=False), "is in Storage, but the device was not told so"),
    ],
)
def test_a_picture_that_is_not_safe_is_a_problem(picture: PictureSummary, problem: str) -> None:
    report = Report(1.0, 1, (), (), (HAPPY_PICTURE, picture))
    assert report.problems == [f"image_001.jpg of DEVICE-ESP32S3-004 {problem}"]
    assert not report.ok


def test_what_broke_the_protocol_during_an_upload_is_a_problem() -> None:
    picture = replace(HAPPY_PICTURE, complaints=("hung awake",))
    assert Report(1.0, 1, (), (), (picture,)).problems == [
        "DEVICE-ESP32S3-004 got something that breaks the protocol: hung awake"
    ]


def test_the_object_for_machines_says_what_became_of_a_picture() -> None:
    assert Report(1.0, 1, (), (), (HAPPY_PICTURE,)).as_json()["pictures"] == [
        {
            "device_code": "DEVICE-ESP32S3-004",
            "image_name": "image_001.jpg",
            "encoding": "base64",
            "bytes": 48_000,
            "chunks": 47,
            "lost": 5,
            "doubled": 2,
            "missing_requests": 1,
            "status": "complete",
            "stored_as_sent": True,
        }
    ]


def test_the_tables_fit_into_a_terminal() -> None:
    widest = replace(HAPPY_DEVICE, topic="ESP32CAM/02:00:00:00:00:04/cmd", next_wake="12:30PM")
    console = Console(file=StringIO(), width=80)
    console.print(Report(1.0, 1, (), (widest,), (HAPPY_PICTURE,)).as_tables())
    shown = console.file.getvalue() if isinstance(console.file, StringIO) else ""
    assert "ESP32CAM/02:00:00:00:00:04  plain      once       6  12:30PM" in shown
    assert "image_001.jpg  48,000      47     5            1      yes" in shown


def test_six_devices_cover_both_roots_with_all_forms_of_acknowledgement() -> None:
    kinds = {(options.root, options.ack_form) for options in plan_fleet(6)}
    assert len(kinds) == 6


def test_five_hundred_devices_have_ids_of_their_own() -> None:
    fleet = plan_fleet(500)
    assert len({options.device_id.replace(":", "").upper() for options in fleet}) == 500


def test_there_is_a_payload_for_each_built_in_command() -> None:
    assert len(PAYLOADS) == 7
