"""Fleets that wake and upload over a network that drops, doubles and reorders: real processes throughout.

A tenth of the chunks is lost, a twentieth doubled, their order shuffled. The normal run takes the full fleet
once, in the hardest way; MQTT_SERVICE_LONG_DRILLS=1 takes it in each.
"""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Database
from tests.acceptance.processes import Worker, dev_stack, eventually, running, worker
from tests.requirements import needs

pytestmark = [needs("mosquitto"), pytest.mark.timeout(900)]

LONG = os.environ.get("MQTT_SERVICE_LONG_DRILLS") == "1"
FULL, FEW = (50, 50) if LONG else (10, 6)
WAKES, PICTURES = 3 if LONG else 2, 2
FLEET = [
    *("--wakes", str(WAKES), "--pictures", str(PICTURES), "--picture-bytes", "70000"),
    *("--chunk-bytes", "1024", "--loss", "0.1", "--duplicates", "0.05", "--shuffle", "--sleep", "1"),
]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A stack of the test's own: its devices register themselves."""
    with dev_stack(tmp_path, "--broker", "mosquitto") as env:
        yield env


@pytest.mark.parametrize(
    ("devices", "workers", "killed"),
    [
        pytest.param(FEW, 1, False, id="one worker"),
        *([pytest.param(FEW, 2, False, id="two workers")] if LONG else ()),
        pytest.param(FULL, 2, True, id="two workers, one killed in the middle"),
    ],
)
def test_every_picture_of_a_fleet_arrives_as_it_was_sent(
    stack: dict[str, str], database: Database, directory: Path, devices: int, workers: int, *, killed: bool
) -> None:
    with ExitStack() as exits:
        started = [exits.enter_context(a_worker(stack, directory, number)) for number in range(workers)]
        broker = ["--host", stack["MQTT_HOST"], "--port", stack["MQTT_PORT"]]
        arguments = ["simulate", *broker, "--devices", str(devices), *FLEET, "--json"]
        fleet = exits.enter_context(running(arguments, {}, directory))
        if killed:
            half = devices * WAKES * PICTURES // 2
            eventually(lambda: complete(database) >= half, "half of the pictures", 300)
            started[0].process.popen.send_signal(signal.SIGKILL)
        status = fleet.popen.wait(600)
        report = json.loads(fleet.output.splitlines()[-1])

    assert status == 0, {key: value for key, value in report.items() if key != "devices"}
    assert (report["asleep"], report["hung"], report["pending"]) == (devices, 0, 0)
    assert report["answered"] == report["heartbeats"] >= devices * WAKES
    assert report["complaints"] == 0
    assert_all_are_stored(stack, database, report, devices * WAKES * PICTURES)


def a_worker(stack: dict[str, str], directory: Path, number: int) -> AbstractContextManager[Worker]:
    return worker(
        stack,
        directory,
        MQTT_CLIENT_ID=f"worker-{number}",
        REGISTRATIONS_PER_MINUTE="1000",
        IMAGE_SILENCE="1",
    )


def complete(database: Database) -> int:
    row = database.execute("select count(*) from public.device_images where status = 'complete'").fetchone()
    assert row is not None
    return int(str(row[0]))


def assert_all_are_stored(
    stack: dict[str, str], database: Database, report: dict[str, Any], expected: int
) -> None:
    """Each picture has one row, complete, and its file is byte for byte what its device sent."""
    rows = database.execute(
        "select d.device_mac, i.image_name, i.status, i.sha256, i.storage_path,"
        " (select count(*) from public.device_telemetry t where t.image_id = i.image_id)"
        " from public.device_images i join public.devices d using (device_id)"
    ).fetchall()
    assert [row for row in rows if row[2] != "complete"] == []
    assert {row[5] for row in rows} == {1}
    sent = {
        (device["device_id"], picture["name"]): picture["sha256"]
        for device in report["devices"]
        for picture in device["pictures"]
    }
    # A device that only counts its pictures takes a new one when a second worker asks for one more.
    assert len(sent) >= expected
    assert {(row[0], row[1]): row[3] for row in rows} == sent
    key = stack["SUPABASE_SERVICE_ROLE_KEY"]
    with httpx.Client(headers={"apikey": key, "Authorization": f"Bearer {key}"}) as client:
        for row in rows:
            url = f"{stack['SUPABASE_URL']}/storage/v1/object/authenticated/device-images/{row[4]}"
            stored = client.get(url).raise_for_status().content
            assert hashlib.sha256(stored).hexdigest() == row[3]
