"""The command line as a process: interrupted, and completed by the shell.

With a worker and devices: test_first_evening.py.
"""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.processes import running
from tests.started import run

PROJECT = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


def verb(stack: dict[str, str], directory: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `mqtt-service …` with the project's settings alone."""
    return run(words, environment(stack), directory)


def environment(stack: dict[str, str]) -> dict[str, str]:
    return {name: stack[name] for name in PROJECT}


def test_ctrl_c_ends_a_watch_and_not_the_command(stack: dict[str, str], directory: Path) -> None:
    mapped = verb(stack, directory, "map", "DEVICE-ESP32S3-001", "Alder North")
    assert mapped.returncode == 0
    words = ["send", "reboot", "-d", "DEVICE-ESP32S3-001", "--at", "2h", "--wait"]
    with running(words, environment(stack), directory) as process:
        process.says(" pending")
        assert process.stop(signal.SIGINT) == 130
    assert "Traceback" not in process.output
    command_id = process.output.split("Queued: ")[1].split()[0]
    assert verb(stack, directory, "cancel", command_id).returncode == 0


def test_the_shell_can_complete_verbs_and_statuses(stack: dict[str, str], directory: Path) -> None:
    def completed(line: str) -> list[str]:
        asked = {
            "_MQTT_SERVICE_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        }
        return run([], {**environment(stack), **asked}, directory).stdout.split()

    assert completed("mqtt-service ba") == ["backfill"]
    assert completed("mqtt-service commands --status ac") == ["acknowledged"]
    assert completed("mqtt-service send update_") == ["update_config", "update_firmware"]
