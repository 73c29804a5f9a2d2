"""requirements.txt: complete, checked by hashes, the versions that the tests ran with, and dated."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mqtt_service import __version__

ROOT = Path(__file__).parents[2]
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def entries(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Package → its pin and its hashes."""
    text = "\n".join(line for line in read(name).splitlines() if not line.startswith("#"))
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        pin = Requirement(_HASH.sub("", entry).strip())
        found[canonicalize_name(pin.name)] = (pin, _HASH.findall(entry))
    return found


PINS = entries("requirements.txt")


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


def test_every_file_is_checked_by_a_hash() -> None:
    # A wheel and the source, at least: one platform's files alone would shut out the others.
    assert {name for name, (_, hashes) in PINS.items() if len(set(hashes)) < 2} == set()


def test_nothing_says_where_packages_come_from() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        assert not re.search(r"://|--(extra-)?index-url|--find-links| @ ", read(name)), name


def test_the_pins_are_those_that_the_tests_run_with() -> None:
    tested = {name: version_of(pin) for name, (pin, _) in entries("requirements-dev.txt").items()}
    assert {name: version_of(pin) for name, (pin, _) in PINS.items()}.items() <= tested.items()


def needed() -> dict[str, Requirement]:
    """What the worker requires, and what that requires, on this machine; by the packages' own metadata."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    waiting = [(Requirement(text), "") for text in project["dependencies"]]
    found: dict[str, Requirement] = {}
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        found[canonicalize_name(requirement.name)] = requirement
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) not in seen:
                seen.add((requirement.name, wanted))
                texts = distribution(requirement.name).requires or []
                waiting += [(Requirement(text), wanted) for text in texts]
    return found


def test_all_that_the_worker_needs_is_pinned_and_nothing_else() -> None:
    elsewhere = {name for name, (pin, _) in PINS.items() if pin.marker and not pin.marker.evaluate()}
    assert set(needed()) == set(PINS) - elsewhere


def test_the_pins_are_within_the_ranges_of_the_project() -> None:
    for text in tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]:
        requirement = Requirement(text)
        pin, _ = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version_of(pin)), text


def test_the_table_of_releases_names_every_pin() -> None:
    """A pin that moved without its date would look older or newer than it is."""
    row = re.compile(r"^\| ([\w.-]+) \| (\S+) \| \d{4}-\d\d-\d\d \|$", re.MULTILINE)
    assert dict(row.findall(read("docs/security.md"))) == {
        name: version_of(pin) for name, (pin, _) in PINS.items()
    }


def test_the_version_has_one_place() -> None:
    pyproject = tomllib.loads(read("pyproject.toml"))
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mqtt_service.__version__"}
    assert distribution("mqtt-service").version == __version__
