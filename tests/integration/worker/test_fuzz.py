"""A flood of random messages: the worker stays healthy, its memory flat, and the next device is served."""

import asyncio
import base64
import gc
import json
import logging
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mqtt_service.adapters.mqtt.messages import InboundMessage
from mqtt_service.devstack.stack import running_stack
from mqtt_service.metrics import REGISTRY
from mqtt_service.service import Worker
from tests.faults.bench.drills import drill
from tests.integration.worker.harness import eventually, rows, running_worker, wire

MESSAGES = drill(8_000, 100_000)
AT_ONCE = 500
SEED = 20251124
PAGE = os.sysconf("SC_PAGE_SIZE")

# What a device may say, to be broken in every way.
SAID: list[tuple[str, dict[str, Any]]] = [
    ("status", {"device_id": "x", "status": "alive", "pendingImg": 2, "pending_list": ["a.jpg", "b.jpg"]}),
    ("ack", {"device_id": "x", "command_ack": {"type": "reboot", "status": "success", "message": "ok"}}),
    ("ack", {"device_id": "x", "image_name": "a.jpg", "ACK_OK": {"next_wake_time": "5:30PM"}}),
    ("data", {"image_name": "a.jpg", "image_size": 900, "total_chunks_count": 3, "sensor_data": {"t": 1}}),
    ("data", {"image_name": "a.jpg", "chunk_id": 1, "payload": base64.b64encode(b"x" * 300).decode()}),
]
ODD: list[Any] = [
    None, True, -1, 0, 1e308, 2**70, "", "a" * 10_000, "../../etc/passwd", "\x00", "\ud800", [], {}, [[[]]],
    {"a": {"b": 1}}, "NaN", "alive", "a.jpg", list(range(300)), "1970-01-01T00:00:00Z",
]  # fmt: skip


def random_message(rng: Random) -> InboundMessage:
    """Anything: noise, or what a device may say with its keys, values, bytes or topic spoilt."""
    channel, document = rng.choice(SAID)
    root = rng.choice(("device", "ESP32CAM"))
    device = rng.choice(["fuzz-1", "AA:BB:CC:DD:EE:FF", "é", "", "+", "a" * 300, f"flood-{rng.random()}"])
    spoilt = dict(document)
    for _ in range(rng.randint(0, 3)):
        spoilt[rng.choice([*spoilt, "device_id", "captured_at", "chunk_id", "battery_voltage"])] = rng.choice(
            ODD
        )
    payload = json.dumps(spoilt).encode(errors="surrogatepass")
    match rng.randrange(6):
        case 0:
            payload = rng.randbytes(rng.randint(0, 300))
        case 1:
            payload = payload[: rng.randint(0, len(payload))]
        case 2 if payload:
            position = rng.randrange(len(payload))
            payload = payload[:position] + rng.randbytes(1) + payload[position + 1 :]
    return InboundMessage(f"{root}/{device}/{channel}", payload, qos=1, duplicate=rng.random() < 0.1)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def dropped() -> float:
    return REGISTRY.get_sample_value("mqtt_service_dropped_messages_total", {"reason": "malformed"}) or 0.0


async def flood(worker: Worker, rng: Random, count: int) -> None:
    for _ in range(count // AT_ONCE):
        await asyncio.gather(*(worker.inbound.handle(random_message(rng)) for _ in range(AT_ONCE)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
async def test_a_flood_of_random_messages_leaves_the_worker_healthy_and_its_memory_flat(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = Random(SEED)
    caplog.set_level(logging.CRITICAL, "mqtt_service")  # for this test alone
    async with running_stack(data_dir=None) as stack, rows(stack) as database:
        async with running_worker(stack, image_silence=0.2, visit_max_age=5) as worker, wire(stack) as side:
            before = dropped()
            await flood(worker, rng, MESSAGES // 2)
            half = resident_bytes()
            await flood(worker, rng, MESSAGES // 2)
            grown = resident_bytes() - half
            assert dropped() - before > MESSAGES / 10
            assert grown < 30_000_000, f"{grown / 1e6:.0f} MB more after the second half"

            await eventually(lambda: not worker.visits.find("fuzz-1"), "the end of all visits", 60)
            assert worker.pictures.unfinished("fuzz-1") == []
            side.say("device/AA:BB:CC:DD:EE:FF/status", {"status": "alive"})
            await eventually(
                lambda: any("next_wake" in told for told in side.heard_on("device/AA:BB:CC:DD:EE:FF/cmd")),
                "an answer to a HELLO",
            )
            assert worker.snapshot().ready
        count = await database.one(
            "select count(*) as n from public.devices where device_mac like %s", "flood-%"
        )
        assert count["n"] <= 60 * 5  # REGISTRATIONS_PER_MINUTE held
