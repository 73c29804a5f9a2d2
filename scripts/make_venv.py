"""Make the project's own virtual environment, `.venv`, unless it is there and complete.

Run by the shell scripts with the host's Python; standard library only. The environment is complete when its
stamp says so, and the stamp is written last: what an interruption leaves behind has none, and is made anew.
The stamp names all that the environment was made from, so a change of requirements makes a new one too.
"""

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCES = ("requirements-dev.txt", "pyproject.toml", "scripts/make_venv.py")


class SetupError(Exception):
    """The environment cannot be made; the message says what the machine lacks."""


def ensure_venv(root: Path, build: Callable[[Path, int], None]) -> bool:
    """Have `root/.venv` built unless it is complete; True if it was built now.

    Two starts at once build it once: the second waits for the first. `build` gets the lock's file
    descriptor for the processes that it starts, so that one which outlives us still keeps others out.
    """
    if is_complete(root):
        return False
    with (root / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(root):
            return False
        stamp_file(root).unlink(missing_ok=True)
        build(root, lock.fileno())
        stamp_file(root).write_text(stamp(root), encoding="utf-8")
        return True


def is_complete(root: Path) -> bool:
    """Whether the environment was finished, from what lies here now, and its Python still runs."""
    try:
        return stamp_file(root).read_text(encoding="utf-8") == stamp(root)
    except (OSError, subprocess.CalledProcessError):
        return False


def stamp_file(root: Path) -> Path:
    """Where the stamp lies: inside the environment, so that it goes with it."""
    return root / ".venv" / "complete"


def stamp(root: Path) -> str:
    """What the environment depends on: its place, its Python's version, the requirements.

    Raises OSError or CalledProcessError where that Python is missing or broken.
    """
    version = subprocess.run(
        [venv_python(root), "-V"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout
    digest = hashlib.sha256(f"{root}\n{version}".encode())
    for source in SOURCES:
        digest.update((root / source).read_bytes())
    return digest.hexdigest()


def venv_python(root: Path) -> Path:
    """The environment's interpreter."""
    return root / ".venv" / "bin" / "python"


def build_venv(root: Path, lock: int) -> None:
    """Make the environment, install the pinned requirements, and the project itself in place."""
    # PIP_USER would send the packages elsewhere; PYTHONPATH and PYTHONHOME belong to another Python.
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME"}
    }

    def run(*command: str | Path) -> None:
        subprocess.run(
            command,
            check=True,
            cwd=root,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # stdout belongs to the script that asked for us: `demo --json` prints there
            pass_fds=(lock,),
        )

    run(sys.executable, "-m", "venv", "--clear", *([] if _has("ensurepip") else ["--without-pip"]), ".venv")
    pip: list[str | Path] = [*_pip(root), "--quiet", "--disable-pip-version-check", "--no-input", "install"]
    run(*pip, "-r", "requirements-dev.txt")
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")


def _pip(root: Path) -> list[str | Path]:
    """The environment's pip, else the host's (Debian without python3-venv has pip alone)."""
    if _has("ensurepip"):
        return [venv_python(root), "-m", "pip"]
    if _has("pip"):
        return [sys.executable, "-m", "pip", "--python", venv_python(root)]
    raise SetupError(
        f"{sys.executable} has neither ensurepip nor pip. Install them (on Debian and Ubuntu: "
        "apt install python3-venv), or name another Python: PYTHON=/path/to/python3"
    )


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def main() -> int:
    """Make the environment of the project in the folder that the first argument names."""
    root = Path(sys.argv[1])

    def announced(root: Path, lock: int) -> None:
        print("Setting up .venv with the pinned requirements (once; a minute or so) ...", file=sys.stderr)
        build_venv(root, lock)

    try:
        ensure_venv(root, announced)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(f"error: setting up .venv failed at: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        print("       the lines above say why; the next start tries again", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the next start sets up .venv from the beginning", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
