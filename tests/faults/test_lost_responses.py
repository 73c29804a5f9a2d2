"""Every call that the worker makes, when its answer does not come: what was done is not done twice."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest

from mqtt_service.adapters import supabase
from mqtt_service.devstack.faults import RestFault, RestKind
from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.device import DeviceOptions, SimulatedDevice
from mqtt_service.simulator.wake import SleepOptions
from tests.faults.bench.drills import drill
from tests.faults.bench.fleet import HOST, Fleet
from tests.faults.bench.https_front import https_front
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import SITE, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLAIM = "rpc/fn_claim_commands"
# Made once for each connection to the broker, and not tried again before the next.
ANNOUNCE = "rpc/fn_announce_worker"
RING = "rpc/fn_ring_workers"
# Each call, and what the log says when it fails.
CALLS = {
    CLAIM: r"\[CommandQueue\] .*; next poll in",
    "rpc/fn_settle_commands": r"\[CommandQueue\] .*; \d+ waiting, next try in",
    "rpc/fn_acknowledge_commands": r"\[ACK\] .*; \d+ waiting, next try in",
    "rpc/fn_mqtt_service_schema": r"\[SERVICE\] The project's tables are looked at later: .*; next try in",
    "rpc/fn_set_wake_spread": r"\[SERVICE\] The project's tables are looked at later: .*; next try in",
    "rpc/fn_set_queue_rules": r"\[SERVICE\] The project's tables are looked at later: .*; next try in",
    "rpc/fn_inspect_project": r"\[SERVICE\] The project's tables are looked at later: .*; next try in",
    "rpc/fn_queue_welcome_commands": r"\[PROVISIONING\] Welcomes wait: .*; next try in",
    "rpc/fn_record_heartbeats": r"\[HELLO\] .*; \d+ waiting, next try in",
    ANNOUNCE: r"\[MQTT\] Whether another process has our client id is not known: ",
    RING: r"\[REALTIME\] The database (cannot be asked to ring: |has not rung)",
    "rpc/fn_record_lone_readings": r"\[TELEMETRY\] .*; \d+ waiting, next try in",
    "rpc/fn_record_replies": r"\[REPLY\] .*; \d+ waiting, next try in",
    "rpc/fn_take_over_visits": r"\[VISIT\] .*; devices that are awake wait, next try in",
    "rpc/fn_renew_visits": r"\[VISIT\] .*; devices that are awake wait, next try in",
    "rpc/fn_end_visits": r"\[VISIT\] .*; devices that are awake wait, next try in",
    "rpc/fn_record_images": r"\[IMAGE\] .*; \d+ waiting, next try in",
    "rpc/fn_settle_images": r"\[IMAGE\] .*; \d+ waiting, next try in",
    "storage/v1/object/device-images": r"\[IMAGE\] .*; next try in",
}
# A person makes these, and makes them again.
BY_HAND = {
    "fn_find_devices_with_incomplete_lineage",
    "fn_initialize_device_after_mapping",
    "fn_calculate_next_wake",
    "fn_fleet_overview",
    "fn_preview_target",
    "fn_cancel_commands",
    "fn_explain_command",
    "fn_set_desired_config",
    "fn_examine_project",
}
# Made again by a clock of their own, whatever came of them: see test_retention, test_alerts, test_measures.
PERIODIC = {
    "fn_remove_old_rows",
    "fn_list_old_images",
    "fn_remove_images",
    "fn_sweep_own_tables",
    "fn_measure_queue",
    "fn_watch_for_alerts",
    "fn_note_alerts_told",
}
# Beyond the test's patience: what comes, comes neither by a lease that ran out nor by the usual poll.
_NEVER = {"LEASE_DURATION": "300", "POLL_INTERVAL": "120"}
_PATIENCE = drill(40.0, 110.0)


@dataclass(frozen=True)
class Cast:
    """The devices of one run: some get commands, one is mapped, one wakes with a picture and a command.

    `measures` is the name of one that sends readings alone.
    """

    commanded: list[UUID]
    measures: str
    mapped: UUID
    camera: SimulatedDevice
    camera_id: UUID


async def _cast(bench: Bench) -> Cast:
    rows = await bench.database.add_active_devices(4)
    fresh = await bench.database.one(
        "insert into public.devices (device_mac, device_code)"
        " values (upper(substr(md5(gen_random_uuid()::text), 1, 12)), 'TEST-' || gen_random_uuid())"
        " returning device_id"
    )
    camera = SimulatedDevice(
        DeviceOptions(
            rows[3]["device_mac"],
            camera=CameraOptions(picture_bytes=4000),
            sleeps=SleepOptions(linger=0.2, settle=20, patience=60),
        ),
        HOST,
        bench.broker.port,
        rng=Random(1),
    )
    commanded = [row["device_id"] for row in rows[:3]]
    return Cast(commanded, rows[0]["device_mac"], fresh["device_id"], camera, rows[3]["device_id"])


async def _play(bench: Bench, worker: WorkerProcess, cast: Cast, fleet: Fleet) -> None:
    """Have every call made: a mapping, commands, answers, readings, a HELLO that finds one, a picture."""
    database = bench.database
    fleet.say(f"device/{cast.measures}/data", {"temperature": 21.5})
    await database.all(
        "insert into public.device_site_assignments (device_id, site_id) values (%s, %s)", cast.mapped, SITE
    )
    await database.queue_each(cast.commanded, 3)
    missed = await database.queue(cast.camera_id, "update_config", {"n": 1})
    await worker.says(f"✅ Sent update_config .*{missed}", deadline=_PATIENCE)
    # It was asleep. The client that hears everything is why the broker did not say so.
    await database.all("update public.device_commands set no_listener = true where command_id = %s", missed)
    assert cast.camera.camera is not None
    cast.camera.camera.take()
    await cast.camera.wake()


async def _check(bench: Bench, cast: Cast, fleet: Fleet) -> None:
    """All is as if nothing had happened."""
    database = bench.database

    async def acknowledged() -> bool:
        return await database.statuses() == {"acknowledged": 11}  # 3 * 3, a welcome, and the camera's

    await eventually(acknowledged, "every command's acknowledgement", _PATIENCE)
    wake = await cast.camera.asleep(_PATIENCE)
    assert await database.count("retry_count > 0 or attempt <> 1 + redelivery_count") == 0
    assert await database.count("redelivery_count = 1 and device_id = %s", cast.camera_id) == 1
    assert await database.count("command_type = 'set_wake_schedule' and device_id = %s", cast.mapped) == 1
    assert fleet.repeats() == 1  # what was delivered again on wake
    assert all(numbers == sorted(numbers) for numbers in fleet.numbers().values())

    assert (wake.ended, wake.heartbeats, len(wake.sent), wake.acknowledged) == ("asleep", 1, 1, wake.sent)
    assert cast.camera.complaints == []
    types = [command.command_type for command in cast.camera.received]
    assert types == ["update_config", "send_image"]
    images = await database.all("select status from public.device_images")
    assert [image["status"] for image in images] == ["complete"]

    async def readings() -> bool:
        rows = await database.all(
            "select temperature::float from public.device_telemetry where image_id is null"
        )
        return [row["temperature"] for row in rows] == [21.5]

    await eventually(readings, "the readings, once", _PATIENCE)

    async def ended() -> bool:
        visits = await database.all("select ended_at from mqtt_private.visits")
        return [visit["ended_at"] is not None for visit in visits] == [True]

    await eventually(ended, "the end of the visit")


@asynccontextmanager
async def _played(
    bench: Bench, fail: Callable[[str], None], **settings: str
) -> AsyncIterator[tuple[WorkerProcess, Fleet, Cast]]:
    """A worker, while everything is played; `fail` is told each call that is to go wrong.

    Visits are adopted at its start alone. A claim is to fail when there is something to claim.
    """
    for call in CALLS.keys() - {CLAIM}:
        fail(call)
    cast = await _cast(bench)
    try:
        async with (
            bench.devices() as fleet,
            bench.worker("worker", ready=False, **_NEVER, **settings) as worker,
        ):
            fleet.leave_to_themselves(cast.camera.options.device_id)
            await worker.becomes("healthy")
            fail(CLAIM)
            await _play(bench, worker, cast, fleet)
            yield worker, fleet, cast
    finally:
        await cast.camera.close()


async def _converged(
    bench: Bench, worker: WorkerProcess, fleet: Fleet, cast: Cast, all_met: Callable[[], Any]
) -> None:
    await _check(bench, cast, fleet)
    await eventually(all_met, "each call's fault")
    for call, line in CALLS.items():
        assert worker.said(line), call
    assert not worker.said("Traceback|settled elsewhere")
    await worker.becomes("healthy")


def _times(call: str) -> int:
    """How often a call fails in a row."""
    return 1 if call in {ANNOUNCE, RING} else drill(1, 4)


async def test_no_call_is_left_out() -> None:
    """But for those that a person or a clock makes again."""
    modules = Path(supabase.__file__).parent.glob("*.py")
    made = {name for path in modules for name in re.findall(r'"(fn_\w+)"', path.read_text(encoding="utf-8"))}
    played = {call.removeprefix("rpc/") for call in CALLS if call.startswith("rpc/")}
    assert played == made - BY_HAND - PERIODIC
    assert made >= BY_HAND | PERIODIC


@pytest.mark.parametrize("kind", ["lose_response", "status", "hang"])
async def test_an_answer_that_does_not_come_costs_time_and_nothing_else(bench: Bench, kind: RestKind) -> None:
    """Take out any of these, and a kind fails:

    - what a claim hands out again (answer '{}' in fn_find_unseen_commands): a lost claim waits for its lease;
    - the early retry in CommandQueueProcessor._pause_after_failure: it waits for the poll;
    - the refs of acknowledgements and HELLOs, the row's identity in fn_record_images;
    - `retry_forever` in Batcher.
    """

    def fail(call: str) -> None:
        bench.stack.faults.add_rest(RestFault(call, kind, status=503, times=_times(call)))

    async with _played(bench, fail, SUPABASE_TIMEOUT="0.5") as (worker, fleet, cast):
        await _converged(bench, worker, fleet, cast, lambda: bench.stack.faults.rest == [])


async def test_a_connection_that_ends_under_way_costs_time_and_nothing_else(bench: Bench) -> None:
    """Take out from_network_error in DatabaseFunctions._execute: the parts end instead of trying again."""
    async with https_front(bench.stack.url, bench.directory) as front:
        trust = {"SUPABASE_URL": front.url, "SSL_CERT_FILE": str(front.ca_file)}
        async with _played(bench, lambda call: front.break_off(call, times=_times(call)), **trust) as (
            worker,
            fleet,
            cast,
        ):
            await _converged(bench, worker, fleet, cast, lambda: front.left == [])
            assert front.calls > len(CALLS)


async def test_a_call_without_an_answer_ends_though_others_are_answered(bench: Bench) -> None:
    """Take out `http2=False` in transport.connect: there, the answer to any call is a sign of life for all.

    The poll alone would keep such a call waiting for ever.
    """
    async with https_front(bench.stack.url, bench.directory) as front:
        trust = {"SUPABASE_URL": front.url, "SSL_CERT_FILE": str(front.ca_file)}
        settings = {"SUPABASE_TIMEOUT": "1", "POLL_INTERVAL": "0.2", "LEASE_DURATION": "300"}
        async with bench.devices(), bench.worker("worker", ready=False, **trust, **settings) as worker:
            await worker.becomes("healthy")
            front.leave_unanswered("rpc/fn_settle_commands")
            (device,) = await bench.database.add_active_devices(1)
            command = await bench.database.queue(device["device_id"], "reboot")
            await worker.says(CALLS["rpc/fn_settle_commands"])
            await bench.database.becomes(command, "acknowledged")
            assert front.left == []
            assert front.protocols == {None, "http/1.1"}  # the WebSocket names none
