"""A host's build and start: requirements.txt alone in a clean environment, then the Procfile's line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import eventually, healthy, procfile_words
from tests.integration.worker.mosquitto import free_port
from tests.started import ROOT

# Debian's name for nobody; any user without rights would do.
NOBODY = 65534
DEBIANS_PYTHON = "/usr/bin/python3.11"
HEALTHY_WITHIN = 10.0


@pytest.fixture(scope="module")
def host() -> Iterator[Path]:
    """A folder as a host's build leaves it: what the Dockerfile copies, and `venv`; everybody may read it.

    pytest's own folders are closed to other users, and the worker is to run as one.
    """
    folder = Path(tempfile.mkdtemp(prefix="mqtt-service-host-"))
    folder.chmod(0o755)
    try:
        for name in ("mqtt_service", "supabase"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        install(folder / "venv")
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "compileall", "-q", folder / "mqtt_service"], check=True)
        yield folder
    finally:
        shutil.rmtree(folder)


def install(venv: Path) -> None:
    """As in the Dockerfile: the environment has no pip, and takes wheels with the right hash alone."""
    python = DEBIANS_PYTHON if Path(DEBIANS_PYTHON).exists() else sys.executable
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    for command in (
        [python, "-m", "venv", "--without-pip", str(venv)],
        [*pip, "--python", str(venv / "bin" / "python"), "install", "--require-hashes",
         "--only-binary", ":all:", "-r", "requirements.txt"],
    ):  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True, timeout=240)


def in_venv(host: Path, command: list[str], **settings: str) -> "subprocess.Popen[str]":
    """A command of the host's, as a user without rights where we may choose one."""
    as_root = os.geteuid() == 0
    return subprocess.Popen(
        command,
        cwd=host,
        env={"PATH": f"{host}/venv/bin:{os.defpath}", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        user=NOBODY if as_root else None,
        group=NOBODY if as_root else None,
        extra_groups=[] if as_root else None,
    )


def run(host: Path, command: list[str], **settings: str) -> tuple[int, str]:
    with in_venv(host, command, **settings) as process:
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


def docker_health_check() -> list[str]:
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.+\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command: list[str] = json.loads(check)
    return command


def test_the_worker_of_a_clean_build_serves_and_ends_as_hosts_expect(
    host: Path, stack: dict[str, str]
) -> None:
    """Late on a machine that is busy with something else, it is given two more chances to be in time."""
    assert any(serve_and_end(host, stack) < HEALTHY_WITHIN for _ in range(3))


def serve_and_end(host: Path, stack: dict[str, str]) -> float:
    """How many seconds the Procfile's line took until it was healthy."""
    port = free_port()
    started = time.monotonic()
    with in_venv(host, procfile_words(), **stack, PORT=str(port), DYNO="web.1") as worker:
        try:
            eventually(lambda: healthy(port) or worker.poll() is not None, "a healthy worker", 60)
            seconds = time.monotonic() - started
            checked = run(host, docker_health_check(), PORT=str(port))
            worker.send_signal(signal.SIGTERM)
            output, _ = worker.communicate(timeout=30)
        finally:
            worker.kill()
    assert worker.returncode == 0, output
    assert checked == (0, ""), output
    assert "Traceback" not in output
    assert run(host, docker_health_check(), PORT=str(port))[0] == 1
    return seconds


def test_the_build_has_what_is_pinned_and_nothing_else(host: Path) -> None:
    program = "import importlib.metadata as m; print(*sorted({d.name.lower() for d in m.distributions()}))"
    status, output = run(host, ["python", "-c", program])
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert status == 0, output
    assert {name.replace("_", "-") for name in output.split()} == {*pins} - {"colorama"}  # Windows's


def test_the_build_prints_the_migrations_and_its_version(host: Path) -> None:
    status, output = run(host, ["python", "-m", "mqtt_service", "migrations", "--list"])
    assert status == 0, output
    assert "mqtt_service_foundation.sql" in output
