"""Starts `mqtt-service …` in processes of their own, forked from one that has imported it already.

Importing takes two seconds of CPU, and a test run starts some hundred processes. A forked one has all that a
process has: its id, signals, environment, folder, output and exit status. What a new interpreter does before
it comes to the service is tested by those that ask for one (`anew`), in tests/acceptance/test_deploy.py, and
wherever a variable is for the interpreter or the linker itself.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from tests import certificates

ROOT = Path(__file__).parents[1]
# Read before any code of ours runs.
_FOR_THE_INTERPRETER = {"LD_PRELOAD", "PYTHONPATH"}
_COMMAND_LINE = "mqtt_service.cli:main"
_FORKING = get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "pytest", "tests.started", "tests.prepared_cluster", "mqtt_service.cli.app",
        "mqtt_service.devstack.dev", "mqtt_service.demo.run", "mqtt_service.simulator.fleet",
    ]
)  # fmt: skip
# Where stacks find a cluster to copy: set by tests/conftest.py.
prepared: list[Path] = []


class Forked:
    """A running process, with the methods of subprocess.Popen; its output is added to two files."""

    def __init__(
        self,
        main: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        directory: Path,
        outputs: tuple[Path, Path],
    ) -> None:
        everything = (main, list(arguments), dict(env), directory, outputs, prepared)
        self._process = _FORKING.Process(target=_become, args=everything, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired([str(self.pid)], timeout)
        return status

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = Forked | subprocess.Popen[bytes]


def start(
    arguments: Sequence[str],
    env: Mapping[str, str],
    directory: Path,
    output: Path,
    *,
    errors: Path | None = None,
    anew: bool = False,
    main: str = _COMMAND_LINE,
) -> Process:
    """Start `mqtt-service` with nothing of our environment but PATH.

    `anew`: as `python -m mqtt_service`, and a stack from nothing. `main`: another function to fork, as
    `module:name`.
    """
    errors = errors or output
    for file in (output, errors):
        file.touch()  # it can be read at once
    env = {"PATH": os.environ.get("PATH", os.defpath), **env}
    if not anew and not _FOR_THE_INTERPRETER & env.keys():
        return Forked(main, arguments, env, directory, (output, errors))
    with output.open("ab") as out, errors.open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "mqtt_service", *arguments],
            env={"PYTHONPATH": str(ROOT), **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            cwd=directory,
        )  # fmt: skip


def run(
    arguments: Sequence[str],
    env: Mapping[str, str],
    directory: Path,
    timeout: float = 60,
    main: str = _COMMAND_LINE,
) -> "subprocess.CompletedProcess[str]":
    """Start it and wait for its end; it is killed after `timeout` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "out"), Path(folder, "err")
        process = start(arguments, env, directory, output, errors=errors, main=main)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        texts = (file.read_text(encoding="utf-8") for file in (output, errors))
        return subprocess.CompletedProcess(list(arguments), status, *texts)


def _become(
    main: str,
    arguments: list[str],
    env: dict[str, str],
    directory: Path,
    outputs: tuple[Path, Path],
    prepared: list[Path],
) -> None:
    """Be that process: runs in the forked one."""
    for number, file in zip((1, 2), outputs, strict=True):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", write_through=True)  # type: ignore[union-attr]  # both are text files here
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    tempfile.tempdir = None  # asked for anew
    sys.argv = ["mqtt-service", *arguments]
    certificates.share()
    for made in prepared:
        from tests.prepared_cluster import copied_from  # noqa: PLC0415 - only where a stack may be started

        import_module("mqtt_service.devstack.stack").EmbeddedPostgres = copied_from(made)  # type: ignore[attr-defined]  # as tests/conftest.py does
    module, _, name = main.partition(":")
    raise SystemExit(getattr(import_module(module), name)())
