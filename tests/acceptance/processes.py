"""Starts the product's real processes for a test, and stops them by their process id."""

import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
from dotenv import dotenv_values

from tests.started import ROOT, start

T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str, deadline: float = 30.0) -> T:
    """What `look` returns once it is neither None nor False; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not seen within {deadline:.0f} s: {what}")
        time.sleep(0.05)  # the pause between two looks, not the wait itself


class Process:
    """One `mqtt-service …`, its output in a file that grows as it is written; `anew` as `started.start`."""

    def __init__(
        self, arguments: list[str], env: Mapping[str, str], directory: Path, *, anew: bool = False
    ) -> None:
        self.log_file = Path(tempfile.mkstemp(suffix=".log", dir=directory)[1])
        self.popen = start(arguments, env, directory, self.log_file, anew=anew)

    @property
    def output(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def says(self, pattern: str, deadline: float = 30.0) -> str:
        """Wait for a line of output; returns what the pattern matched."""

        def look() -> str | None:
            found = re.search(pattern, self.output)
            if found is None and self.popen.poll() is not None:
                raise AssertionError(
                    f"ended with {self.popen.returncode} before it said {pattern!r}:\n{self.output}"
                )
            return found.group(0) if found else None

        return eventually(look, f"{pattern!r} in:\n{self.output}", deadline)

    def stop(self, signum: int = signal.SIGTERM, deadline: float = 15.0) -> int:
        """Signal the process and return its exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        try:
            return self.popen.wait(deadline)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(5)
            raise


@contextmanager
def running(
    arguments: list[str], env: Mapping[str, str], directory: Path, *, anew: bool = False
) -> Iterator[Process]:
    """A process for the time of the block."""
    process = Process(arguments, env, directory, anew=anew)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def dev_stack(directory: Path, *options: str, anew: bool = False) -> Iterator[dict[str, str]]:
    """`mqtt-service dev`; yields what it wrote into its env file."""
    env_file = directory / "stack.env"
    with running(["dev", "--env-file", str(env_file), *options], {}, directory, anew=anew) as process:
        eventually(lambda: env_file.exists() or process.says("", 0.1) is None, "the env file", 60)
        yield {name: value for name, value in dotenv_values(env_file).items() if value is not None}


@contextmanager
def worker(stack: Mapping[str, str], directory: Path, **settings: str) -> Iterator["Worker"]:
    """`mqtt-service run` against the stack, ready; a free HTTP port unless PORT is given."""
    process = Process(["run"], {**stack, "PORT": "0", **settings}, directory)
    try:
        port = int(process.says(r"(?<=on port )\d+"))
        started = Worker(process, f"http://127.0.0.1:{port}")
        eventually(lambda: started.answers("/ready") == httpx.codes.OK, f"readiness in:\n{process.output}")
        yield started
    finally:
        process.stop()


class Worker:
    """A running worker and its HTTP endpoints."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url

    def answers(self, path: str) -> int | None:
        """The status of a GET, None while nothing listens."""
        try:
            return httpx.get(self.url + path).status_code
        except httpx.TransportError:
            return None

    def health(self) -> dict[str, dict[str, object] | str | int]:
        document: dict[str, dict[str, object] | str | int] = httpx.get(self.url + "/health").json()
        return document


def procfile_words() -> list[str]:
    """The one line of the Procfile, for a web process, in its words."""
    kind, _, line = (ROOT / "Procfile").read_text(encoding="utf-8").strip().partition(": ")
    assert kind == "web"
    return shlex.split(line)


def healthy(port: int) -> bool:
    """Whether the worker at this port says so."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
