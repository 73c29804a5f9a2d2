"""A fleet of simulated devices against a small service of the test's own."""

import asyncio
import hashlib
import json
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mqtt_service.devstack.broker import Broker
from mqtt_service.simulator.access import Access
from mqtt_service.simulator.fleet import Fleet
from mqtt_service.simulator.fleet_options import FleetOptions
from mqtt_service.simulator.incoming import device_key
from mqtt_service.simulator.simulate import default_ids
from tests.integration.simulator.fleet_harness import Attendant
from tests.started import run, start

SMALL = FleetOptions(
    tuple(default_ids(12)), wakes=2, pictures=2, picture_bytes=3000, chunk_bytes=100, sleep=0.1, settle=2.0
)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker("auto", 0, tmp_path) as broker:
        yield broker


def fleet_on(broker: Broker, options: FleetOptions) -> Fleet:
    return Fleet(options, broker.host, broker.port, Access())


async def test_every_picture_arrives_byte_for_byte_over_a_bad_network(broker: Broker) -> None:
    fleet = fleet_on(broker, replace(SMALL, loss=0.1, duplicates=0.05, shuffle=True))
    async with Attendant(broker.host, broker.port) as attendant:
        await fleet.run()
    document = fleet.report().document()
    sent = {
        (device_key(device["device_id"]), picture["name"]): picture["sha256"]
        for device in document["devices"]
        for picture in device["pictures"]
    }
    assert len(sent) == 48
    assert {key: hashlib.sha256(data).hexdigest() for key, data in attendant.stored.items()} == sent
    assert (document["asleep"], document["wakes"], document["failed"]) == (12, 24, False)
    assert (document["complaints"], document["answered"]) == (0, document["heartbeats"])


async def test_the_same_seed_takes_the_same_pictures(broker: Broker) -> None:
    runs = []
    for _ in range(2):
        fleet = fleet_on(broker, replace(SMALL, device_ids=("one", "two"), seed=7))
        async with Attendant(broker.host, broker.port) as attendant:
            await fleet.run()
        runs.append(attendant.stored)
    assert len(runs[0]) == 8
    assert runs[0] == runs[1]


async def test_a_device_that_nobody_answers_hangs_and_wakes_no_more(broker: Broker) -> None:
    fleet = fleet_on(broker, replace(SMALL, device_ids=("one",), patience=0.3))
    async with Attendant(broker.host, broker.port, mute=True) as attendant:
        await fleet.run()
    report = fleet.report()
    document = report.document()
    assert (document["hung"], document["wakes"], document["failed"]) == (1, 1, True)
    assert "one  hung awake: it waited in vain for any answer" in list(report.lines())
    assert attendant.heartbeats == 1


async def test_a_picture_that_was_not_taken_is_offered_at_one_more_wake(broker: Broker) -> None:
    fleet = fleet_on(broker, replace(SMALL, device_ids=("one",), wakes=1, settle=0.3))
    async with Attendant(broker.host, broker.port, refused=("image_002.jpg",)) as attendant:
        await fleet.run()
    document = fleet.report().document()
    assert (document["wakes"], document["pending"], document["failed"]) == (2, 0, False)
    assert len(attendant.stored) == 2


async def test_a_picture_that_is_never_acknowledged_is_a_failure(broker: Broker) -> None:
    fleet = fleet_on(broker, replace(SMALL, device_ids=("one",), wakes=1, settle=0.3, extra_wakes=0))
    async with Attendant(broker.host, broker.port, refused=("image_002.jpg",)):
        await fleet.run()
    document = fleet.report().document()
    assert (document["asleep"], document["pending"], document["failed"]) == (1, 1, True)


async def test_devices_wake_once_the_broker_is_back(broker: Broker) -> None:
    fleet = fleet_on(broker, replace(SMALL, device_ids=("one", "two"), wakes=3, sleep=0.5))
    async with Attendant(broker.host, broker.port) as attendant:
        running = asyncio.create_task(fleet.run())
        await attendant.hears_a_heartbeat()
        await broker.restart()
        await running
    document = fleet.report().document()
    assert (document["asleep"], document["pending"], document["failed"]) == (2, 0, False)


async def outcome(*arguments: str, **env: str) -> tuple[int, str, str]:
    """The exit status of `mqtt-service simulate`, and what it wrote."""
    with TemporaryDirectory() as directory:
        done = await asyncio.to_thread(
            run, ["simulate", *arguments], {"COLUMNS": "200", **env}, Path(directory), timeout=60
        )
    return done.returncode, done.stdout, done.stderr


QUICK_FLEET = ("--devices", "3", "--pictures", "1", "--picture-bytes", "2000", "--sleep", "0.1")


async def test_the_command_line_prints_a_summary(broker: Broker) -> None:
    async with Attendant(broker.host, broker.port):
        status, out, _ = await outcome(*QUICK_FLEET, "--port", str(broker.port), "--wakes", "2")
    assert status == 0
    assert "3 devices, 6 wakes in" in out
    # A picture that is asked for while it is confirmed is sent once more.
    assert re.search(r"\d+ sent, 6 acknowledged, 0 left on cards", out), out


async def test_the_command_line_prints_one_json_object(broker: Broker) -> None:
    env = {"MQTT_HOST": broker.host, "MQTT_PORT": str(broker.port)}
    async with Attendant(broker.host, broker.port):
        status, out, _ = await outcome(*QUICK_FLEET, "--json", **env)
    document: dict[str, Any] = json.loads(out)
    assert status == 0
    assert document["acknowledged"] == 3
    assert [len(device["pictures"]) for device in document["devices"]] == [1, 1, 1]


async def test_a_hung_device_is_status_1_and_named(broker: Broker) -> None:
    arguments = ("one", "--wakes", "1", "--patience", "0.3", "--port", str(broker.port))
    status, out, _ = await outcome(*arguments)
    assert status == 1
    assert "1 hung" in out
    assert "one  hung awake" in out


async def test_a_fleet_without_a_broker_says_so_in_one_line(tmp_path: Path) -> None:
    async with Broker("auto", 0, tmp_path) as broker:
        port = broker.port
    status, out, err = await outcome("--wakes", "1", "--port", str(port))
    assert (status, out) == (1, "")
    assert err.startswith("mqtt-service: ")
    assert f"127.0.0.1:{port}" in err
    assert err.count("\n") == 1


async def test_an_endless_fleet_sums_up_when_it_is_interrupted(broker: Broker, tmp_path: Path) -> None:
    output, errors = tmp_path / "output", tmp_path / "errors"
    arguments = ("simulate", "--wakes", "0", "--port", str(broker.port))
    async with Attendant(broker.host, broker.port) as attendant:
        process = start(arguments, {"COLUMNS": "200"}, tmp_path, output, errors=errors)
        try:
            await attendant.hears_a_heartbeat()
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 60) == 0
        finally:
            process.kill()
    assert errors.read_text() == ""
    assert "1 devices, 1 wakes in" in output.read_text()
