"""`mqtt-service demo`: the whole flow, its verdict, and its object for machines."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.acceptance.processes import ROOT, eventually
from tests.requirements import needs

DEMO = ["-m", "mqtt_service", "demo"]
# What a machine without Mosquitto does, and fleets that refuse a command or do not answer their welcome.
WITHOUT_MOSQUITTO = """
from mqtt_service.devstack import broker
broker.find_mosquitto = lambda: None
from mqtt_service.demo.run import run_demo
raise SystemExit(run_demo(devices=2, seconds=60, as_json=True))
"""
WITH_A_REFUSAL = """
from dataclasses import replace
from mqtt_service.demo import run as demo
plan = demo.plan_fleet
demo.plan_fleet = lambda count: [
    replace(options, ack_form="by_id", answers={"reboot": "rejected"}) for options in plan(count)
]
raise SystemExit(demo.run_demo(devices=1, seconds=60, as_json=True))
"""
WITHOUT_ANSWERS = """
from dataclasses import replace
from mqtt_service.demo import run as demo
plan = demo.plan_fleet
demo.plan_fleet = lambda count: [
    replace(options, answers={"set_wake_schedule": "none"}) for options in plan(count)
]
raise SystemExit(demo.run_demo(devices=1, seconds=5, as_json=True))
"""
OVER_NO_NETWORK = """
from mqtt_service.demo import pictures as demo_pictures
from mqtt_service.demo import run as demo
from mqtt_service.simulator.radio import RadioOptions
demo_pictures.RADIO = RadioOptions(loss=1.0)
raise SystemExit(demo.run_demo(devices=1, seconds=60, as_json=True))
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
        "ping",
    ]  # fmt: skip
    for counts in document["commands"].values():
        assert (counts["queued"], counts["sent"], counts["acknowledged"]) == (6, 6, 6)
        assert 0 < counts["latency_ms"] <= counts["slowest_ms"]
    assert [device["welcomed"] for device in document["devices"]] == [1] * 6
    assert [device["obeyed"] for device in document["devices"]] == [7] * 6
    assert [device["device_code"] for device in document["devices"]] == [
        f"DEVICE-ESP32S3-{number:03}" for number in range(4, 10)
    ]
    assert {device["ack_form"] for device in document["devices"]} == {"plain", "typed", "by_id"}
    assert {device["topic"].split("/")[0] for device in document["devices"]} == {"device", "ESP32CAM"}
    assert leftovers(tmp_path) == []


@needs("mosquitto")
def test_pictures_arrive_as_they_were_sent_though_chunks_were_lost(tmp_path: Path) -> None:
    done = run([*DEMO, "--devices", "2", "--json", "--seconds", "60"], tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["problems"]) == (0, []), done.stderr
    assert [picture["encoding"] for picture in document["pictures"]] == ["base64", "array"]
    for picture in document["pictures"]:
        assert (picture["status"], picture["stored_as_sent"]) == ("complete", True)
        assert 0 < picture["lost"] < picture["chunks"]
        assert picture["missing_requests"] >= 1
        assert picture["bytes"] > picture["chunks"]


def test_a_picture_that_does_not_arrive_is_named_with_status_1(tmp_path: Path) -> None:
    done = run(["-c", OVER_NO_NETWORK], tmp_path)
    document = the_object(done.stdout)
    (picture,) = document["pictures"]
    assert (done.returncode, picture["status"], picture["stored_as_sent"]) == (1, "failed", False)
    (problem,) = document["problems"]
    assert problem.startswith("image_001.jpg of DEVICE-ESP32S3-004 did not arrive: ")
    assert "chunks did not come though asked for 3 times (chunk ids: " in problem


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
        "are up", "the worker is ready", "1 unknown device said HELLO", "in the pool of unmapped devices",
        "an admin mapped DEVICE-ESP32S3-004 from the pool to Alder North",
        "DEVICE-ESP32S3-004 was welcomed and acknowledged", "update_firmware: 1 of 1 acknowledged",
        "woke with a picture", "the network lost", "the service asked DEVICE-ESP32S3-004 for the chunks",
        "byte for byte as sent", "did not welcome it a second time", "left with status 0", "Commands",
        "Devices", "Pictures", "All of it seen in",
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
