"""The house rules that a reader relies on: which module may know which, and that each says what it is for.

    errors ← protocol ← config, log, other plain tools ← adapters ← queue | devices | fleet
    ← inbound ← service ← worker_process ← doctor ← cli

A module imports from its own storey or from those to its left; nothing goes in circles. `queue`, `devices`
and `fleet` are rooms of their own: what `queue` and `devices` need of each other is wired in `service`, and
only the command line opens `fleet`. The check of a project's database, the embedded stack, the simulated
devices, the demo and the benchmark stand outside: the worker does not know them.
"""

import ast
import re
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "mqtt_service"

STOREYS = (
    {"errors"},
    {"protocol"},
    {
        "config",
        "console_site",
        "http_server",
        "error_reports",
        "log",
        "backoff",
        "batching",
        "metrics",
        "migrations",
        "pasted",
        "publisher",
        "repairs",
        "supervision",
        "watchdog",
    },
    {"adapters"},
    {
        "queue",
        "devices",
        "fleet",
        "session_takeover",
        "project_check",
        "alerts",
        "retention",
        "loop_lag",
        "health",
    },
    {"inbound", "endpoints", "part_options"},
    {"service"},
    {"worker_process"},
    {"doctor"},
    {"cli"},
    {"__main__"},
)
# They share a storey, and none knows another.
INDEPENDENT = ("queue", "devices", "fleet")
OUTSIDE = ("adoption", "devstack", "simulator", "demo", "bench")
# What those outside may know of the worker: the simulated devices read and write the wire on their own. The
# migrations are the project's, not the worker's.
SHARED = {f"{PACKAGE}.{name}" for name in ("protocol", "config", "console_site", "errors", "migrations")}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
OUTSIDERS = {name for name in MODULES if name.partition(".")[2].partition(".")[0] in OUTSIDE}
WORKER = MODULES.keys() - OUTSIDERS


def storey(module: str) -> int:
    """How high a module stands: it may import what stands no higher. The package itself is the ground."""
    name = module.partition(".")[2].partition(".")[0]
    return next(height for height, names in enumerate(STOREYS) if name in names or not name)


@cache
def imports(module: str, *, also_lazy: bool = True) -> frozenset[str]:
    """The full names that a module imports, at its top or (`also_lazy`) inside its functions too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(imported_names(path.read_text(encoding="utf-8"), package=package, also_lazy=also_lazy))


def imported_names(source: str, *, package: str, also_lazy: bool) -> set[str]:
    """What this source, a module of `package`, imports; a name out of a module stands for that module."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names.update(
                full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names
            )
        elif also_lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(ast.iter_child_nodes(node))
    return names


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])


def own_imports(module: str, *, also_lazy: bool = True) -> frozenset[str]:
    """The modules of this package that a module imports."""
    return imports(module, also_lazy=also_lazy) & MODULES.keys() - {PACKAGE, module}


def test_every_module_has_its_storey() -> None:
    placed = set().union(*STOREYS)
    nowhere = {module for module in WORKER - {PACKAGE} if module.split(".")[1] not in placed}
    assert nowhere == set(), "say in STOREYS where these stand"


def test_imports_point_one_way() -> None:
    upwards = {
        (module, name)
        for module in WORKER
        for name in own_imports(module) & WORKER
        if storey(name) > storey(module)
    }
    assert upwards == set(), "the first must not know the second"


@pytest.mark.parametrize(("room", "other"), list(permutations(INDEPENDENT, 2)))
def test_the_queue_the_devices_and_the_fleet_do_not_know_each_other(room: str, other: str) -> None:
    inside = {name for name in MODULES if name.split(".")[1:2] == [room]}
    assert len(inside) > 1
    known = {name for module in inside for name in own_imports(module) if name.split(".")[1] == other}
    assert not known, f"{room} must not import {sorted(known)}: pass a callback or a protocol"


def test_only_the_command_line_opens_the_fleet() -> None:
    tables = {
        "tables", "fleet_rows", "fleet_commands", "fleet_devices", "fleet_firmware", "fleet_schedules",
        "fleet_rollouts",
    }  # fmt: skip
    fleet = {name for name in MODULES if name.split(".")[1:2] == ["fleet"]}
    fleet |= {f"{PACKAGE}.adapters.supabase.{name}" for name in tables}
    others = {name for name in MODULES.keys() - fleet if name.split(".")[1:2] != ["cli"]}
    assert {name for name in others if own_imports(name) & fleet} == set()


def test_the_protocol_is_pure() -> None:
    inside = {module for module in MODULES if module.startswith(f"{PACKAGE}.protocol")}
    assert inside
    allowed = {f"{PACKAGE}.errors", f"{PACKAGE}.protocol"}
    impure = {
        (module, name)
        for module in inside
        for name in imports(module)
        if name.split(".")[0] not in sys.stdlib_module_names and ".".join(name.split(".")[:2]) not in allowed
    }
    assert impure == set()


def test_the_worker_never_imports_what_stands_outside() -> None:
    for module in WORKER:
        if module.startswith(f"{PACKAGE}.cli") or module == f"{PACKAGE}.doctor.run":
            seen = own_imports(module, also_lazy=False) & OUTSIDERS
            assert not seen, f"{module}: import {seen} inside the command's function"
        else:
            assert not own_imports(module) & OUTSIDERS, module


def test_what_stands_outside_knows_no_more_of_the_worker_than_the_protocol() -> None:
    known = {(module, name) for module in OUTSIDERS for name in own_imports(module) & WORKER}
    assert {pair for pair in known if ".".join(pair[1].split(".")[:2]) not in SHARED} == set()


def test_no_imports_go_in_circles() -> None:
    try:
        TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def test_the_folder_supabase_does_not_hide_the_library_of_that_name() -> None:
    assert (ROOT / "supabase" / "migrations").is_dir()
    assert not (ROOT / "supabase" / "__init__.py").exists()


# Comments, then a docstring with something in it.
_SAYS_SOMETHING = re.compile(r'(?:#.*\n|\s)*r?"""\s*[^"\s]')


def test_every_module_says_what_it_is_for() -> None:
    paths = [path for folder in (PACKAGE, "tests", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > len(MODULES)
    silent = {
        str(path.relative_to(ROOT))
        for path in paths
        if not _SAYS_SOMETHING.match(path.read_text(encoding="utf-8"))
    }
    assert silent == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import mqtt_service.config", {"mqtt_service.config"}),
        ("from mqtt_service import config", {"mqtt_service.config"}),
        ("from mqtt_service.config import Settings", {"mqtt_service.config"}),
        ("from ..config import Settings", {"mqtt_service.config"}),
        ("from . import supabase", {"mqtt_service.adapters.supabase"}),
        ("def f():\n    import mqtt_service.config", {"mqtt_service.config"}),
        ("if True:\n    import os.path", {"os.path"}),
    ],
)
def test_this_test_sees_imports_however_they_are_written(source: str, expected: set[str]) -> None:
    assert imported_names(source, package=f"{PACKAGE}.adapters", also_lazy=True) == expected
