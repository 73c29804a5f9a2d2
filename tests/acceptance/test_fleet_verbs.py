"""The command line beside a running worker: real processes, a real broker, devices that answer."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Database
from tests.acceptance.processes import ROOT, Worker, running, worker

MACS = ["02:00:00:00:0F:01", "02:00:00:00:0F:02", "02:00:00:00:0F:03"]
PROJECT = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def at_work(stack: dict[str, str], directory: Path) -> Iterator[Worker]:
    """A worker, and three devices that answer."""
    env = {name: stack[name] for name in ("MQTT_HOST", "MQTT_PORT", "MQTT_TLS")}
    with worker(stack, directory) as started, running(["simulate", *MACS], env, directory):
        yield started


def verb(stack: dict[str, str], directory: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `mqtt-service …` with the project's settings alone."""
    return subprocess.run(
        [sys.executable, "-m", "mqtt_service", *words],
        env=environment(stack), cwd=directory, capture_output=True, encoding="utf-8",
        check=False, timeout=60,
    )  # fmt: skip


def environment(stack: dict[str, str]) -> dict[str, str]:
    project = {name: stack[name] for name in PROJECT}
    return {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT), **project}


def test_a_site_is_mapped_commanded_watched_and_looked_at(
    stack: dict[str, str], directory: Path, database: Database, at_work: Worker
) -> None:
    database.execute(
        "insert into sites (company_id, program_id, name)"
        " select company_id, program_id, 'Far Meadow' from sites where name = 'Alder North'"
    )
    for mac in MACS:
        database.execute(
            "insert into devices (device_mac, device_code) values (%s, %s) on conflict do nothing",
            (mac, f"MEADOW-{mac[-1]}"),
        )
        mapped = verb(stack, directory, "map", mac, "Far Meadow")
        assert (mapped.returncode, mapped.stderr) == (0, "")

    one = verb(stack, directory, "send", "ping", "-d", MACS[0], "--wait")
    assert one.returncode == 0, one.stderr
    assert re.search(r"MEADOW-1 [0-9a-f]{8} acknowledged: after \d+\.\d s", one.stdout)

    all_of_it = verb(stack, directory, "send", "ping", "--site", "Far Meadow", "--yes", "--wait", "--json")
    assert all_of_it.returncode == 0, all_of_it.stderr
    document = json.loads(all_of_it.stdout)
    assert [command["status"] for command in document["commands"]] == ["acknowledged"] * 3

    told = verb(stack, directory, "show", document["queued"][0]["command_id"])
    assert "The device did it at" in told.stdout

    seen = verb(stack, directory, "top", "--once", "--json", "--url", at_work.url)
    glance = json.loads(seen.stdout)
    assert glance["health"]["mqtt"]["connected"] is True
    assert glance["window"]["acknowledged"] >= 4
    assert glance["health"]["worker"] in {one["worker"] for one in glance["workers"]}
    assert "connected" in verb(stack, directory, "top", "--once", "--url", at_work.url).stdout


def test_ctrl_c_ends_a_watch_and_not_the_command(
    stack: dict[str, str], directory: Path, at_work: Worker
) -> None:
    mapped = verb(stack, directory, "map", "DEVICE-ESP32S3-001", "Alder North")
    assert mapped.returncode == 0
    words = ["send", "reboot", "-d", "DEVICE-ESP32S3-001", "--at", "2h", "--wait"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "mqtt_service", *words],
        env=environment(stack), cwd=directory, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines: list[str] = []
        while " pending" not in "".join(lines):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    command_id = "".join(lines).split("Queued: ")[1].split()[0]
    assert verb(stack, directory, "cancel", command_id).returncode == 0


def test_the_shell_can_complete_verbs_and_statuses(stack: dict[str, str], directory: Path) -> None:
    def completed(line: str) -> list[str]:
        asked = {
            "_MQTT_SERVICE_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        }
        called = "import sys; sys.argv = ['mqtt-service']; from mqtt_service.cli import main; main()"
        finished = subprocess.run(
            [sys.executable, "-c", called],
            env={**environment(stack), **asked}, cwd=directory, capture_output=True, encoding="utf-8",
            check=False, timeout=60,
        )  # fmt: skip
        return finished.stdout.split()

    assert completed("mqtt-service ba") == ["backfill"]
    assert completed("mqtt-service commands --status ac") == ["acknowledged"]
    assert completed("mqtt-service send update_") == ["update_config", "update_firmware"]
