"""The command line as a process: interrupted, and completed by the shell.

With a worker and devices: test_first_evening.py.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT

PROJECT = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


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


def test_ctrl_c_ends_a_watch_and_not_the_command(stack: dict[str, str], directory: Path) -> None:
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
