"""`pip install mqtt-service` without extras, away from the source tree: it starts the worker alone.

The wheel is built and unpacked without a network; of the other packages on this machine only those that
requirements.txt names can be imported.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from mqtt_service.migrations import as_script, read_migrations
from tests.started import ROOT

SOURCES = ("pyproject.toml", "README.md", "mqtt_service", "supabase")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which Python finds the package and what it requires, and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "packages"
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("source"))) as wheel:
        wheel.extractall(folder)
    for name in required_packages():
        for entry in top_level_entries(name):
            (folder / entry.name).symlink_to(entry)
    return folder


def build_wheel(folder: Path) -> Path:
    """Build from a copy, since setuptools writes beside the sources."""
    for source in SOURCES:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder)
    subprocess.run(
        [sys.executable, "-c", BUILD, "dist"], cwd=folder, check=True, capture_output=True, timeout=120
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def required_packages() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [found[0] for line in lines if (found := re.match(r"[\w.-]+", line)) is not None]


def top_level_entries(name: str) -> set[Path]:
    """What a package has in site-packages; nothing where this machine has no use for it."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return set()
    tops = {file.parts[0] for file in package.files or [] if file.parts[0] not in {"..", "__pycache__"}}
    return {Path(str(package.locate_file(top))) for top in tops}


@pytest.fixture
def run(packages: Path, tmp_path: Path) -> "Run":
    return Run(packages, tmp_path)


class Run:
    """Runs the installed package's command line, or any Python, in an empty folder."""

    def __init__(self, packages: Path, folder: Path) -> None:
        self._env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(packages)}
        self._folder = folder

    def python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        # -S: without site-packages.
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            env=self._env, cwd=self._folder, capture_output=True, encoding="utf-8", check=False, timeout=60,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.python("-m", "mqtt_service", *arguments)


def test_the_package_is_the_one_that_was_built(run: Run, packages: Path) -> None:
    finished = run.python("-c", "import mqtt_service; print(mqtt_service.__file__)")
    assert finished.stdout.strip() == str(packages / "mqtt_service" / "__init__.py")
    assert run.python("-c", "import psycopg").returncode == 1


def test_it_prints_the_same_script_as_a_clone(run: Run) -> None:
    finished = run("migrations")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == as_script(read_migrations())


def test_the_worker_starts_and_asks_for_its_settings_a_line_for_each(run: Run) -> None:
    finished = run("run")
    assert finished.returncode == 2
    lines = finished.stderr.splitlines()
    assert "mqtt-service: SUPABASE_URL is not set" in lines
    assert all(line.startswith("mqtt-service: ") for line in lines)


@pytest.mark.parametrize("command", ["dev", "demo", "simulate"])
def test_what_needs_the_extra_says_so_in_one_line(run: Run, command: str) -> None:
    finished = run(command)
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    needed = "this command needs the extra dev: in the project's folder, pip install '.[dev]'"
    assert line == f"mqtt-service: {needed}"


def test_a_check_of_a_database_names_the_extra_that_it_needs(run: Run) -> None:
    finished = run("migrations", "--check")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == (
        "mqtt-service: --check needs the extra database: in the project's folder, pip install '.[database]'\n"
    )


@pytest.mark.parametrize("command", [[], ["run"], ["dev"], ["demo"], ["simulate"], ["migrations"]])
def test_every_command_has_its_help(run: Run, command: list[str]) -> None:
    finished = run(*command, "--help")
    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_console_comes_along_whole(packages: Path) -> None:
    def files(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert files(packages / "mqtt_service" / "console") == files(ROOT / "mqtt_service" / "console")
