"""A site at eight o'clock: all its devices wake within a second, each with commands due and a picture.

The commands were published while the devices slept, so their HELLOs make them due again. A bare paho
subscriber takes in the same messages in the same run, published as fast as bare paho does.
"""

import json
from collections.abc import Iterator
from itertools import zip_longest
from random import Random

from mqtt_service.bench.bare_paho import Message
from mqtt_service.bench.herd_devices import HerdOutcome, device_id, picture_of
from mqtt_service.bench.processes import eventually
from mqtt_service.bench.report import Measure, percentile
from mqtt_service.bench.rig import Rig
from mqtt_service.simulator.outgoing import acknowledgement, heartbeat_document
from mqtt_service.simulator.pictures import PictureFormat, chunk_document, chunk_ids, metadata_document

_COMMANDS_EACH = 2
_TOPICS = ("device/+/status", "device/+/ack", "ESP32CAM/+/data")
_ALLOWED_ANSWER = 2.0
_MOST_TIMES_BARE = 3.0
# The default of IMAGE_BUFFER_BYTES: what unfinished pictures may hold.
_MEMORY_BOUND = 128 * 1024 * 1024

_QUEUE = """
insert into public.device_commands (device_id, command_type, command_payload)
select d.device_id, c.command_type, c.command_payload
from public.devices d, (values ('ping', '{}'::jsonb), ('update_config', '{"interval": 60}'))
    as c (command_type, command_payload)
where d.device_code = any (array(select 'BENCH-' || n from generate_series(1, %s) n))
"""


async def measure_herd(rig: Rig, devices: int) -> list[Measure]:
    """What a herd of so many devices gets, and how long that takes."""
    bare = await _bare_seconds(rig, list(_messages(devices)))
    await rig.clear()
    async with rig.worker() as worker:
        await worker.ready()
        await rig.all(_QUEUE, devices)
        await eventually(lambda: _all(rig, "sent", devices), "the herd's commands published")
        idle = worker.peak_memory()
        outcome = await rig.wake_herd(devices)
        peak = worker.peak_memory()
        acknowledged = await _acknowledged(rig)
    await rig.clear()
    whole = await _whole_pictures(rig, outcome)
    return [
        _answers(outcome, devices),
        _kept(devices, acknowledged, whole, outcome),
        _time(outcome, bare),
        Measure(
            "herd: worker's peak memory over idle / IMAGE_BUFFER_BYTES",
            [(peak - idle) / _MEMORY_BOUND],
            "lower",
            1.0,
            {"peak_bytes": peak, "idle_bytes": idle},
        ),
    ]


def _answers(outcome: HerdOutcome, devices: int) -> Measure:
    unanswered = [float("inf")] * (devices - len(outcome.answers))
    answers = [*outcome.answers, *unanswered]
    figures = {f"p{share}_ms": percentile(answers, share / 100) * 1000 for share in (50, 95, 99)}
    figures["slowest_ms"] = max(answers) * 1000
    return Measure(
        f"herd: first answer to a HELLO, p99 / {_ALLOWED_ANSWER:.0f} s",
        [percentile(answers, 0.99) / _ALLOWED_ANSWER],
        "lower",
        1.0,
        figures,
    )


def _kept(devices: int, acknowledged: int, whole: int, outcome: HerdOutcome) -> Measure:
    expected = devices * _COMMANDS_EACH + devices
    return Measure(
        "herd: commands acknowledged and pictures whole / all",
        [(acknowledged + whole) / expected],
        "higher",
        1.0,
        {
            "devices": devices,
            "commands_acknowledged": acknowledged,
            "pictures_whole": whole,
            "hung": outcome.hung,
            "complaints": len(outcome.complaints),
        },
    )


def _time(outcome: HerdOutcome, bare: float) -> Measure:
    seconds = outcome.last_ack_ok - outcome.began
    return Measure(
        "herd: last ACK_OK / bare paho subscriber",
        [seconds / bare],
        "lower",
        _MOST_TIMES_BARE,
        {"seconds": seconds, "paho_seconds": bare},
    )


async def _bare_seconds(rig: Rig, messages: list[Message]) -> float:
    with rig.listener(*_TOPICS) as listener:

        async def all_heard() -> bool:
            return len(listener.heard) >= len(messages)

        spent = await rig.publish(messages)
        await eventually(all_heard, "the herd's messages at a bare subscriber")
        return listener.heard[-1][0] - spent.began


def _messages(devices: int) -> Iterator[Message]:
    """What a herd says: the first message of each device, the second of each, and so on."""
    said = [_said_by(number) for number in range(1, devices + 1)]
    for each in zip_longest(*said):
        yield from (message for message in each if message is not None)


def _said_by(number: int) -> Iterator[Message]:
    device, form = device_id(number), PictureFormat()
    picture = picture_of(number)
    status, ack, data = (topic.replace("+", device) for topic in _TOPICS)
    hello = heartbeat_document(device, "spec", 1, [picture.name], Random(number))  # noqa: S311 - a simulation, nothing secret
    yield Message(status, json.dumps(hello))
    for command_type in ("ping", "update_config"):
        answer = acknowledgement(device, "by_id", command_type, "0" * 36, "success")
        yield Message(ack, json.dumps(answer))
    yield Message(data, json.dumps(metadata_document(device, picture, form)))
    for chunk in chunk_ids(picture, form):
        yield Message(data, json.dumps(chunk_document(device, picture, chunk, form)))


async def _all(rig: Rig, status: str, devices: int) -> bool:
    query = "select count(*) from public.device_commands where status = %s"
    return bool(await rig.value(query, status) == devices * _COMMANDS_EACH)


async def _acknowledged(rig: Rig) -> int:
    query = "select count(*) from public.device_commands where status = 'acknowledged'"
    return int(await rig.value(query))


async def _whole_pictures(rig: Rig, outcome: HerdOutcome) -> int:
    """How many of the pictures that devices were told are stored are so, with the bytes that were sent."""
    rows = await rig.all(
        "select d.mqtt_id, i.sha256 from public.device_images i join public.devices d using (device_id)"
        " where i.status = 'complete'"
    )
    stored = {(row["mqtt_id"], row["sha256"]) for row in rows}
    return sum(tuple(picture) in stored for picture in outcome.pictures)
