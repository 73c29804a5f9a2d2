"""`scripts/bench` on sizes that say nothing: it runs, prints its ratios, and leaves nothing behind."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import needs
from tests.started import run

BENCH = "mqtt_service.bench.__main__:app"
TINY = {
    "--rounds": "1", "--commands": "20", "--devices": "5", "--pictures": "2", "--chunks": "3",
    "--samples": "3", "--poll-interval": "0.2", "--finished": "500", "--later": "500", "--claims": "3",
    "--load-seconds": "0.1",
}  # fmt: skip
MEASURES = {
    "dispatch": ["dispatch of a backlog / bare paho", "dispatch of a backlog / bare paho, one by one"],
    "cycle": ["row to acknowledged / bare paho", "calls per command under load"],
    "chunks": ["chunks taken in / bare paho subscriber"],
    "herd": [
        "herd: first answer to a HELLO, p99 / 2 s",
        "herd: commands acknowledged and pictures whole / all",
        "herd: last ACK_OK / bare paho subscriber",
        "herd: worker's peak memory over idle / IMAGE_BUFFER_BYTES",
    ],
    "latency": [
        "insert to publish, p99 / 250 ms",
        "without Realtime, p99 / (poll + 250 ms)",
        "insert to publish one at a time, p99 / 100 ms",
        "insert to publish at 50 a second, p99 / 100 ms",
        "insert to publish at 500 a second, p99 / 100 ms",
    ],
    "claims": [
        f"{claim} beside {rows} / beside none"
        for claim in ("idle claim", "claim of 100")
        for rows in ("500 finished", "500 changes", "500 for later", "500 schedules, 5 rollouts")
    ],
}


def bench(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    sizes = [word for option in TINY.items() for word in option]
    return run([*sizes, *arguments], {"TMPDIR": str(directory)}, directory, timeout=240, main=BENCH)


@needs("mosquitto")
def test_the_parts_that_are_named_give_their_ratios(tmp_path: Path) -> None:
    """The others are tested one by one in tests/integration/bench."""
    done = bench(tmp_path, "--json", *MEASURES)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["machine"]["cores"] >= 1
    measures: list[dict[str, Any]] = document["measures"]
    assert [measure["name"] for measure in measures] == [
        name for names in MEASURES.values() for name in names
    ]
    (kept,) = [measure["ratio"] for measure in measures if measure["name"].endswith("pictures whole / all")]
    assert kept == 1.0
    assert all(measure["ratio"] > 0 and math.isfinite(measure["ratio"]) for measure in measures)
    assert list(tmp_path.iterdir()) == []


def test_one_part_alone_prints_its_table(tmp_path: Path) -> None:
    done = bench(tmp_path, "claims")
    assert done.returncode == 0, done.stderr
    for name in MEASURES["claims"]:
        assert name in done.stdout
    assert "dispatch" not in done.stdout
    assert "≤ 1.1" in done.stdout


def test_the_table_for_a_document_says_what_it_was_taken_on(tmp_path: Path) -> None:
    done = bench(tmp_path, "claims", "--markdown")
    assert done.returncode == 0, done.stderr
    for name in MEASURES["claims"]:
        assert f"| {name} |" in done.stdout
    assert "Taken on: cores " in done.stdout


@pytest.mark.parametrize("arguments", [["speed"], ["--commands", "0"]])
def test_what_it_does_not_know_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    assert bench(tmp_path, *arguments).returncode == 2
