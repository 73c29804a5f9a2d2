"""`mqtt-service demo`: the whole flow, its verdict, and its object for machines."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.acceptance.processes import eventually
from tests.requirements import needs
from tests.started import run, start

ALTERED = "tests.acceptance.altered_demos:"


def env(directory: Path) -> dict[str, str]:
    """A folder for what is temporary."""
    return {"TMPDIR": str(directory)}


def demo(arguments: list[str], directory: Path) -> "subprocess.CompletedProcess[str]":
    return run(arguments, env(directory), directory, timeout=120)


def altered(how: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    """One of altered_demos.py."""
    return run([], env(directory), directory, timeout=120, main=ALTERED + how)


def the_object(output: str) -> dict[str, Any]:
    (line,) = output.splitlines()
    document: dict[str, Any] = json.loads(line)
    return document


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@needs("mosquitto")
def test_every_command_is_acknowledged_and_every_device_welcomed_once(tmp_path: Path) -> None:
    done = demo(["demo", "--json", "--seconds", "60"], tmp_path)
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
    done = demo(["demo", "--devices", "2", "--json", "--seconds", "60"], tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["problems"]) == (0, []), done.stderr
    assert [picture["encoding"] for picture in document["pictures"]] == ["base64", "array"]
    for picture in document["pictures"]:
        assert (picture["status"], picture["stored_as_sent"]) == ("complete", True)
        assert 0 < picture["lost"] < picture["chunks"]
        assert picture["missing_requests"] >= 1
        assert picture["bytes"] > picture["chunks"]


def test_a_picture_that_does_not_arrive_is_named_with_status_1(tmp_path: Path) -> None:
    done = altered("over_no_network", tmp_path)
    document = the_object(done.stdout)
    (picture,) = document["pictures"]
    assert (done.returncode, picture["status"], picture["stored_as_sent"]) == (1, "failed", False)
    (problem,) = document["problems"]
    assert problem.startswith("image_001.jpg of DEVICE-ESP32S3-004 did not arrive: ")
    assert "chunks did not come though asked for 3 times (chunk ids: " in problem


def test_without_mosquitto_it_shows_the_same(tmp_path: Path) -> None:
    done = altered("without_mosquitto", tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["problems"]) == (0, []), done.stderr
    assert "amqtt" in done.stderr


def test_a_person_sees_progress_and_ends_with_tables(tmp_path: Path) -> None:
    done = demo(["demo", "--devices", "1", "--seconds", "60"], tmp_path)
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
    done = altered("with_a_refusal", tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert document["problems"] == ["reboot: 0 of 1 acknowledged (1 queued, 1 sent)"]
    assert "The worker said last" in done.stderr
    assert leftovers(tmp_path) == []


def test_what_takes_too_long_is_a_problem_too(tmp_path: Path) -> None:
    done = altered("without_answers", tmp_path)
    document = the_object(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert document["problems"][0] == "not everything was seen within 5 s"
    assert leftovers(tmp_path) == []


def test_a_signal_ends_it_with_status_1_and_leaves_nothing_behind(tmp_path: Path) -> None:
    output, errors = tmp_path / "output", tmp_path / "errors"
    started = start(["demo", "--json"], env(tmp_path), tmp_path, output, errors=errors)
    eventually(lambda: errors.exists() and "are up" in errors.read_text(), "the start of the stack")
    started.send_signal(signal.SIGINT)
    assert started.wait(30) == 1
    assert the_object(output.read_text())["problems"][0] == "interrupted"
    assert sorted(leftovers(tmp_path)) == ["errors", "output"]
