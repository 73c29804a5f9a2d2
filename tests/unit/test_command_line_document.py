"""docs/command-line.md says what the command line's own help says: verbs, exit status, options."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from mqtt_service.cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
GROUP = typer.main.get_group(app)
EXAMPLES = re.findall(r"^mqtt-service (.+?)(?: +#.*)?$", DOCUMENT, re.MULTILINE)


def verbs() -> dict[str, Any]:
    return dict(GROUP.commands)


def commands() -> dict[str, Any]:
    """What can be called, by its words: `send`, `tag add`."""
    found: dict[str, Any] = {}
    for name, verb in verbs().items():
        inner = getattr(verb, "commands", None)
        found |= {name: verb} if inner is None else {f"{name} {word}": one for word, one in inner.items()}
    return found


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_verb_is_in_the_table_and_no_other() -> None:
    rows = re.findall(r"^\| (`.+?) \|", section("Verbs"), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(verbs())


def test_the_exit_statuses_are_those_of_the_help() -> None:
    said = {int(number) for number in re.findall(r"\b(\d+) ", GROUP.epilog or "")}
    assert {
        int(number) for number in re.findall(r"^\| (\d+) \|", section("Exit status"), re.MULTILINE)
    } == said


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_written_like_that(example: str) -> None:
    words = shlex.split(example)
    name = words[0] if words[0] in commands() else " ".join(words[:2])
    commands()[name].make_context(name, words[name.count(" ") + 1 :])


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 8


@pytest.mark.parametrize("verb", sorted(commands().keys() - {"run", "dev", "console"}))
def test_whatever_prints_can_print_json(verb: str) -> None:
    assert "--json" in {option for parameter in commands()[verb].params for option in parameter.opts}


def test_the_pictures_are_those_that_the_program_draws_and_load_nothing() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "screenshots.py"))["draw"]()
    assert set(re.findall(r"\(images/(\w+\.svg)\)", DOCUMENT)) == set(drawn)
    for name, svg in drawn.items():
        kept = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
        assert kept == svg, f"draw {name} anew: python scripts/screenshots.py"
        assert not re.search(r"@font-face|url\(\s*['\"]?https?:|href=", svg)
