"""The virtual environment of the scripts: made once, made again when it must be, never left half-made."""

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_venv.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_venv", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_venv = load_script()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for source in make_venv.SOURCES:
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (tmp_path / source).write_text(source)
    return tmp_path


def build(root: Path, lock: int) -> None:
    """Stand in for the real environment, of which only the interpreter matters here."""
    python = make_venv.venv_python(root)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.symlink_to(sys.executable)


def fail_to_build(root: Path, lock: int) -> None:
    raise AssertionError("a complete environment was made again")


def test_a_complete_environment_is_not_made_again(root: Path) -> None:
    assert make_venv.ensure_venv(root, build) is True
    assert make_venv.ensure_venv(root, fail_to_build) is False


@pytest.mark.parametrize("source", make_venv.SOURCES)
def test_a_change_of_what_it_was_made_from_makes_it_anew(root: Path, source: str) -> None:
    make_venv.ensure_venv(root, build)
    (root / source).write_text("changed")
    assert make_venv.ensure_venv(root, build) is True


def test_an_environment_whose_python_is_gone_is_made_anew(root: Path) -> None:
    make_venv.ensure_venv(root, build)
    make_venv.venv_python(root).unlink()
    assert make_venv.ensure_venv(root, build) is True


def test_an_environment_that_was_moved_is_made_anew(root: Path) -> None:
    make_venv.ensure_venv(root / ".", build)
    moved = root.rename(root.with_name("moved"))
    assert make_venv.ensure_venv(moved, build) is True


def test_an_interrupted_start_leaves_none_that_passes_for_complete(root: Path) -> None:
    def interrupted(root: Path, lock: int) -> None:
        build(root, lock)
        raise KeyboardInterrupt

    make_venv.ensure_venv(root, build)
    (root / "pyproject.toml").write_text("changed")
    with pytest.raises(KeyboardInterrupt):
        make_venv.ensure_venv(root, interrupted)
    (root / "pyproject.toml").write_text("pyproject.toml")
    assert make_venv.ensure_venv(root, build) is True


def test_two_starts_at_once_make_it_once(root: Path) -> None:
    building = threading.Event()
    finish = threading.Event()
    made: list[bool] = []

    def slow(root: Path, lock: int) -> None:
        building.set()
        assert finish.wait(30)
        build(root, lock)

    first = threading.Thread(target=lambda: made.append(make_venv.ensure_venv(root, slow)))
    second = threading.Thread(target=lambda: made.append(make_venv.ensure_venv(root, fail_to_build)))
    first.start()
    assert building.wait(30)
    second.start()
    finish.set()
    first.join(30)
    second.join(30)
    assert sorted(made) == [False, True]
