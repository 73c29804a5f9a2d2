"""The rule on skips: it names what is missing, and a run that allows none fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SKIPPING = """
import pytest
from tests.requirements import needs, require

@needs("no-such-program", "sh")
def test_marked(): ...

def test_required():
    require("no-such-program")

@pytest.mark.xfail
def test_expected_to_fail():
    raise AssertionError

def test_passing(): ...
"""


@pytest.mark.parametrize(
    ("setting", "status", "summary"),
    [("", 0, "1 passed, 3 skipped, 1 xfailed"), ("1", 1, "1 failed, 1 passed, 1 xfailed, 2 errors")],
)
def test_a_skip_is_a_failure_only_in_a_run_that_allows_none(
    tmp_path: Path, setting: str, status: int, summary: str
) -> None:
    (tmp_path / "test_a_file.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (tmp_path / "test_it.py").write_text(SKIPPING)
    finished = run_pytest(tmp_path, setting)
    assert finished.returncode == status, finished.stdout
    assert summary in finished.stdout
    assert finished.stdout.count("not on this machine: no-such-program") >= 2
    assert "no-such-program, sh" not in finished.stdout
    assert "no_such_module" in finished.stdout


def run_pytest(folder: Path, no_skips: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}\n")
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-ra",
            "-p",
            "tests.conftest",
            "--continue-on-collection-errors",
            "-p",
            "no:cacheprovider",
            ".",
        ],
        cwd=folder,
        env={
            **os.environ,
            "MQTT_SERVICE_NO_SKIPS": no_skips,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
