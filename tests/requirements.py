"""What tests need beyond Python packages: programs that may or may not be on this machine.

A test says `@needs("mosquitto")`, a fixture calls `require("mosquitto")`; both skip with the name of what is
missing. With MQTT_SERVICE_NO_SKIPS=1 every skip is a failure (see tests/conftest.py).
"""

import os
import shutil
from pathlib import Path

import pytest

NO_SKIPS = os.environ.get("MQTT_SERVICE_NO_SKIPS") == "1"

# Installed, but not on everyone's PATH: Debian's servers and daemons.
_MORE_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/sbin", "/usr/lib/postgresql/15/bin")

# What is no program of its own name: the setting that says where it is, or a file that proves it is there.
_SETTINGS = {"supabase": "SUPABASE_CLI", "supabase-js": "SUPABASE_JS_DIR"}
# What lies beside supabase-js: its name is the package's.
_NODE_PACKAGES = {"axe-core"}
_FILES = {
    "postgresql-15": "/usr/lib/postgresql/15/bin/postgres",
    "pgtap": "/usr/share/postgresql/15/extension/pgtap.control",
    # Debian puts it into a folder that is named after the machine's architecture.
    "libfaketime": next(
        map(str, Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), "/usr/lib/faketime"
    ),
}


def find_program(name: str) -> str | None:
    """Where a program lies, or None if this machine lacks it.

    `supabase` is the official command line (SUPABASE_CLI, else on PATH), `supabase-js` the folder in whose
    node_modules that library lies (SUPABASE_JS_DIR), `postgresql-15` the server and `pgtap` its extension,
    `libfaketime` a library to preload, `axe-core` the checker of accessibility beside supabase-js.
    """
    setting = _SETTINGS.get(name)
    if setting is not None and os.environ.get(setting):
        return os.environ[setting]
    if name in _NODE_PACKAGES:
        folder = Path(os.environ.get("SUPABASE_JS_DIR", "/nowhere")) / "node_modules" / name
        return str(folder) if folder.exists() else None
    if name in _FILES:
        return _FILES[name] if Path(_FILES[name]).exists() else None
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_PLACES]))


def needs(*programs: str) -> pytest.MarkDecorator:
    """Mark a test (or as `pytestmark`, a file) to be skipped where one of these programs is missing."""
    lacking = missing(*programs)
    return pytest.mark.skipif(bool(lacking), reason=_reason(lacking))


def require(*programs: str) -> None:
    """Skip the running test where one of these programs is missing: for fixtures and helpers."""
    lacking = missing(*programs)
    if lacking:
        pytest.skip(_reason(lacking))


def missing(*programs: str) -> list[str]:
    """Which of these programs this machine lacks."""
    return [name for name in programs if find_program(name) is None]


def _reason(lacking: list[str]) -> str:
    return f"not on this machine: {', '.join(lacking)}"
