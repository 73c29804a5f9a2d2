"""Rows and messages that cannot be handled: each fails alone, with the reason in its row or the log.

Rows that the database refuses to take are put in behind its back, as an adopted project may hold them.
"""

import json
from typing import Any

import pytest

from tests.faults.bench.drills import report
from tests.faults.bench.rig import Bench
from tests.integration.worker.harness import Rows, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEEP = '{"a":' * 2000 + "1" + "}" * 2000
# What the row says in the end, of a command of this type with this payload (JSON).
PAYLOADS = {
    "no picture is named": ("send_image", "{}", "not sent: send_image needs command_payload.image_name"),
    "a name that is no text": ("send_image", '{"image_name": 7}', "not sent: send_image needs"),
    "an array": ("update_config", "[1, 2]", "command_payload is not an object"),
    "no JSON object": ("reboot", "null", "command_payload is not an object"),
    "no wake time": ("set_wake_schedule", "{}", "set_wake_schedule names no time"),
    "a schedule of nonsense": (
        "set_wake_schedule",
        '{"wake_schedule_cron": "whenever"}',
        "set_wake_schedule cannot be worked out: ",
    ),
    "plain http": ("update_firmware", '{"firmware_url": "http://x/y"}', "not sent: update_firmware needs"),
    "nested 2,000 deep": ("update_config", DEEP, "command_payload is nested deeper than 32"),
    "a number of 5,000 digits": (
        "update_config",
        '{"n": %s}' % ("7" * 5000),
        "command_payload holds a number",
    ),
    "200 kB": ("update_config", json.dumps({"x": "y" * 200_000}), "more than 131072"),
    "10 MB": ("update_config", json.dumps({"x": "y" * 10_000_000}), "more than 131072"),
}
# ... and of one for a device with this id.
DEVICES = {
    "a+b": "the device's MQTT id 'a+b' contains one of + # /",
    "a#b": "the device's MQTT id 'a#b' contains one of + # /",
    "a/b": "the device's MQTT id 'a/b' contains one of + # /",
    "a\x01b": "contains a character that no topic may carry",
    "a\uffffb": "contains a character that no topic may carry",
    "x" * 300: "is longer than 256 characters",
}
TEN_MB = b'{"command_ack": "ok", "x": "' + b"y" * 10_000_000 + b'"}'
MESSAGES = {
    "10 MB": (TEN_MB, r"the message is 100000\d\d bytes, the limit is 65536"),
    "no JSON": (b"\xff\xfe\x00", "the message is not a JSON object"),
    "cut off": (b'{"command_ack": "ok"', "may have lost its command_id"),
    "a NUL": (b'{"command_ack": "fai\x00ok"}', "has a NUL within"),
    # Python's parser gives up at a depth that differs by version; ours reads no deeper than 32.
    "2,000 deep": (
        b'{"command_ack": ' + DEEP.encode() + b"}",
        "the message is nested deeper than 32|cannot be read to its end",
    ),
    "no answer": (b'{"command_ack": "perhaps"}', "means neither done nor failed"),
}


async def put_in(database: Rows, device: object, kind: str, payload: str) -> Any:
    """Insert a command that the table's guards would refuse; they are not asked."""
    command = await database.queue(device, "reboot")  # type: ignore[arg-type]  # a device's id
    await database.all("set session_replication_role = replica")
    await database.all(
        "update public.device_commands set command_type = %s, command_payload = %s where command_id = %s",
        kind, payload, command,
    )  # fmt: skip
    await database.all("set session_replication_role = origin")
    return command


async def fails(database: Rows, command: Any, reason: str) -> None:
    """Wait until the command has failed for good; its payload is not looked at."""

    async def look() -> dict[str, Any] | None:
        row = await database.one(
            "select status, last_error, due_at, attempt from public.device_commands where command_id = %s",
            command,
        )
        return row if row["status"] == "failed" else None

    row = await eventually(look, f"the failure of the command that is to say {reason!r}", 40)
    assert reason in row["last_error"]
    assert row["due_at"] is None, "it is tried again, though nothing can help"
    assert row["attempt"] == 1


async def test_rows_that_cannot_be_sent_fail_alone_and_the_rest_flow(bench: Bench) -> None:
    """Fails without fn_problem_of_payload in fn_hand_out_commands (no claim gets through with what
    is deep, long or large among its rows), without `UnreadableCommand`, or without the checks of protocol/.
    """
    database = bench.database
    devices = await database.add_active_devices(len(PAYLOADS) + len(DEVICES))
    commands: dict[Any, str] = {}
    healthy = []
    for device, (kind, payload, reason) in zip(devices, PAYLOADS.values(), strict=False):
        commands[await put_in(database, device["device_id"], kind, payload)] = reason
        healthy.append(await database.queue(device["device_id"], "capture_image"))
    for device, (mac, reason) in zip(devices[len(PAYLOADS) :], DEVICES.items(), strict=True):
        await database.all(
            "update public.devices set device_mac = %s, mqtt_id = null where device_id = %s",
            mac, device["device_id"],
        )  # fmt: skip
        commands[await database.queue(device["device_id"], "reboot")] = reason
    async with bench.devices() as fleet, bench.worker() as worker:
        for command, reason in commands.items():
            await fails(database, command, reason)
            await worker.says(str(command))
        for command in healthy:
            await database.becomes(command, "acknowledged")
        assert not worker.said("Traceback")
        assert (await worker.health())["status"] == "healthy"
        assert {message.body.get("capture_image") for message in fleet.heard} == {True}


async def test_an_answer_that_a_trigger_of_the_project_refuses_keeps_no_other(bench: Bench) -> None:
    """Fails where api_errors.py takes such a code for a fault of the project: all answers wait then."""
    database = bench.database
    good, bad = [row["device_id"] for row in await database.add_active_devices(2)]
    await database.all(
        f"""
        create or replace function public.refuse() returns trigger language plpgsql as $$
        begin
          if new.status = 'acknowledged' and new.device_id = '{bad}' then
            raise exception 'not this one' using errcode = 'AB123';
          end if;
          return new;
        end $$"""
    )
    await database.all(
        "create trigger refuse before update on public.device_commands for each row execute function refuse()"
    )
    try:
        async with bench.devices(), bench.worker() as worker:
            commands = [await database.queue(device, "reboot") for device in (bad, good) for _ in range(2)]
            for command in commands[2:]:
                await database.becomes(command, "acknowledged")
            await worker.says(r"\[CommandQueue\] Answer not used: .*not this one \(AB123\)", times=2)
            for command in commands[:2]:
                await database.becomes(command, "sent")
            assert (await worker.health())["status"] == "healthy"
    finally:
        await database.all("drop trigger refuse on public.device_commands")


async def test_twenty_rows_of_10_mb_stop_no_claim(bench: Bench) -> None:
    """Fails where the claim hands such rows out: its answer takes longer than a worker waits, each time."""
    database = bench.database
    devices = await database.add_active_devices(20)
    huge = json.dumps({"x": "y" * 10_000_000})
    commands = [await put_in(database, device["device_id"], "update_config", huge) for device in devices]
    async with bench.devices(), bench.worker():
        for command in commands:
            await fails(database, command, "more than 131072")
        last = await database.queue(devices[0]["device_id"], "reboot")
        await database.becomes(last, "acknowledged")


async def test_messages_that_cannot_be_read_are_dropped_and_the_rest_are_heard(bench: Bench) -> None:
    """Fails without the bounds of protocol/wire_json.py."""
    (device,) = await bench.database.add_active_devices(1)
    topic = f"device/{device['device_mac']}"
    async with bench.devices(answering=False) as fleet, bench.worker() as worker:
        command = await bench.database.queue(device["device_id"], "reboot")
        await bench.database.becomes(command, "sent")
        for what, (payload, line) in MESSAGES.items():
            fleet.say(f"{topic}/ack", payload)
            await worker.says(rf"Dropped .*(?:{line})")
            report(message=what, line=worker.said(line)[-1][:200])
        fleet.say(f"{topic}/data", TEN_MB)
        fleet.say(f"{topic}/status", TEN_MB)
        fleet.say(f"{topic}/ack", {"command_ack": "ok"})
        await bench.database.becomes(command, "acknowledged")
        assert not worker.said("Traceback")
        await eventually(worker.health, "health")
