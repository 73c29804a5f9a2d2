"""`mqtt-service demo`: the whole flow, its verdict, and its object for machines."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mqtt_service.devstack.demo import plan_fleet
from mqtt_service.devstack.demo_dashboard import CommandRow
from mqtt_service.devstack.demo_report import PAYLOADS, CommandSummary, DeviceSummary, Report
from tests.acceptance.processes import ROOT, eventually
from tests.requirements import needs

DEMO = ["-m", "mqtt_service", "demo"]
# What a machine without Mosquitto does, and fleets that refuse a command or do not answer their welcome.
WITHOUT_MOSQUITTO = """
from mqtt_service.devstack import broker
broker.find_mosquitto = lambda: None
from mqtt_service.devstack.demo import run_demo
raise SystemExit(run_demo(devices=2, seconds=60, as_json=True))
"""
WITH_A_REFUSAL = """
from dataclasses import replace
from mqtt_service.devstack import demo
plan = demo.plan_fleet
demo.plan_fleet = lambda count: {
    code: replace(options, ack_form="by_id", answers={"reboot": "rejected"})
    for code, options in plan(count).items()
}
raise SystemExit(demo.run_demo(devices=1, seconds=60, as_json=True))
"""
WITHOUT_ANSWERS = """
from dataclasses import replace
from mqtt_service.devstack import demo
plan = demo.plan_fleet
demo.plan_fleet = lambda count: {
    code: replace(options, answers={"set_wake_schedule": "none"}) for code, options in plan(count).items()
}
raise SystemExit(demo.run_demo(devices=1, seconds=5, as_json=True))
"""


def command(arguments: list[str], directory: Path) -> dict[str, Any]:
    """How a test starts Python: nothing of our environment but PATH, and a folder for what is temporary."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)}
    return {"args": [sys.executable, *arguments], "env": env, "cwd": directory, "text": True}


def run(arguments: list[str], directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(**command(arguments, directory), capture_output=True, check=False, timeout=120)


def the_object(output: str) -> dict[str, Any]:
    (line,) = output.splitlines()
    document: dict[str, Any] = json.loads(line)
    return document


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@needs("mosquitto")
def test_every_command_is_acknowledged_and_every_device_welcomed_once(tmp_path: Path) -> None:
    done = run([*DEMO, "--json", "--seconds", "60"], tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["ok"], document["problems"]) == (0, True, []), done.stderr
    assert list(document["commands"]) == [
        "capture_image", "send_image", "set_wake_schedule", "update_config", "reboot", "update_firmware",
    ]  # fmt: skip
    for counts in document["commands"].values():
        assert (counts["queued"], counts["sent"], counts["acknowledged"]) == (6, 6, 6)
        assert 0 < counts["latency_ms"] <= counts["slowest_ms"]
    assert [device["welcomed"] for device in document["devices"]] == [1] * 6
    assert {device["ack_form"] for device in document["devices"]} == {"plain", "typed", "by_id"}
    assert {device["topic"].split("/")[0] for device in document["devices"]} == {"device", "ESP32CAM"}
    assert leftovers(tmp_path) == []


def test_without_mosquitto_it_shows_the_same(tmp_path: Path) -> None:
    done = run(["-c", WITHOUT_MOSQUITTO], tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["problems"]) == (0, []), done.stderr
    assert "amqtt" in done.stderr


def test_a_person_sees_progress_and_ends_with_tables(tmp_path: Path) -> None:
    done = run([*DEMO, "--devices", "1", "--seconds", "60"], tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    seen = [
        "are up", "the worker is ready", "said HELLO", "an admin mapped DEMO-01 to Alder North",
        "DEMO-01 was welcomed and acknowledged", "update_firmware: 1 of 1 acknowledged",
        "were not welcomed again", "left with status 0", "Commands", "Devices", "All of it seen in",
    ]  # fmt: skip
    places = [done.stdout.find(words) for words in seen]
    assert -1 not in places, done.stdout
    assert places == sorted(places)


def test_what_did_not_happen_is_named_with_status_1(tmp_path: Path) -> None:
    done = run(["-c", WITH_A_REFUSAL], tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert document["problems"] == ["reboot: 0 of 1 acknowledged (1 queued, 1 sent)"]
    assert "The worker said last" in done.stderr
    assert leftovers(tmp_path) == []


def test_what_takes_too_long_is_a_problem_too(tmp_path: Path) -> None:
    done = run(["-c", WITHOUT_ANSWERS], tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert document["problems"][0] == "not everything was seen within 5 s"
    assert leftovers(tmp_path) == []


def test_a_signal_ends_it_with_status_1_and_leaves_nothing_behind(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        demo = subprocess.Popen(**command([*DEMO, "--json"], tmp_path), stdout=subprocess.PIPE, stderr=stderr)
    eventually(lambda: "are up" in errors.read_text(), "the start of the stack")
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert the_object(output)["problems"][0] == "interrupted"
    assert leftovers(tmp_path) == ["errors"]


NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACKNOWLEDGED = CommandRow(
    uuid4(), uuid4(), "reboot", "acknowledged", NOW, NOW, NOW + timedelta(milliseconds=250), None, False
)
HAPPY_DEVICE = DeviceSummary("DEMO-01", "device/x/cmd", "plain", "5:30PM", 1, 1, 6, ())


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
        (replace(HAPPY_DEVICE, welcomes_queued=2), "DEMO-01 had 2 welcome commands queued, not 1"),
        (replace(HAPPY_DEVICE, welcomes_queued=0), "DEMO-01 had 0 welcome commands queued, not 1"),
        (replace(HAPPY_DEVICE, welcomed=0), "DEMO-01 has not answered its welcome command"),
        (
            replace(HAPPY_DEVICE, complaints=("retained",)),
            "DEMO-01 got something that breaks the protocol: retained",
        ),
    ],
)
def test_a_device_that_was_not_treated_right_is_a_problem(device: DeviceSummary, problem: str) -> None:
    report = Report(1.0, 1, (), (HAPPY_DEVICE, device))
    assert report.problems == [problem]
    assert not report.ok


def test_six_devices_cover_both_roots_with_all_forms_of_acknowledgement() -> None:
    kinds = {(options.root, options.ack_form) for options in plan_fleet(6).values()}
    assert len(kinds) == 6


def test_five_hundred_devices_have_ids_of_their_own() -> None:
    fleet = plan_fleet(500)
    assert len({options.device_id.replace(":", "").upper() for options in fleet.values()}) == 500


def test_there_is_a_payload_for_each_of_the_six_commands() -> None:
    assert len(PAYLOADS) == 6
