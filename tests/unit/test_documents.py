"""What the documents name is there: files, headings, settings, metrics, SQL functions, log lines."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mqtt_service.config import Settings
from mqtt_service.errors import RemoteProtocolError
from mqtt_service.metrics import REGISTRY
from mqtt_service.protocol.images import ImageChunk, ImageMetadata, LoneReadings, parse_data
from mqtt_service.protocol.messages import (
    Acknowledgement,
    Heartbeat,
    ServiceMessage,
    parse_ack,
    parse_heartbeat,
)
from mqtt_service.protocol.topics import Topic, parse_topic

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mqtt_service"
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *(path for folder in ("docs", "supabase", "tests") for path in sorted((ROOT / folder).rglob("*.md"))),
]
OPERATIONS = ROOT / "docs" / "operations.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
# Not the worker: these stand beside it, and have a line each.
OUTSIDE = {"adoption", "devstack", "simulator", "demo", "bench"}

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(?<![\w./<-])(?:mqtt_service|supabase|docs|scripts|tests)/[\w./-]*[\w/]")
_LOG_LINE = re.compile(r"`(\[[A-Za-z_]+\] [^`]+)`")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(document: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return document.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def anchors(document: str) -> set[str]:
    """The headings as GitHub makes addresses of them."""
    headings = _HEADING.findall(_CODE_BLOCK.sub("", document))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(read(document)):
        if link.startswith(("http://", "https://")):
            continue
        address, _, anchor = link.partition("#")
        target = (document.parent / address).resolve() if address else document
        assert target.exists(), f"{document.name} links to {link}"
        if anchor:
            assert anchor in anchors(read(target)), f"{document.name} links to {link}"


@each_document
def test_files_that_are_named_are_there(document: Path) -> None:
    missing = {path for path in _PATH.findall(read(document)) if not (ROOT / path).exists()}
    assert not missing


@each_document
def test_a_migration_that_is_named_by_its_end_is_there_once(document: Path) -> None:
    names = [path.name for path in (ROOT / "supabase" / "migrations").glob("*.sql")]
    for end in re.findall(r"…(_\w+\.sql)", read(document)):
        assert sum(name.endswith(end) for name in names) == 1, end


@each_document
def test_functions_of_the_database_that_are_named_are_in_a_migration(document: Path) -> None:
    migrations = "".join(read(path) for path in (ROOT / "supabase" / "migrations").glob("*.sql"))
    defined = set(re.findall(r"function \w+\.(fn_\w+)", migrations))
    assert set(re.findall(r"\bfn_\w*[a-z]", read(document))) <= defined


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 160


def rows(table: str) -> Iterator[list[str]]:
    for line in table.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def documented_settings() -> dict[str, str]:
    """The table of settings: name → default as it stands there; several in one row share the row."""
    found: dict[str, str] = {}
    for row in rows(section(read(OPERATIONS), "Settings")):
        names = re.findall(r"`([A-Z_]+)`", row[0])
        defaults = row[1].split(", ") if row[1].count(", ") == len(names) - 1 else [row[1]] * len(names)
        found.update(zip(names, defaults, strict=True))
    return found


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert set(documented_settings()) == {name.upper() for name in Settings.model_fields}


def test_documented_defaults_are_those_of_the_settings() -> None:
    in_words = {"MQTT_CA_FILE": "the system's", "MQTT_CLIENT_ID": documented_settings()["MQTT_CLIENT_ID"]}
    for name, field in Settings.model_fields.items():
        default = field.default
        text = "required" if field.is_required() else str(default).lower().removesuffix(".0")
        expected = in_words.get(name.upper(), str(default) if name == "log_level" else text)
        assert documented_settings()[name.upper()] == expected, name


def test_the_example_of_an_env_file_names_settings_alone() -> None:
    named = re.findall(r"^#?([A-Z_]+)=", read(ROOT / ".env.example"), re.MULTILINE)
    assert named
    assert set(named) <= {name.upper() for name in Settings.model_fields}


def metric_names() -> set[str]:
    """As they stand in what /metrics answers."""
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in REGISTRY.collect()
    }


def test_every_metric_is_documented() -> None:
    table = section(read(OPERATIONS), "Health and metrics")
    for name in metric_names():
        assert f"`{name}`" in table, name


@each_document
def test_metrics_that_are_named_are_there(document: Path) -> None:
    assert set(re.findall(r"`(mqtt_service_\w+)", read(document))) <= metric_names()


def package_texts() -> list[str]:
    """Every text in the package and its SQL, with … for what is filled in."""
    found = [read(path) for path in (ROOT / "supabase" / "migrations").glob("*.sql")]
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[\d.]*[sdfr]", "…", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(str(part) for part in parts))
    return found


@pytest.mark.parametrize("document", [OPERATIONS, ROOT / "tests" / "faults" / "README.md"], ids=str)
def test_log_lines_that_are_quoted_are_in_the_words_of_the_program(document: Path) -> None:
    """A line is put together out of several texts, so each clause of two words or more is looked for."""
    texts = "\n".join(package_texts())
    clauses = {
        clause.strip()
        for line in _LOG_LINE.findall(read(document))
        for clause in re.split(r"[][;:,()…<>\d]+", line)
        if clause.strip().count(" ")
    }
    assert clauses
    assert {clause for clause in clauses if clause not in texts} == set()


def examples(text: str) -> Iterator[bytes]:
    """The JSON objects in blocks of code, one after another."""
    for block in re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        rest = block.strip()
        while rest:
            _, end = json.JSONDecoder().raw_decode(rest)
            yield rest[:end].encode()
            rest = rest[end:].lstrip()


def understood(message: bytes) -> object:
    """What the service takes a device's message for, on whichever channel it is one."""
    now = datetime(2025, 8, 30, tzinfo=UTC)
    readers: dict[str, Callable[[Topic, bytes], object]] = {
        "data": lambda topic, payload: parse_data(topic, payload, now=now),
        "ack": parse_ack,
        "status": parse_heartbeat,  # takes whatever the others do not
    }
    for channel, read_as in readers.items():
        try:
            return read_as(parse_topic(f"device/AA:BB:CC:DD:EE:FF/{channel}"), message)
        except RemoteProtocolError:
            continue
    raise AssertionError(message)


def test_messages_in_the_protocol_are_understood() -> None:
    document = read(ROOT / "docs" / "protocol.md")
    said = [type(understood(message)) for message in examples(section(document, "What a device says"))]
    assert said == [Heartbeat, *[Acknowledgement] * 6, ImageMetadata, LoneReadings, ImageChunk]
    _, *told = examples(section(document, "What a device is told"))
    assert [type(understood(message)) for message in told] == [ServiceMessage, ServiceMessage]


def worker_modules() -> list[str]:
    return [
        name
        for path in sorted(PACKAGE.rglob("*.py"))
        if (name := path.relative_to(PACKAGE).as_posix()).split("/")[0] not in OUTSIDE
        and path.name != "__init__.py"
    ]


def test_every_module_of_the_worker_is_on_the_map() -> None:
    named = set(re.findall(r"[\w/]+\.py", read(ARCHITECTURE)))
    named = {name.removeprefix("mqtt_service/") for name in named}
    assert [name for name in worker_modules() if name not in named] == []


def test_the_map_names_no_module_that_is_gone() -> None:
    named = re.findall(r"[\w/]+\.py", read(ARCHITECTURE))
    assert [name for name in named if not any((place / name).exists() for place in (PACKAGE, ROOT))] == []


def test_nothing_refers_to_documents_that_only_their_authors_have() -> None:
    code = [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py")]
    migrations = (ROOT / "supabase").rglob("*.sql")
    for path in (*DOCUMENTS, *code, *migrations, ROOT / ".env.example"):
        assert not re.search(r"\b(?:SEED|DESIGN|PROTOCOL|MODELS)\.md\b", read(path)), path
